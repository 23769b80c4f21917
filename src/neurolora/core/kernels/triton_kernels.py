"""The Triton kernels' launchers: the routed half in training, and all of it for a step of generation.

Room: core, kernels. Equal to `core/update.py`, the selection to the bit. Triton is imported by the first
launch, so that this file works without it; ask `triton_available` before. float32, bfloat16 and float16,
r at most 128. Nothing here waits for the device.
"""

from __future__ import annotations

import importlib.util
import os
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from neurolora.core.kernels.group import RouteSpec
from neurolora.errors import ConfigError, explain

MAX_RANK = 128
MAX_DECODE_TOKENS = 32
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_TILE = 1024  # entries of h for one program
_PROGRAMS, _MAX_SPLITS = 264, 16  # the product of a decode step: enough programs for a large GPU


def triton_available(device: torch.device | str) -> bool:
    """Whether the kernels run on `device`: CUDA with Triton, or a CPU under Triton's interpreter."""
    kind = torch.device(device).type
    runs = kind == "cuda" or (kind == "cpu" and os.environ.get("TRITON_INTERPRET") == "1")
    return runs and _importable()


def triton_supports(spec: RouteSpec) -> bool:
    """Whether the kernels can route a group: its dtypes, and r within what a program holds in registers."""
    return spec.dtype in _DTYPES and spec.compute in _DTYPES and spec.r <= MAX_RANK


def fused_route(
    h: Tensor, logits: Tensor | None, gamma: Tensor | None, beta: Tensor | None, bias: Tensor | None,
    spec: RouteSpec,
) -> tuple[Tensor, Tensor, Tensor | None]:  # fmt: skip
    """m = sigmoid(logits) * gamma + beta (Eq. 3), h' = h * m (Eq. 4) and its k active ranks (Eq. 5).

    h, logits (N, members * r), gamma, beta (members * r), bias (members, r), all of spec.dtype; rows may be
    slices of wider ones. Static gate: no logits and beta. No gate: no gamma either.
    Returns h' with exact zeros where not active (N, members, r), the mask bool (N, members, r), and m
    (N, members * r), for a static gate gamma, without a gate None.
    """
    m = gamma if logits is None else h.new_empty(h.shape)
    mask = h.new_empty((len(h), spec.members, spec.r), dtype=torch.bool)
    biases = None if bias is None else bias.contiguous()
    written = None if logits is None else m
    selected = _launch_route(h, logits, gamma, beta, biases, mask, written, spec, given=False)
    return selected, mask, m


def fused_selected(
    h: Tensor, logits: Tensor | None, gamma: Tensor | None, beta: Tensor | None, mask: Tensor, spec: RouteSpec
) -> Tensor:
    """The first output of `fused_route` (N, members, r) again, to the bit, from its inputs and the mask."""
    return _launch_route(h, logits, gamma, beta, None, mask, None, spec, given=True)


class RouteGradients(NamedTuple):
    """Of h (N, members * r), the logits (N, members * r) in spec.compute, gamma and beta (members * r)."""

    dh: Tensor
    dz: Tensor | None
    dgamma: Tensor | None
    dbeta: Tensor | None


def fused_route_backward(
    d: Tensor, h: Tensor, logits: Tensor | None, gamma: Tensor | None, beta: Tensor | None, mask: Tensor,
    spec: RouteSpec, *, out: Tensor | None = None,
) -> RouteGradients:  # fmt: skip
    """Gradients from d (N, members * r), that of `selected`: dh = d m, dm = d h, dz = dm gamma s (1 - s).

    d counts where the mask is True; s = sigmoid(logits); dgamma = sum of dm s (a static gate: of dm), dbeta =
    sum of dm, over tokens, in float32 and always in the same order. Other arguments as in `fused_route`; what
    a gate lacks has no gradient. out: where dh is written, (N, members * r), rows may be slices of wider.
    """
    d, h, logits = (_with_rows(t) for t in (d, h, logits))
    dh = h.new_empty(h.shape) if out is None else out
    dz = None if logits is None else h.new_empty(h.shape, dtype=spec.compute)
    R, rows, blocks = _tiles(len(h), spec)
    sums = None
    if gamma is not None:
        sums = h.new_empty((1 if logits is None else 2, blocks, spec.width), dtype=torch.float32)
    if len(h):
        device = _device()
        strides = (_stride(d), _stride(h), _stride(logits), _stride(dh))
        pointers = (d, h, logits, gamma, beta, _bytes(mask), dh, dz, sums)
        with _on(h):
            device.route_backward_kernel[blocks, spec.members](
                *pointers, len(h), *strides, _element(spec.dtype), spec.r, R, rows, enable_fp_fusion=False
            )
    if sums is None:
        return RouteGradients(dh, None, None, None)
    dgamma, *dbeta = sums.sum(1).to(spec.dtype)
    return RouteGradients(dh, dz, dgamma, dbeta[0] if dbeta else None)


@dataclass(frozen=True)
class DecodeRouted:
    """The active ranks of N tokens and h' there, best score first: int32 and spec.dtype (N, members, k)."""

    indices: Tensor
    values: Tensor


def decode_route(
    x: Tensor, P: Tensor, W2: Tensor | None, gamma: Tensor | None, beta: Tensor | None, bias: Tensor | None,
    spec: RouteSpec,
) -> DecodeRouted:  # fmt: skip
    """The routed half (Eqs. 2-5) of 1 to 32 tokens without gradient, for all modules of a group.

    x (N, d). P = [A of every member; every W1] as `stacked_projection` gives it, in spec.compute. W2
    (members * r, g), gamma, beta (members * r), bias (members, r), in spec.dtype; without them as in
    `fused_route`.
    """
    tokens, rows = len(x), P.shape[0]
    if not 1 <= tokens <= MAX_DECODE_TOKENS:
        found = f"there are {tokens}"
        raise ConfigError(explain("Routing a few tokens", found, f"Give 1 to {MAX_DECODE_TOKENS}."))
    partial = _split_product(_unit(x), _unit(P))
    shape = (tokens, spec.members, spec.top_k)
    indices, values = x.new_empty(shape, dtype=torch.int32), x.new_empty(shape, dtype=spec.dtype)
    g = 1 if W2 is None else W2.shape[1]
    W2, splits = _with_rows(W2), len(partial)
    biases = None if bias is None else bias.contiguous()
    with _on(x):
        _decode_device().decode_route_kernel[tokens, spec.members](
            partial, W2, gamma, beta, biases, indices, values, tokens, rows, splits, _stride(W2), spec.r, g,
            spec.top_k, spec.routing == "signed", spec.shares_w1, _element(spec.compute), _power(spec.r),
            min(64, _power(g)), _power(splits), enable_fp_fusion=False,
        )  # fmt: skip
    return DecodeRouted(indices, values)


def decode_add(result: Tensor, routed: DecodeRouted, member: int, Bt: Tensor, scaling: float) -> Tensor:
    """result += scaling * sum over active i of B[:, i] h'[i] (Eqs. 1, 6), in place, and returned.

    result (N, o) of any dtype, Bt (r, o): B transposed, both with adjacent columns. The sum is float32, and
    only the rows of the active ranks are read.
    """
    indices, values = routed.indices[:, member], routed.values[:, member]
    tokens, o = result.shape
    k, columns = values.shape[1], 128
    with _on(result):
        _decode_device().decode_add_kernel[tokens, -(-o // columns)](
            result, indices, values, Bt, float(scaling), o, _stride(result), _stride(values), _stride(Bt), k,
            min(16, _power(k)), columns,
        )  # fmt: skip
    return result


def _launch_route(
    h: Tensor, logits: Tensor | None, gamma: Tensor | None, beta: Tensor | None, bias: Tensor | None,
    mask: Tensor, m: Tensor | None, spec: RouteSpec, *, given: bool,
) -> Tensor:  # fmt: skip
    h, logits = _unit(h), _with_rows(logits)
    selected = h.new_empty((len(h), spec.members, spec.r), dtype=spec.dtype)
    R, rows, blocks = _tiles(len(h), spec)
    if len(h) == 0:
        return selected
    with _on(h):
        # no fusion: h * m must be rounded before the bias is added, as PyTorch does it
        _device().route_kernel[blocks, spec.members](
            h, logits, gamma, beta, bias, selected, _bytes(mask), m, len(h), _stride(h), _stride(logits),
            spec.r, spec.top_k, spec.routing == "signed", given, R, rows, enable_fp_fusion=False,
        )  # fmt: skip
    return selected


def _split_product(x: Tensor, P: Tensor) -> Tensor:
    """x P' as float32 (splits, N, rows of P), to be summed over the first; d is cut to fill the GPU."""
    (tokens, d), rows = x.shape, P.shape[0]
    block, columns = 32, 128 if P.element_size() == 2 else 64
    row_blocks, column_blocks = -(-rows // block), -(-d // columns)
    splits = max(1, min(_MAX_SPLITS, column_blocks, _PROGRAMS // row_blocks))
    chunk = -(-column_blocks // splits) * columns
    splits = -(-d // chunk)
    partial = x.new_empty((splits, tokens, rows), dtype=torch.float32)
    with _on(x):
        _decode_device().product_kernel[row_blocks, splits](
            x,
            P,
            partial,
            tokens,
            rows,
            d,
            _stride(x),
            _stride(P),
            chunk,
            max(16, _power(tokens)),
            block,
            columns,
        )
    return partial


def _tiles(tokens: int, spec: RouteSpec) -> tuple[int, int, int]:
    """Columns and rows of one program's tile, powers of two, and how many tiles the tokens need."""
    R = _power(spec.r)
    rows = max(1, _TILE // R)
    return R, rows, -(-tokens // rows)


def _power(size: int) -> int:
    """The least power of two that is not below `size`."""
    return 1 << (size - 1).bit_length()


def _unit(t: Tensor) -> Tensor:
    return t if t.stride(-1) == 1 else t.contiguous()


def _with_rows(t: Tensor | None) -> Any:
    return None if t is None else _unit(t)


def _stride(t: Tensor | None) -> int:
    return 0 if t is None else t.stride(0)


def _on(t: Tensor) -> AbstractContextManager[Any]:
    """Kernels are launched on the current GPU; inside, that is the tensor's."""
    return torch.cuda.device_of(t)  # type: ignore[no-untyped-call]


def _bytes(mask: Tensor) -> Tensor:
    return mask.view(torch.uint8)


def _element(dtype: torch.dtype) -> Any:
    """Triton's name for a dtype."""
    import triton.language as tl

    return {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}[dtype]


@cache
def _importable() -> bool:
    return importlib.util.find_spec("triton") is not None


def _device() -> ModuleType:
    from neurolora.core.kernels import triton_device

    return triton_device


def _decode_device() -> ModuleType:
    from neurolora.core.kernels import triton_decode_device

    return triton_decode_device
