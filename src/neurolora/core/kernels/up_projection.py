"""The way up: scaling * B h'[S], added to the base layer's result (Eqs. 1, 6).

Room: core, kernels. The sum goes into the base's result where that is allowed, and the backward keeps no
copy of h': it asks the node that made it (`routing.py`).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from neurolora.core.kernels.routing import Routed, selected_again


def add_update(
    result: Tensor, routed: Routed, B: Tensor, scaling: float, *, compute: torch.dtype, in_place: bool
) -> Tensor:
    """result + scaling * h'[S] B': result (..., o), routed from `route` for N tokens, B (o, r) -> (..., o).

    compute: dtype of the matrix products. in_place: the caller owns `result` alone.
    """
    if not torch.is_grad_enabled():
        return add_selected(result, routed.selected.to(compute), B.to(compute), scaling, in_place)
    node = None if routed.member is None else routed.selected.grad_fn  # joined blocks are kept as they are
    arguments = (result, routed.selected, B, scaling, node, routed.member, compute, in_place)
    summed: Tensor = _AddUpdate.apply(*arguments)  # type: ignore[no-untyped-call]
    return summed


class _AddUpdate(torch.autograd.Function):
    """See `add_update`."""

    @staticmethod
    def forward(
        ctx: Any, result: Tensor, selected: Tensor, B: Tensor, scaling: float, node: Any, member: int,
        compute: torch.dtype, in_place: bool,
    ) -> Tensor:  # fmt: skip
        ctx.scaling, ctx.node, ctx.member, ctx.compute = scaling, node, member, compute
        ctx.save_for_backward(B, None if node is not None else selected)
        summed = add_selected(result, selected.to(compute), B.to(compute), scaling, in_place)
        if in_place:
            ctx.mark_dirty(result)
        return summed

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        B, selected = ctx.saved_tensors
        d = dB = None
        wants_selected, wants_B = ctx.needs_input_grad[1:3]
        with torch.autocast(grad.device.type, enabled=False):
            flat = grad.reshape(-1, grad.shape[-1]).to(ctx.compute)
            if wants_selected:
                d = (flat @ B.to(ctx.compute)).mul_(ctx.scaling).to(B.dtype)
            if wants_B:
                selected = selected_again(ctx.node, ctx.member) if selected is None else selected
                dB = (selected.to(ctx.compute).T @ flat).mul_(ctx.scaling).to(B.dtype).T
        return grad, d, dB, None, None, None, None, None


def add_selected(result: Tensor, selected: Tensor, B: Tensor, scaling: float, in_place: bool) -> Tensor:
    """`add_update` without gradient, selected (N, r) and B of one dtype."""
    flat = result.view(-1, result.shape[-1]) if in_place else result.reshape(-1, result.shape[-1])
    if flat.dtype == selected.dtype:  # addmm is left alone by autocast where all dtypes are its own
        add = flat.addmm_ if in_place else flat.addmm
        summed = add(selected, B.T, alpha=scaling)
    else:
        with torch.autocast(result.device.type, enabled=False):
            dy = selected @ (B * scaling).T
        summed = flat.add_(dy) if in_place else (flat + dy).to(flat.dtype)
    return result if in_place else summed.view(result.shape)
