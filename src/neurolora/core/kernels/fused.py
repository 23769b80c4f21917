"""The routed half by Triton's kernels, where they run: what `routing.py` calls instead of its own steps.

Room: core, kernels; used by `routing.py`.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import cache, cached_property

import torch
from torch import Tensor

from neurolora.core.kernels.choice import compiled_allowed
from neurolora.core.kernels.group import (
    GroupTensors,
    RouteSpec,
    gate_inputs,
    weight_gradients,
    write_bottleneck_gradient,
)
from neurolora.core.kernels.triton_kernels import (
    fused_route,
    fused_route_backward,
    fused_selected,
    triton_available,
    triton_supports,
)
from neurolora.core.routing import routing_score, top_k_mask


def fused_applies(spec: RouteSpec, like: Tensor) -> bool:
    """Whether Triton's kernels can route a group on the device of `like`."""
    runs = compiled_allowed() and triton_supports(spec) and triton_available(like.device)
    return runs and _agrees(like.device)


@cache
def _agrees(device: torch.device) -> bool:
    """Whether the kernels give on this device what PyTorch gives, tried once; if not, a warning, no failure.

    They may meet a device, a driver or a Triton that nobody has run them on.
    """
    if device.type == "cpu":  # the interpreter, which only tests ask for
        return True
    spec = RouteSpec(2, 8, 3, "token", "abs", 2, torch.float32, torch.float32)
    generator = torch.Generator().manual_seed(0)
    h, z = (torch.randn(5, spec.width, generator=generator).to(device) for _ in range(2))
    gamma, beta = (torch.randn(spec.width, generator=generator).to(device) for _ in range(2))
    h_mod = (h * torch.addcmul(beta, z.sigmoid(), gamma)).view(-1, spec.members, spec.r)
    expected = top_k_mask(routing_score(h_mod, spec.routing), spec.top_k)
    try:
        selected, mask, _ = fused_route(h, z, gamma, beta, None, spec)
        made = fused_route_backward(h, h, z, gamma, beta, mask, spec)
        right = mask.equal(expected) and torch.allclose(selected, h_mod * expected, rtol=1e-4, atol=1e-5)
        problem = "" if right and bool(made.dh.isfinite().all()) else "they give other values than PyTorch"
    except Exception as error:  # whatever a compiler, a driver or a launch may raise
        problem = f"{type(error).__name__}: {error}"
    if problem:
        warnings.warn(f"neurolora's Triton kernels are not used on {device}: {problem}", stacklevel=2)
    return not problem


def route_fused(
    spec: RouteSpec, t: GroupTensors, product: Tensor, bias: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """From product = [A; W1] x: `selected`, mask (N, members, r) and m, as `fused_route` has them."""
    gate = gate_inputs(spec, t, product[:, spec.width :])
    return fused_route(product[:, : spec.width], gate.logits, gate.gamma, gate.beta, bias, spec)


class FusedActivations:
    """What a forward had and its backward needs again; m is left to the kernels, which make it in passing."""

    def __init__(self, spec: RouteSpec, saved: Sequence[Tensor | None]) -> None:
        x, product, mask, *flat = saved
        assert product is not None
        assert mask is not None
        self.x, self.product, self.mask = x, product, mask
        self.tensors = GroupTensors(spec, flat)  # type: ignore[arg-type]
        self.h, self.u = product[:, : spec.width], product[:, spec.width :]
        self.spec, self.gate = spec, gate_inputs(spec, self.tensors, self.u)

    @cached_property
    def selected(self) -> Tensor:
        """h'[S] (N, members, r), as the forward gave it."""
        gate = self.gate
        return fused_selected(self.h, gate.logits, gate.gamma, gate.beta, self.mask, self.spec)


def through_the_fused_gate(
    spec: RouteSpec, again: FusedActivations, d: Tensor, wants_gate: bool
) -> tuple[Tensor, Sequence[Tensor | None]]:
    """From d, the gradient of `selected` (N, members * r): that of [A; W1] x, and the gate parameters'."""
    gate, down = again.gate, torch.empty_like(again.product)
    made = fused_route_backward(
        d, again.h, gate.logits, gate.gamma, gate.beta, again.mask, spec, out=down[:, : spec.width]
    )
    if made.dgamma is None:
        return down, []
    dgammas: Sequence[Tensor | None] = torch.split(made.dgamma, spec.r)
    if made.dz is None or made.dbeta is None:
        return down, dgammas if wants_gate else [None] * spec.members
    du = down[:, spec.width :]
    write_bottleneck_gradient(spec, again.tensors, made.dz, again.u, du)
    if not wants_gate:
        return down, [None] * (spec.w1_count + 3 * spec.members)
    return down, [
        *weight_gradients(spec, again.x, again.gate.bottleneck, made.dz, du),
        *dgammas,
        *torch.split(made.dbeta, spec.r),
    ]
