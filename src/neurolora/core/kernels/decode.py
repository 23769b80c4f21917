"""The update of a few tokens without gradient, from weights that were put together once.

Room: core, kernels. While tokens are decoded one by one, putting P together would cost more than using it.
The tuner makes a pack at the first token and lets go of it when anything else runs (tuner/grouping.py).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from neurolora.core.kernels.choice import compiled_allowed
from neurolora.core.kernels.decode_numba import NumbaPack, numba_runs
from neurolora.core.kernels.decode_triton import TritonPack
from neurolora.core.kernels.fused import fused_applies
from neurolora.core.kernels.group import RouteSpec
from neurolora.core.kernels.packing import DecodePack, PackedWeights, packed_weights
from neurolora.core.kernels.selection import active_bits, fast_top_k_mask, keep_active
from neurolora.core.kernels.triton_kernels import MAX_DECODE_TOKENS
from neurolora.core.kernels.up_projection import add_selected

__all__ = ["MAX_DECODE_TOKENS", "DecodePack", "decode_pack"]


def decode_pack(spec: RouteSpec, tokens: int, **parts: Any) -> DecodePack:
    """A group's weights for decoding `tokens` at once, or others; parts: those of `packed_weights`."""
    weights = packed_weights(spec, **parts)
    if fused_applies(spec, weights.P):
        return TritonPack(spec, weights)
    if compiled_allowed() and numba_runs(spec, weights.P.device):
        return NumbaPack(spec, weights, tokens)
    return PlainPack(spec, weights)


class PlainPack(DecodePack):
    """By PyTorch alone, which runs everywhere.

    P is transposed, since its product with few rows is up to twice as fast so; W2 (members * r, w1_count * g)
    is zero where a module does not read a bottleneck.
    """

    def __init__(self, spec: RouteSpec, weights: PackedWeights) -> None:
        super().__init__(spec)
        self.weights, self.P, self.W2 = weights, weights.P.T.contiguous(), None
        if weights.W2:
            join = torch.cat if spec.shares_w1 else _block_diagonal
            self.W2 = join(weights.W2)

    def route(self, x: Tensor) -> Tensor:
        """h'[S] (N, members, r), zeros where a rank is not active."""
        spec, w = self.spec, self.weights
        product = (x.to(spec.compute) @ self.P).to(spec.dtype)
        h_mod = product[:, : spec.width]
        if self.W2 is not None and w.gamma is not None and w.beta is not None:
            gate = functional.linear(functional.gelu(product[:, spec.width :]), self.W2).sigmoid_()
            h_mod = h_mod * torch.addcmul(w.beta, gate, w.gamma)
        elif w.gamma is not None:
            h_mod = h_mod * w.gamma
        h_mod = h_mod.view(-1, spec.members, spec.r)
        mask = fast_top_k_mask(h_mod, spec.top_k, spec.routing, w.bias)
        return keep_active(h_mod, active_bits(mask, spec.dtype))

    def add(self, result: Tensor, routing: Tensor, member: int, scaling: float, *, in_place: bool) -> Tensor:
        """See `DecodePack.add`."""
        compute, B = self.spec.compute, self.weights.up[member]
        return add_selected(result, routing[:, member].to(compute), B.to(compute), scaling, in_place)


def _block_diagonal(weights: tuple[Tensor, ...]) -> Tensor:
    return torch.block_diag(*weights)  # type: ignore[no-any-return, no-untyped-call]
