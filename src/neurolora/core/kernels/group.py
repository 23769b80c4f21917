"""The tensors of modules that are routed together, and the pieces that forward and backward share.

Room: core, kernels; used by `routing.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from neurolora.core.gate import GateKind
from neurolora.core.projection import write_dense_projection
from neurolora.core.routing import Routing


@dataclass(frozen=True)
class RouteSpec:
    """What is alike in all modules of a group.

    w1_count: how many W1 there are: one for each module, or one for all; none without a token gate.
    dtype: that of the parameters and of all pointwise work. compute: that of the matrix products.
    """

    members: int
    r: int
    top_k: int
    gate: GateKind
    routing: Routing
    w1_count: int
    dtype: torch.dtype
    compute: torch.dtype

    @property
    def width(self) -> int:
        """Columns of h for all modules side by side."""
        return self.members * self.r

    @property
    def shares_w1(self) -> bool:
        """Whether several modules read one bottleneck."""
        return self.w1_count < self.members


class GroupTensors:
    """The tensors of a group by name, from the flat list that autograd takes and gives gradients for."""

    def __init__(self, spec: RouteSpec, flat: Sequence[Tensor]) -> None:
        n = spec.members
        counts = {"token": (n, spec.w1_count, n, n, n), "static": (n, 0, 0, n, 0), "none": (n, 0, 0, 0, 0)}
        parts, start = [], 0
        for count in counts[spec.gate]:
            parts.append(tuple(flat[start : start + count]))
            start += count
        self.A, self.W1, self.W2, self.gamma, self.beta = parts


def stacked_projection(spec: RouteSpec, t: GroupTensors, scales: Sequence[float], d: int) -> Tensor:
    """P = [A of every module; every W1] in the dtype of the products: (members * r + w1_count * g, d)."""
    rows = spec.width + sum(len(W1) for W1 in t.W1)
    P = torch.empty((rows, d), dtype=spec.dtype, device=t.A[0].device)
    if len(set(scales)) == 1 and len({A.dtype for A in t.A}) == 1:
        write_dense_projection(P[: spec.width], torch.cat(t.A), scales[0])
    else:
        for part, A, scale in zip(torch.split(P[: spec.width], spec.r), t.A, scales, strict=True):
            write_dense_projection(part, A, scale)
    if t.W1:
        torch.cat([W1.detach() for W1 in t.W1], out=P[spec.width :])
    return P.to(spec.compute)


def side_by_side(a: Tensor, weights: Sequence[Tensor]) -> Tensor:
    """`a` in equal parts, each times its own matrix: a (N, n * p), weights n times (p, q) -> (N, n * q)."""
    n = len(weights)
    out = a.new_empty(len(a), n * weights[0].shape[1])
    for part, weight, place in zip(a.chunk(n, dim=1), weights, out.chunk(n, dim=1), strict=True):
        torch.mm(part, weight, out=place)
    return out


@dataclass(frozen=True)
class GateValues:
    """The gate on its way to m, columns of all modules side by side; what a kind of gate lacks is None.

    bottleneck gelu(W1 x) (N, w1_count * g), sigmoid(W2 bottleneck) (N, members * r), m the same, or
    (members * r) for a static gate.
    """

    bottleneck: Tensor | None
    sigmoid: Tensor | None
    m: Tensor | None


def gate_values(spec: RouteSpec, t: GroupTensors, u: Tensor) -> GateValues:
    """The gates of all modules (Eq. 3) from u = W1 x (N, w1_count * g)."""
    inputs = gate_inputs(spec, t, u)
    if inputs.logits is None or inputs.gamma is None or inputs.beta is None:
        return GateValues(None, None, inputs.gamma)
    sigmoid = inputs.logits.sigmoid_()
    return GateValues(inputs.bottleneck, sigmoid, torch.addcmul(inputs.beta, sigmoid, inputs.gamma))


@dataclass(frozen=True)
class GateInputs:
    """What the pointwise work reads, columns of all modules side by side; what a kind of gate lacks is None.

    bottleneck gelu(W1 x) (N, w1_count * g), logits W2 bottleneck (N, members * r), gamma, beta (members * r).
    """

    bottleneck: Tensor | None
    logits: Tensor | None
    gamma: Tensor | None
    beta: Tensor | None


def gate_inputs(spec: RouteSpec, t: GroupTensors, u: Tensor) -> GateInputs:
    """The gates of all modules up to their sigmoid, from u = W1 x (N, w1_count * g)."""
    if spec.gate != "token":
        return GateInputs(None, None, torch.cat(t.gamma) if spec.gate == "static" else None, None)
    bottleneck = functional.gelu(u)
    cast = bottleneck.to(spec.compute)
    weights = [W.to(spec.compute) for W in t.W2]
    logits = cast @ torch.cat(weights).T if spec.shares_w1 else side_by_side(cast, [W.T for W in weights])
    return GateInputs(bottleneck, logits.to(spec.dtype), torch.cat(t.gamma), torch.cat(t.beta))


def write_bottleneck_gradient(spec: RouteSpec, t: GroupTensors, dz: Tensor, u: Tensor, du: Tensor) -> None:
    """Into du, the gradient of u = W1 x (N, w1_count * g), from that of the logits (N, members * r)."""
    weights = [W.to(spec.compute) for W in t.W2]
    da = dz @ torch.cat(weights) if spec.shares_w1 else side_by_side(dz, weights)
    torch.ops.aten.gelu_backward.grad_input(da.to(spec.dtype), u, grad_input=du)


def weight_gradients(
    spec: RouteSpec, x: Tensor | None, bottleneck: Tensor | None, dz: Tensor, du: Tensor
) -> list[Tensor]:
    """Gradients of every W1 and W2, in this order, from those of the logits and of W1 x."""
    assert x is not None
    assert bottleneck is not None
    parts = bottleneck.to(spec.compute).chunk(spec.w1_count, dim=1)
    read = parts * spec.members if spec.shares_w1 else parts
    dW1 = (du.to(spec.compute).T @ x.to(spec.compute)).to(spec.dtype)
    dW2 = [(part.T @ a).to(spec.dtype) for part, a in zip(torch.split(dz, spec.r, dim=1), read, strict=True)]
    return [*dW1.chunk(spec.w1_count), *dW2]


class Activations:
    """What a forward had and its backward needs again, made from what was saved."""

    def __init__(self, spec: RouteSpec, saved: Sequence[Tensor | None], active_bits: Tensor) -> None:
        x, product, _, *flat = saved
        assert product is not None
        self.x, self.product, self.active = x, product, active_bits
        self.tensors = GroupTensors(spec, flat)  # type: ignore[arg-type]
        self.h, self.u = product[:, : spec.width], product[:, spec.width :]
        self.gate = gate_values(spec, self.tensors, self.u)
