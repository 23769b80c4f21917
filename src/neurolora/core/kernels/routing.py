"""The routed half of the update, for all modules that read one tensor at once (Eqs. 2-5).

Room: core, kernels. One matrix product for every A and W1, one pass of pointwise work for all modules, and
a backward that keeps no more than it must: x in its own dtype (not at all without a gate), the product's
result and the mask. m, gelu and h' are computed again, P = [A; W1] is put together again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from neurolora.core.kernels.fused import (
    FusedActivations,
    fused_applies,
    route_fused,
    through_the_fused_gate,
)
from neurolora.core.kernels.group import (
    Activations,
    GroupTensors,
    RouteSpec,
    gate_values,
    stacked_projection,
    weight_gradients,
    write_bottleneck_gradient,
)
from neurolora.core.kernels.selection import active_bits, fast_top_k_mask, keep_active


@dataclass(frozen=True)
class Routed:
    """One module's routing of N tokens: h' with all but the active ranks zero, and the mask of these.

    selected (N, r), mask bool (N, r), modulation (N, r), (r) or None: for those who watch, without gradient.
    member: which module of its group this is; None for blocks that were joined.
    """

    member: int | None
    selected: Tensor
    mask: Tensor
    modulation: Tensor | None


def route(
    x: Tensor,
    projections: Sequence[Tensor],
    scales: Sequence[float],
    gates: Sequence[Sequence[Tensor]],
    biases: Sequence[Tensor] | None,
    spec: RouteSpec,
) -> list[Routed]:
    """`Routed` for each module of a group.

    x (N, d). projections: the frozen A's (r, d) as `Projection.stored` gives them. gates: by part: W1's
    (g, d), W2's (r, g), gammas (r), betas (r) for a token gate, gammas for a static one, none for none.
    biases: of the routing score, (r) each. Gradients flow to x and the gates, none through the selection, as
    in `core/update.py`.
    """
    flat = [*projections, *(part for parts in gates for part in parts)]
    bias = None if biases is None else torch.stack(tuple(biases))
    if torch.is_grad_enabled():
        outputs = _Route.apply(x, spec, tuple(scales), bias, *flat)  # type: ignore[no-untyped-call]
    else:
        outputs, _ = _forward(x, spec, scales, bias, flat)
    *selected, mask, m = outputs
    masks = mask.unbind(1)
    ms = [None] * spec.members if m is None else m.unbind(-2)
    return [Routed(i, selected[i], masks[i], ms[i]) for i in range(spec.members)]


def join_blocks(made: list[Routed], blocks: int) -> list[Routed]:
    """One `Routed` for every module whose blocks were routed as members of their own, side by side."""
    if blocks == 1:
        return made
    groups = [made[i : i + blocks] for i in range(0, len(made), blocks)]
    return [_joined(group) for group in groups]


def _joined(group: list[Routed]) -> Routed:
    modulations = [one.modulation for one in group if one.modulation is not None]
    return Routed(
        None,
        torch.cat([one.selected for one in group], dim=-1),
        torch.cat([one.mask for one in group], dim=-1),
        torch.cat(modulations, dim=-1) if modulations else None,
    )


def _forward(
    x: Tensor, spec: RouteSpec, scales: Sequence[float], bias: Tensor | None, flat: Sequence[Tensor]
) -> tuple[tuple[Any, ...], Tensor]:
    """The outputs of `_Route`, and the product [A; W1] x."""
    with torch.autocast(x.device.type, enabled=False):
        tensors = GroupTensors(spec, flat)
        P = stacked_projection(spec, tensors, scales, x.shape[-1])
        product = functional.linear(x.to(spec.compute), P).to(spec.dtype)
        if fused_applies(spec, product):
            selected, mask, m = route_fused(spec, tensors, product, bias)
        else:
            m = gate_values(spec, tensors, product[:, spec.width :]).m
            h = product[:, : spec.width]
            h_mod = (h if m is None else h * m).view(-1, spec.members, spec.r)
            mask = fast_top_k_mask(h_mod, spec.top_k, spec.routing, bias)
            selected = keep_active(h_mod, active_bits(mask, spec.dtype))
        m = m if m is None else m.view(*m.shape[:-1], spec.members, spec.r)
    return (*selected.unbind(1), mask, m), product


class _Route(torch.autograd.Function):
    """See `route`. Outputs: `selected` (N, r) of each module, mask (N, members, r), m (..., members, r)."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, spec: RouteSpec, scales: Sequence[float], bias: Tensor | None, *flat: Tensor
    ) -> Any:
        outputs, product = _forward(x, spec, scales, bias, flat)
        *_, mask, m = outputs
        ctx.spec, ctx.scales, ctx.again = spec, scales, None
        ctx.x_dtype, ctx.x_shape = x.dtype, x.shape
        trains_w1 = spec.gate == "token" and any(ctx.needs_input_grad[4:])
        ctx.save_for_backward(x if trains_w1 else None, product, mask, *flat)
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(mask, *([] if m is None else [m]))
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        again, spec = activations_of(ctx), ctx.spec
        ctx.again = None
        with torch.autocast(again.h.device.type, enabled=False):
            d, wants_gate = _in_columns(grads[: spec.members], again.h), any(ctx.needs_input_grad[4:])
            if isinstance(again, FusedActivations):
                down, gate_grads = through_the_fused_gate(spec, again, d, wants_gate)
            else:
                d = keep_active(d, again.active)
                down, gate_grads = _through_the_gate(spec, again, d, wants_gate)
            dx = None
            if ctx.needs_input_grad[0]:
                P = stacked_projection(spec, again.tensors, ctx.scales, ctx.x_shape[-1])
                dx = (down.to(spec.compute) @ P).to(ctx.x_dtype)
        return (dx, None, None, None, *[None] * spec.members, *gate_grads)


def activations_of(node: Any) -> Activations | FusedActivations:
    """The forward's values of a `_Route` node; the first who asks has them made, for all who follow.

    The nodes of the way up ask before the backward of `_Route` runs, which lets go of them.
    """
    if node.again is None:
        saved = node.saved_tensors
        with torch.no_grad(), torch.autocast(saved[1].device.type, enabled=False):
            if fused_applies(node.spec, saved[1]):
                node.again = FusedActivations(node.spec, saved)
            else:
                node.again = Activations(node.spec, saved, active_bits(saved[2].flatten(1), node.spec.dtype))
    made: Activations | FusedActivations = node.again
    return made


def selected_again(node: Any, member: int) -> Tensor:
    """h'[S] (N, r) of one module, as the forward gave it."""
    again, r = activations_of(node), node.spec.r
    if isinstance(again, FusedActivations):
        return again.selected[:, member]
    columns = slice(member * r, (member + 1) * r)
    h, m = again.h[:, columns], again.gate.m
    return keep_active(h if m is None else h * m[..., columns], again.active[:, columns])


def _in_columns(grads: Sequence[Tensor | None], like: Tensor) -> Tensor:
    """The gradients of `selected` of every module side by side, zeros where one was not used."""
    zeros = torch.zeros_like(like[:, : like.shape[1] // len(grads)]) if None in grads else like
    return torch.cat([zeros if grad is None else grad for grad in grads], dim=1)


def _through_the_gate(
    spec: RouteSpec, again: Activations, d: Tensor, wants_gate: bool
) -> tuple[Tensor, Sequence[Tensor | None]]:
    """From d, the gradient of h' (N, members * r): that of [A; W1] x, and those of the gate's parameters."""
    gate, h = again.gate, again.h
    if gate.m is None:
        return d, []
    down = torch.empty_like(again.product)
    torch.mul(d, gate.m, out=down[:, : spec.width])
    if spec.gate == "static":
        return down, torch.split((d * h).sum(0), spec.r) if wants_gate else [None] * spec.members
    dm = d * h
    dz = _gate_backward(spec, again, dm, down[:, spec.width :])
    if not wants_gate:
        return down, [None] * (spec.w1_count + 3 * spec.members)
    assert gate.sigmoid is not None
    weights = weight_gradients(spec, again.x, gate.bottleneck, dz, down[:, spec.width :])
    dgamma, dbeta = (dm * gate.sigmoid).sum(0), dm.sum(0)
    return down, [*weights, *torch.split(dgamma, spec.r), *torch.split(dbeta, spec.r)]


def _gate_backward(spec: RouteSpec, again: Activations, dm: Tensor, du: Tensor) -> Tensor:
    """From dm to du, the gradient of W1 x, which is written in place; returns that of W2 gelu(W1 x)."""
    gate, t = again.gate, again.tensors
    dz = torch.ops.aten.sigmoid_backward(dm * torch.cat(t.gamma), gate.sigmoid).to(spec.compute)
    write_bottleneck_gradient(spec, t, dz, again.u, du)
    return dz  # type: ignore[no-any-return]
