"""The contrastive orthogonality loss (Eq. 7) from co-activation counts.

Room: core, maths on tensors alone. With a_t the 0/1 active vector of token t and Q[i, j] = cos(B_i, B_j)^2,
Eq. 7 averaged over tokens is

    L = mean over t of a_t' Q (1 - a_t) / (k (r - k)) = sum over i, j of C[i, j] Q[i, j] / (k (r - k)),
    C = mean over t of a_t (1 - a_t)',

so the tokens enter through C alone: r x r numbers without gradient. A forward records C; the loss is one
contraction, made elsewhere.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from neurolora.errors import ConfigError, explain


def coactivation_sums(mask: Tensor, keep: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Sum over kept tokens of a_t (1 - a_t)', and how many were kept, so that micro-batches can be added.

    mask bool (..., r), keep bool (...) with False at padding -> float32 (r, r), int64 ().
    Entry [i, j] counts the tokens with rank i active and j not: exact up to 2^24 tokens. No gradient.
    """
    flat = mask.detach().reshape(-1, mask.shape[-1])
    if keep is None:
        tokens = torch.full((), len(flat), dtype=torch.int64, device=mask.device)
    else:
        kept = keep.detach().reshape(-1, 1).to(torch.bool)
        flat, tokens = flat & kept, kept.sum()
    active = flat.to(torch.float32)
    with _without_autocast(mask.device):
        together = active.T @ active  # [i, j]: both active; on the diagonal, how often i was
    return together.diagonal().unsqueeze(1) - together, tokens


def coactivation(mask: Tensor, keep: Tensor | None = None) -> Tensor:
    """C (r, r) float32 = mean over kept tokens of a_t (1 - a_t)'; zeros when no token is kept. No gradient.

    mask bool (..., r), keep bool (...) with False at padding.
    """
    sums, tokens = coactivation_sums(mask, keep)
    return sums / tokens.clamp(min=1)


def orthogonality_loss(B: Tensor, C: Tensor, top_k: int, eps: float = 1e-8) -> Tensor:
    """L = sum of C * Q / (k (r - k)), Q the squared cosines of B's columns (Eq. 7).

    B (..., o, r) of any floating dtype, C (..., r, r) from `coactivation` -> (...), one L for each module;
    float32 or, for a float64 B, float64.
    Cosines take max(norm, eps): a column of zeros has cosine 0 with all others and gets gradient 0, so that B
    may start at 0. The gradient of a cosine goes with 1 / norm, and eps bounds it.
    k = r leaves no inactive rank: the loss is 0, and so is its gradient.
    Raises ConfigError unless 1 <= top_k <= r and C is (..., r, r).
    """
    r = B.shape[-1]
    if not 1 <= top_k <= r or tuple(C.shape) != (*B.shape[:-2], r, r):
        raise ConfigError(
            explain(
                "The orthogonality loss",
                f"B is {tuple(B.shape)}, C is {tuple(C.shape)} and top_k is {top_k}",
                "C must be (r, r) for the r columns of B, and 1 <= top_k <= r.",
            )
        )
    B = B.to(torch.promote_types(B.dtype, torch.float32))
    if top_k == r:
        return B[..., :0].sum((-2, -1))
    with _without_autocast(B.device):
        products = B.mT @ B
    squares = products.diagonal(dim1=-2, dim2=-1).clamp(min=eps * eps)
    squared_cosines = products.square() / (squares.unsqueeze(-1) * squares.unsqueeze(-2))
    return (C.detach().to(B.dtype) * squared_cosines).sum((-2, -1)) / (top_k * (r - top_k))


def protection_loss(
    change: Tensor, past: Tensor, active: Tensor, frequency: Tensor, eps: float = 1e-8
) -> Tensor:
    """How much of what is being learned lies in the directions that earlier tasks use.

    L = sum over i, j of a_i f_j (change_i . past_j / |past_j|)^2 / (sum of a * mean of |past|^2 by f): the
    overlaps of Eq. 7 between the columns of what a task has changed of B and the columns of B as earlier
    tasks left it, each weighted by how often it is active, now (a) and then (f). The size of a change counts,
    unlike in Eq. 7: cosines would push a first small step as hard as they can, and a large one no harder. Not
    in the papers.

    change, past (..., o, r), active, frequency (..., r) of any floating dtype -> (...) float32 or wider, with
    gradient to `change` alone; 0 with gradient 0 where nothing has changed. Columns of zeros have no
    direction and count for nothing. Zero if none is active.
    """
    dtype = torch.promote_types(change.dtype, torch.float32)
    D, B = change.to(dtype), past.detach().to(dtype)
    a, f = active.detach().to(dtype), frequency.detach().to(dtype)
    sizes = B.square().sum(-2)
    with _without_autocast(D.device):
        overlaps = (D.mT @ B).square() / sizes.clamp(min=eps * eps).unsqueeze(-2)
    weighted = torch.einsum("...i,...ij,...j->...", a, overlaps, f)
    size = (f * sizes).sum(-1) / f.sum(-1).clamp(min=eps)
    return weighted / (a.sum(-1) * size).clamp(min=eps * eps)


def _without_autocast(device: torch.device) -> AbstractContextManager[object]:
    """Autocast would round these sums to 8 bits of mantissa."""
    if not torch.amp.is_autocast_available(device.type):
        return nullcontext()
    return torch.autocast(device.type, enabled=False)
