"""A decode step by Triton's kernels.

Room: core, kernels; made by `decode.py`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from neurolora.core.kernels import triton_kernels
from neurolora.core.kernels.group import RouteSpec
from neurolora.core.kernels.packing import DecodePack, PackedWeights
from neurolora.core.kernels.triton_kernels import DecodeRouted


class TritonPack(DecodePack):
    """W2 of all members in one, and every B transposed, so that a rank's column lies together."""

    def __init__(self, spec: RouteSpec, weights: PackedWeights) -> None:
        super().__init__(spec)
        self.weights = weights
        self.W2 = torch.cat(weights.W2) if weights.W2 else None
        self.up = [B.T.contiguous() for B in weights.up]

    def route(self, x: Tensor) -> DecodeRouted:
        """See `DecodePack.route`."""
        w = self.weights
        return triton_kernels.decode_route(x, w.P, self.W2, w.gamma, w.beta, w.bias, self.spec)

    def add(
        self, result: Tensor, routing: DecodeRouted, member: int, scaling: float, *, in_place: bool
    ) -> Tensor:
        """See `DecodePack.add`."""
        own = result if in_place else result.clone(memory_format=torch.contiguous_format)
        triton_kernels.decode_add(own.view(-1, own.shape[-1]), routing, member, self.up[member], scaling)
        return own
