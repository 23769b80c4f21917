"""Which path computes the update: the readable one or a fast one.

Room: core, kernels. The choice is made by itself; `use_kernels` is for tests and for benchmarks.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Literal

import torch
from torch import Tensor

Kernels = Literal["auto", "torch", "reference"]
_CHOICE: ContextVar[Kernels] = ContextVar("neurolora_kernels", default="auto")


@contextlib.contextmanager
def use_kernels(kernels: Kernels) -> Iterator[None]:
    """Inside, `"auto"` takes what is fastest, `"torch"` the fast paths without compiled kernels.

    `"reference"` computes every update by `core/update.py`.
    """
    token = _CHOICE.set(kernels)
    try:
        yield
    finally:
        _CHOICE.reset(token)


def compiled_allowed() -> bool:
    """Whether a fast path may use compiled kernels, where they run."""
    return _CHOICE.get() == "auto"


def fast_paths_apply(x: Tensor) -> bool:
    """Whether a fast path may compute an update of `x`.

    Not while torch.compile or torch.export trace (they fuse the readable path by themselves), nor under
    torch.func, nor for tensors that hold no values.
    """
    if torch.compiler.is_compiling() or _CHOICE.get() == "reference":
        return False
    return (
        not x.is_meta
        and type(x) in (Tensor, torch.nn.Parameter)
        and not torch._C._are_functorch_transforms_active()
    )
