"""The auxiliary loss for trainers that make their own loss of the labels' log-likelihoods, as TRL's do.

Room: tuner; called by `hooks.py`. Such a trainer never looks at the model's loss, nor says how much of an
optimizer step a micro-batch is. Its gradient does: of the negative log-likelihood over N labels each
log-likelihood has -1/N, whatever is accumulated, averaged over processes or scaled for float16.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor

from neurolora.errors import explain
from neurolora.tuner.context import ForwardContext


def attach_to_likelihoods(log_probs: Tensor, auxiliary: Tensor, context: ForwardContext) -> Tensor:
    """`log_probs` as they are; in the backward `auxiliary` (scalar) gets the weight -sum(dL/d log_probs).

    For the mean negative log-likelihood that is the micro-batch's share of the step, the weight that the term
    has in a model's own loss. A loss that lowers a log-likelihood, as of preferences or rewards, tells no
    such weight: from then on the term is left out, and a warning says so.
    """
    return _Attached.apply(log_probs, auxiliary, context)  # type: ignore[no-any-return, no-untyped-call]


class _Attached(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, log_probs: Tensor, auxiliary: Tensor, context: ForwardContext) -> Tensor:
        ctx.context, ctx.dtype, ctx.device = context, auxiliary.dtype, auxiliary.device
        return log_probs.view_as(log_probs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        (gradient,) = gradients
        context: ForwardContext = ctx.context
        if not context.ranks_likelihoods and bool((gradient > 0).any()):
            context.ranks_likelihoods = True
            warnings.warn(PREFERENCES, UserWarning, stacklevel=2)
        weight = torch.zeros_like(gradient.sum()) if context.ranks_likelihoods else -gradient.sum()
        return gradient, weight.to(ctx.device, ctx.dtype), None


PREFERENCES = explain(
    "Adding the orthogonality loss (Eq. 8)",
    "the trainer's loss lowers the likelihood of some labels, so it is not the supervised one that the paper "
    "adds it to; it is left out",
    "Set orthogonality_weight=0 to train without it, or add neurolora.get_auxiliary_loss(model) to the loss "
    "after the forward",
)
