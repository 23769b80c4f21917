"""A decode step by numba's loops on a CPU: one matrix product, and one call for all that follows it.

Room: core, kernels; made by `decode.py`. With so few numbers it is the calls that cost, not the arithmetic.
"""

from __future__ import annotations

import importlib.util
import warnings
from functools import cache
from types import ModuleType

import numpy as np
import torch
from torch import Tensor

from neurolora.core.kernels.group import RouteSpec
from neurolora.core.kernels.packing import DecodePack, PackedWeights
from neurolora.core.kernels.up_projection import add_selected

_INTEGERS = {torch.float32: np.int32, torch.float64: np.int64}
_NUMBERS = {torch.float32: np.float32, torch.float64: np.float64}
_FEW = 8  # tokens, for which reading k rows of B' is faster than a product with all of them


def numba_runs(spec: RouteSpec, device: torch.device) -> bool:
    """Whether a group's tokens can be decoded so: on a CPU, without autocast, numba installed and working."""
    fits = device.type == "cpu" and spec.dtype in _INTEGERS and spec.compute == spec.dtype
    return fits and _loops() is not None


class NumbaPack(DecodePack):
    """P lies as its product with so many rows is fastest: as it is for one, transposed for more.

    W2 (members, g, r), gamma, beta and bias (members, r), and every B transposed, as numpy's arrays.
    """

    def __init__(self, spec: RouteSpec, weights: PackedWeights, tokens: int) -> None:
        super().__init__(spec)
        self.P = weights.P.T if tokens == 1 else weights.P.T.contiguous()
        self.up, self.loops = [B.T.contiguous() for B in weights.up], _working_loops()
        rows = (spec.members, spec.r)
        self.gate = (
            torch.stack([W.T for W in weights.W2]).numpy() if weights.W2 else None,
            spec.shares_w1,
            None if weights.gamma is None else weights.gamma.view(rows).numpy(),
            None if weights.beta is None else weights.beta.view(rows).numpy(),
            None if weights.bias is None else weights.bias.numpy(),
            spec.routing == "signed",
            spec.top_k,
        )
        self.integer, self.number = np.zeros(1, _INTEGERS[spec.dtype]), _NUMBERS[spec.dtype]

    def route(self, x: Tensor) -> Tensor:
        """h'[S] (N, members, r), zeros where a rank is not active."""
        spec = self.spec
        product = x.to(spec.compute) @ self.P
        selected = product.new_empty((len(x), spec.members, spec.r))
        self.loops.route_tokens(product.numpy(), *self.gate, self.integer, selected.numpy())
        return selected

    def add(self, result: Tensor, routing: Tensor, member: int, scaling: float, *, in_place: bool) -> Tensor:
        """See `DecodePack.add`."""
        selected, Bt = routing[:, member], self.up[member]
        if not in_place or result.dtype != self.spec.dtype or len(selected) > _FEW:
            return add_selected(result, selected, Bt.T, scaling, in_place)
        flat = result.view(-1, result.shape[-1])
        self.loops.add_columns(flat.numpy(), selected.numpy(), Bt.numpy(), self.number(scaling))
        return result


def _working_loops() -> ModuleType:
    loops = _loops()
    assert loops is not None
    return loops


@cache
def _loops() -> ModuleType | None:
    """The compiled loops; None without numba, and with a warning where it cannot compile them."""
    if importlib.util.find_spec("numba") is None:
        return None
    try:
        from neurolora.core.kernels import numba_device

        keys, mask = np.array([1, 3, 2], np.int32), np.zeros(3, np.bool_)
        numba_device.mark_largest(keys, 1, mask)
        problem = "" if mask.tolist() == [False, True, False] else "it gives wrong values"
    except Exception as error:  # whatever a compiler or a folder that cannot be written may raise
        problem = f"{type(error).__name__}: {error}"
    if problem:
        warnings.warn(f"neurolora decodes without numba: {problem}", stacklevel=2)
        return None
    return numba_device
