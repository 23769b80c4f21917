"""A learned router over experts (MoLE), for comparison with the routing that nobody learns.

Room: core, maths on tensors alone. The r ranks lie in E experts of r / E ranks each. With p = softmax(W x),
the experts with the largest p are active, each with the weight p_e / (sum of the active p), so that

    dy = (alpha / r) * sum over active e of weight_e B_e A_e x.

Sources: mixtures of LoRA experts, arXiv 2404.13628 and 2404.15159; normalised weights, arXiv 2401.04088; the
balancing loss, arXiv 2101.03961, Eqs. 4 to 6.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from neurolora.core.gate import linear_weight
from neurolora.core.routing import top_k_mask


def expert_probabilities(x: Tensor, W: Tensor) -> Tensor:
    """p = softmax(W x): x (..., d), W (E, d) of one dtype -> (..., E) float32 or wider."""
    logits = functional.linear(x, W)
    return torch.softmax(logits.to(torch.promote_types(logits.dtype, torch.float32)), dim=-1)


def chosen_experts(p: Tensor, k: int, ranks_each: int) -> tuple[Tensor, Tensor]:
    """The weight and the choice of every rank, its expert's: m (..., r) in p's dtype, mask bool (..., r).

    p (..., E), k experts active, equal ones by the lower index. The active weights add up to one over the
    experts; the gradient flows through them, none through the choice. ConfigError unless 1 <= k <= E.
    """
    chosen = top_k_mask(p, k)
    active = p.masked_fill(~chosen, 0.0)
    weights = active / active.sum(-1, keepdim=True)
    return weights.repeat_interleave(ranks_each, -1), chosen.repeat_interleave(ranks_each, -1)


def summed_probabilities(p: Tensor, keep: Tensor | None = None) -> Tensor:
    """The sum of p over kept tokens, with gradient: p (..., E), keep bool (...), False at padding -> (E)."""
    total: Tensor = _KeptSum.apply(p, keep)  # type: ignore[no-untyped-call]
    return total


class _KeptSum(torch.autograd.Function):
    """The sum over tokens, which keeps nothing that activation checkpointing would have to make again.

    A forward that is run again does not take this sum a second time, so the graph of the first run must not
    have saved tensors for it: the padding mask stays on the node itself.
    """

    @staticmethod
    def forward(ctx: Any, p: Tensor, keep: Tensor | None) -> Tensor:
        ctx.shape, ctx.keep = p.shape, None if keep is None else keep.unsqueeze(-1)
        kept = p if keep is None else p.masked_fill(~ctx.keep, 0.0)
        return kept.reshape(-1, p.shape[-1]).sum(0)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        spread = gradients[0].expand(ctx.shape)
        return spread if ctx.keep is None else spread.masked_fill(~ctx.keep, 0.0), None


def balance_loss(probabilities: Tensor, counts: Tensor, tokens: Tensor, k: int) -> Tensor:
    """L = E * sum over e of f_e P_e: 1 where all experts are used alike, up to E / k where k do it all.

    probabilities (E): `summed_probabilities` over `tokens` tokens, P_e their mean. counts int64 (E): how
    often each expert was active; f_e is its part of the k * tokens places. Gradient through P alone -> ().
    """
    total = tokens.clamp(min=1)
    used = counts.to(probabilities.dtype) / (k * total)
    return len(probabilities) * (used * probabilities / total).sum()


def initial_router(experts: int, d: int, *, seed: int, name: str) -> dict[str, Tensor]:
    """`W1` (E, d) float32 on the CPU, drawn as nn.Linear draws its weight."""
    return {"W1": linear_weight(experts, d, "router", seed, name)}
