"""The update of a few tokens without gradient, from weights that were put together once.

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

from neurolora.core.kernels import triton_kernels
from neurolora.core.kernels.fused import fused_applies
from neurolora.core.kernels.group import GroupTensors, RouteSpec, stacked_projection
from neurolora.core.kernels.selection import active_bits, fast_top_k_mask, keep_active
from neurolora.core.kernels.triton_kernels import MAX_DECODE_TOKENS, DecodeRouted
from neurolora.core.kernels.up_projection import add_selected

__all__ = ["MAX_DECODE_TOKENS", "DecodePack", "Decoded", "add_decoded", "decode_pack", "decode_route"]


@dataclass(frozen=True)
class DecodePack:
    """The weights of a group as `decode_route` and `add_decoded` read them; what a group lacks is None.

    gamma, beta (members * r), bias (members, r). For Triton's kernels: P (members * r + w1_count * g, d), W2
    (members * r, g), up: B' (r, o) of every module. Else P is transposed, since its product with few rows is
    up to twice as fast so; W2 (members * r, w1_count * g) is zero where a module does not read a bottleneck;
    and up is B (o, r) itself.
    """

    spec: RouteSpec
    P: Tensor
    W2: Tensor | None
    gamma: Tensor | None
    beta: Tensor | None
    bias: Tensor | None
    up: tuple[Tensor, ...]
    is_fused: bool


@dataclass(frozen=True)
class Decoded:
    """One module's active ranks of N tokens: h'[S] (N, r), zeros elsewhere, or the kernels' own form."""

    member: int
    selected: Tensor | DecodeRouted


def decode_pack(
    spec: RouteSpec,
    projections: Sequence[Tensor],
    scales: Sequence[float],
    gates: Sequence[Sequence[Tensor]],
    biases: Sequence[Tensor] | None,
    up: Sequence[Tensor],
    in_features: int,
) -> DecodePack:
    """Put a group's weights together; up: B (o, r) of every module, the others as those of `route`."""
    with torch.no_grad():
        t = GroupTensors(spec, [*projections, *(part for parts in gates for part in parts)])
        P = stacked_projection(spec, t, scales, in_features)
        is_fused = fused_applies(spec, P)
        return DecodePack(
            spec,
            P if is_fused else P.T.contiguous(),
            _second(spec, t, is_fused) if t.W2 else None,
            torch.cat(t.gamma) if t.gamma else None,
            torch.cat(t.beta) if t.beta else None,
            None if biases is None else torch.stack(tuple(biases)),
            tuple(B.detach().T.contiguous() if is_fused else B.detach() for B in up),
            is_fused,
        )


def _second(spec: RouteSpec, t: GroupTensors, is_fused: bool) -> Tensor:
    if is_fused or spec.shares_w1:
        return torch.cat(t.W2)
    return torch.block_diag(*t.W2)  # type: ignore[no-any-return, no-untyped-call]


def decode_route(x: Tensor, pack: DecodePack) -> list[Decoded]:
    """The routing of every module (Eqs. 2-5) for x (N, d), N at most `MAX_DECODE_TOKENS`."""
    if pack.is_fused:
        made = triton_kernels.decode_route(x, pack.P, pack.W2, pack.gamma, pack.beta, pack.bias, pack.spec)
        return [Decoded(member, made) for member in range(pack.spec.members)]
    return [Decoded(i, one) for i, one in enumerate(_route(x, pack).unbind(1))]


def add_decoded(
    result: Tensor, decoded: Decoded, pack: DecodePack, scaling: float, *, in_place: bool
) -> Tensor:
    """result + scaling * B h'[S] (Eqs. 1, 6): result (..., o)."""
    up = pack.up[decoded.member]
    if isinstance(decoded.selected, Tensor):
        compute = pack.spec.compute
        return add_selected(result, decoded.selected.to(compute), up.to(compute), scaling, in_place)
    own = result if in_place else result.clone(memory_format=torch.contiguous_format)
    triton_kernels.decode_add(own.view(-1, own.shape[-1]), decoded.selected, decoded.member, up, scaling)
    return own


def _route(x: Tensor, pack: DecodePack) -> Tensor:
    """h'[S] (N, members, r), zeros where a rank is not active."""
    spec = pack.spec
    product = (x.to(spec.compute) @ pack.P).to(spec.dtype)
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
