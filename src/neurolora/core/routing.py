"""Which ranks are active: the score, exactly-k selection (Eq. 5) and load balancing.

Room: core, maths on tensors alone; no function here reads a value back to the host, so that all of them
run on any device, the meta device included, and inside torch.compile without a graph break.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from neurolora.errors import ConfigError, explain

Routing = Literal["abs", "signed"]


def routing_score(h_mod: Tensor, routing: Routing = "abs", bias: Tensor | None = None) -> Tensor:
    """|h'| (both papers' text) or h' itself (FlyLoRA's own code), plus the load-balancing bias (r), if any.

    h_mod (..., r) -> score (..., r), without gradient: selection is not differentiated.
    The bias moves the selection only, never the output.
    """
    if routing not in get_args(Routing):
        raise ConfigError(explain("Routing", f"routing is {routing!r}", "Use 'abs' or 'signed'."))
    score = h_mod.detach()
    if routing == "abs":
        score = score.abs()
    return score if bias is None else score + bias.detach()


def block_top_k_mask(score: Tensor, k: int, blocks: int = 1) -> Tensor:
    """`top_k_mask` in each of as many equal parts of the last dimension: bool (..., r)."""
    parts = score.view(*score.shape[:-1], blocks, score.shape[-1] // blocks)
    return top_k_mask(parts, k).flatten(-2)


def top_k_mask(score: Tensor, k: int) -> Tensor:
    """True at the k largest entries of the last dimension (Eq. 5): bool (..., r), exactly k a row.

    Equal scores: the lower index wins (0.0 and -0.0 are equal). NaN ranks above +inf, so that a NaN is
    always selected, reaches the loss and is seen; several NaNs are equal. Deterministic on every device.
    Raises ConfigError unless 1 <= k <= r.
    """
    r = score.shape[-1]
    if not 1 <= k <= r:
        raise ConfigError(
            explain("Selecting the active ranks", f"top_k is {k} and r is {r}", "Use 1 <= top_k <= r.")
        )
    winners = torch.sort(score.detach(), dim=-1, descending=True, stable=True).indices[..., :k]
    return torch.zeros_like(score, dtype=torch.bool).scatter(-1, winners, True)


def active_counts(mask: Tensor, keep: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """How often each rank was active, and over how many tokens.

    mask bool (..., r), keep bool (...) with False at padding -> counts int64 (r), tokens int64 ().
    """
    flat = mask.reshape(-1, mask.shape[-1])
    kept = torch.ones_like(flat[:, 0]) if keep is None else keep.reshape(-1).to(torch.bool)
    return (flat & kept.unsqueeze(-1)).sum(0), kept.sum()


def load_balance_step(bias: Tensor, counts: Tensor, tokens: int | Tensor, k: int, rate: float) -> Tensor:
    """d_i + rate * sign(mean frequency - frequency_i): the new bias (r); `bias` stays as it was.

    frequency_i = counts_i / tokens, and their mean is k / r. Both sides are multiplied by r * tokens, so that
    the comparison is exact on integers and no tokens means no change.
    counts int64 (r), tokens: how many tokens they were counted over. Source: FlyLoRA, section on balancing.
    """
    lacking = k * tokens - counts.to(torch.int64) * bias.shape[-1]
    return bias + rate * torch.sign(lacking).to(bias.dtype)
