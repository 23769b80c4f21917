"""Routing of a few tokens without gradient, from weights that were put together once.

Room: core, kernels. While tokens are decoded one by one, putting P together would cost more than using it.
The tuner makes a pack at the first token and lets go of it when anything else runs (tuner/grouping.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from neurolora.core.kernels.group import GroupTensors, RouteSpec, stacked_projection
from neurolora.core.kernels.selection import active_bits, fast_top_k_mask, keep_active


@dataclass(frozen=True)
class DecodePack:
    """The weights of a group as `decode_route` reads them.

    P_columns: P' (d, members * r + w1_count * g), laid out so, since its product with few rows is up to
    twice as fast. W2 (members * r, w1_count * g), zero where a module does not read a bottleneck; gamma,
    beta (members * r), bias (members, r); what the group does not have is None.
    """

    spec: RouteSpec
    P_columns: Tensor
    W2: Tensor | None
    gamma: Tensor | None
    beta: Tensor | None
    bias: Tensor | None


def decode_pack(
    spec: RouteSpec,
    projections: Sequence[Tensor],
    scales: Sequence[float],
    gates: Sequence[Sequence[Tensor]],
    biases: Sequence[Tensor] | None,
    in_features: int,
) -> DecodePack:
    """Put a group's weights together; arguments as those of `route`."""
    with torch.no_grad():
        t = GroupTensors(spec, [*projections, *(part for parts in gates for part in parts)])
        W2 = None
        if t.W2:
            W2 = torch.cat(t.W2) if spec.shares_w1 else torch.block_diag(*t.W2)  # type: ignore[no-untyped-call]
        return DecodePack(
            spec,
            stacked_projection(spec, t, scales, in_features).T.contiguous(),
            W2,
            torch.cat(t.gamma) if t.gamma else None,
            torch.cat(t.beta) if t.beta else None,
            None if biases is None else torch.stack(tuple(biases)),
        )


def decode_route(x: Tensor, pack: DecodePack) -> Tensor:
    """h'[S] of every module (Eqs. 2-5): x (N, d) -> (N, members, r), zeros where a rank is not active."""
    spec = pack.spec
    product = (x.to(spec.compute) @ pack.P_columns).to(spec.dtype)
    h_mod = product[:, : spec.width]
    if pack.W2 is not None and pack.gamma is not None and pack.beta is not None:
        gate = functional.linear(functional.gelu(product[:, spec.width :]), pack.W2).sigmoid_()
        h_mod = h_mod * torch.addcmul(pack.beta, gate, pack.gamma)
    elif pack.gamma is not None:
        h_mod = h_mod * pack.gamma
    h_mod = h_mod.view(-1, spec.members, spec.r)
    if x.device.type == "cpu" and spec.dtype == torch.float32 and spec.routing == "abs" and pack.bias is None:
        selected = _select_on_cpu(h_mod.numpy(), spec.top_k)
        if selected is not None:
            return torch.from_numpy(selected)
    mask = fast_top_k_mask(h_mod, spec.top_k, spec.routing, pack.bias)
    return keep_active(h_mod, active_bits(mask, spec.dtype))


def _select_on_cpu(h_mod: np.ndarray, k: int) -> np.ndarray | None:
    """As `fast_top_k_mask` and `keep_active`, whose calls would cost more than the work on so few numbers.

    None where scores are equal at the border.
    """
    bits = h_mod.view(np.int32)
    keys = bits & 0x7FFFFFFF  # |h'| as integers in the same order
    r = keys.shape[-1]
    mask = keys >= np.partition(keys, r - k, axis=-1)[..., r - k, None]
    if np.count_nonzero(mask) * r != mask.size * k:
        return None
    return (bits & -mask.astype(np.int32)).view(np.float32)
