"""The parts of a training step's loss, as the tuner left them, and how much of the step a micro-batch is.

Room: training; used by `trainer` alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from neurolora.tuner import get_auxiliary_loss
from neurolora.tuner.auxiliary import context_of
from neurolora.tuner.context import real_tokens


@dataclass(frozen=True)
class Losses:
    """`task`: the model's own loss, scaled as the trainer asked. `orthogonality`: L of this micro-batch,
    unweighted, None where its weight is 0. `scale`: what L was multiplied with besides its weight."""

    task: float
    orthogonality: float | None
    scale: float


def last_losses(model: nn.Module) -> Losses | None:
    """The parts of the last forward's loss; None if nothing was added to it."""
    context = context_of(model)
    if context is None or context.task_loss is None or context.orthogonality_loss is None:
        return None
    weight = next(
        (
            layer.settings[adapter].orthogonality_weight
            for layer in context.layers
            for adapter in layer.records
            if layer.settings[adapter].orthogonality_weight > 0
        ),
        None,
    )
    scale = 1.0 if context.auxiliary_scale is None else float(context.auxiliary_scale)
    orthogonality = None if weight is None else float(context.orthogonality_loss) / weight
    return Losses(float(context.task_loss), orthogonality, scale)


def add_missing_orthogonality(model: nn.Module, loss: Tensor, scale: Tensor | float) -> Tensor:
    """`loss`, made outside the model (label smoothing, a loss function of the user's), with the term added.

    The model adds it by itself only to a loss of its own.
    """
    context = context_of(model)
    if context is None or context.task_loss is not None or not any(layer.records for layer in context.layers):
        return loss
    auxiliary = get_auxiliary_loss(model)
    context.task_loss = loss.detach()
    context.auxiliary_scale = scale
    return loss + (auxiliary * scale).to(loss)


def step_tokens(
    model: nn.Module, batches: Sequence[Any], device: torch.device, gather: Callable[[Tensor], Tensor]
) -> Tensor | None:
    """Real tokens in all micro-batches of an optimizer step, over all processes: int64 (), at least 1.

    None if there is nothing to weigh: no adapted layers, or batches that are not made of tokens.
    """
    if context_of(model) is None:
        return None
    counts = [real_tokens(batch) for batch in batches if isinstance(batch, Mapping)]
    known = [torch.as_tensor(count, device=device) for count in counts if count is not None]
    if not known or len(known) < len(batches):
        return None
    return gather(torch.stack(known).sum().reshape(1)).sum().clamp(min=1)


def step_share(inputs: Any, total: Tensor | None) -> Tensor | None:
    """The part of its optimizer step that a micro-batch is, by real tokens: the weight of its C in that of
    the whole step (docs/method.md, orthogonality loss). None if that is not known."""
    tokens = real_tokens(inputs) if total is not None else None
    return None if tokens is None or total is None else torch.as_tensor(tokens, device=total.device) / total
