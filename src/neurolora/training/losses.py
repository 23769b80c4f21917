"""Task loss and orthogonality loss of the last forward, apart, as the tuner left them.

Room: training; read by `trainer`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from neurolora.tuner.auxiliary import auxiliary_share, context_of


@dataclass(frozen=True)
class Losses:
    """`task`: the model's own loss, scaled as the trainer asked. `orthogonality`: L of this micro-batch,
    unweighted. `share`: the part of the optimizer step that this micro-batch is."""

    task: float
    orthogonality: float
    share: float


def last_losses(model: nn.Module, inputs: dict[str, Any], shifts_labels: bool) -> Losses | None:
    """The parts of the loss that `model` gave for `inputs`; None if no orthogonality loss was added."""
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
        1.0,
    )
    share = float(auxiliary_share(inputs, shifts_labels))
    return Losses(float(context.task_loss), float(context.orthogonality_loss) / weight, share)
