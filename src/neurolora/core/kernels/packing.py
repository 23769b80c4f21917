"""A group's weights put together for decoding, and what a pack can do.

Room: core, kernels. `decode.py` makes packs; each kind of kernels has its own.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from neurolora.core.kernels.group import GroupTensors, RouteSpec, stacked_projection


@dataclass(frozen=True)
class PackedWeights:
    """What a group computes with, without gradient; what it lacks is None, or nothing.

    P (members * r + w1_count * g, d) in spec.compute, W2 (r, g) of each member, gamma, beta (members * r),
    bias (members, r), up: B (o, r) of each member.
    """

    P: Tensor
    W2: tuple[Tensor, ...]
    gamma: Tensor | None
    beta: Tensor | None
    bias: Tensor | None
    up: tuple[Tensor, ...]


def packed_weights(
    spec: RouteSpec,
    projections: Sequence[Tensor],
    scales: Sequence[float],
    gates: Sequence[Sequence[Tensor]],
    biases: Sequence[Tensor] | None,
    up: Sequence[Tensor],
    in_features: int,
) -> PackedWeights:
    """Put a group's weights together; up: B (o, r) of every module, the others as those of `route`."""
    with torch.no_grad():
        t = GroupTensors(spec, [*projections, *(part.detach() for parts in gates for part in parts)])
        return PackedWeights(
            stacked_projection(spec, t, scales, in_features),
            t.W2,
            torch.cat(t.gamma) if t.gamma else None,
            torch.cat(t.beta) if t.beta else None,
            None if biases is None else torch.stack(tuple(biases)),
            tuple(B.detach() for B in up),
        )


class DecodePack(ABC):
    """A group's weights in the form that one kind of kernels reads."""

    def __init__(self, spec: RouteSpec) -> None:
        self.spec = spec

    @abstractmethod
    def route(self, x: Tensor) -> Any:
        """The routing of every module (Eqs. 2-5) for x (N, d), N at most `MAX_DECODE_TOKENS`, for `add`."""

    @abstractmethod
    def add(self, result: Tensor, routing: Any, member: int, scaling: float, *, in_place: bool) -> Tensor:
        """result + scaling * B h'[S] (Eqs. 1, 6) of one module: result (..., o)."""
