"""How loud an adapter is: the size of its update beside the base layer's output.

Room: core, maths on tensors alone. Trained towards zero on text that belongs to no task, an adapter learns
to be quiet where it has nothing to say, where it would disturb others once merged. Not in the papers.
"""

from __future__ import annotations

import torch
from torch import Tensor


def loudness(update: Tensor, base: Tensor, keep: Tensor | None = None, eps: float = 1e-6) -> Tensor:
    """Mean over kept tokens of ||dy||^2 / (||W0 x||^2 + eps): a scalar, with gradient to dy alone.

    update dy and base W0 x (..., o) of any floating dtype, keep bool (...) with False at padding -> float32,
    or dy's dtype if that is wider; zero when no token is kept.
    """
    return _relative_energy(_wide(update).square().sum(-1), base, keep, eps)


def routed_loudness(
    selected: Tensor,
    B: Tensor,
    scaling: float,
    base: Tensor,
    keep: Tensor | None = None,
    eps: float = 1e-6,
) -> Tensor:
    """`loudness` of dy = scaling * B h'[S] without making dy: ||B s||^2 = s' (B' B) s, r numbers a token.

    selected (N, r): h' with zeros outside S; B (o, r); base (..., o) and keep (...) of the N tokens.
    """
    s, wide = _wide(selected), _wide(B)
    energy = scaling**2 * ((s @ (wide.mT @ wide)) * s).sum(-1)
    return _relative_energy(energy.clamp(min=0.0).view(base.shape[:-1]), base, keep, eps)


def _relative_energy(energy: Tensor, base: Tensor, keep: Tensor | None, eps: float) -> Tensor:
    """Mean over kept tokens of energy (...) / (||base||^2 + eps); gradient to the energy alone."""
    loud = energy / (_wide(base.detach()).square().sum(-1) + eps)
    if keep is None:
        return loud.mean() if loud.numel() else loud.sum()
    kept = keep.to(torch.bool)
    return loud.masked_fill(~kept, 0.0).sum() / kept.sum().clamp(min=1)


def _wide(value: Tensor) -> Tensor:
    return value.to(torch.promote_types(value.dtype, torch.float32))
