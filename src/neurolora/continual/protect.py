"""Ours: the orthogonality loss extended to earlier tasks. What a task changes of B is kept orthogonal to the
columns that earlier tasks use, the more so the oftener these were active there.

Room: continual. For routed adapters (NeuroLoRA, FlyLoRA).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from pydantic import Field
from torch import Tensor, nn

from neurolora.continual.learner import Knobs, Learner, TaskData
from neurolora.continual.memory import Memory
from neurolora.continual.weights import TRAINED
from neurolora.core.orthogonality import protection_loss
from neurolora.evaluation.scores import in_eval_mode
from neurolora.training.extra_loss import EveryStep, ExtraLoss, Moment
from neurolora.tuner import adapter_layers
from neurolora.tuner.layer import NeuroLoraLayer
from neurolora.tuner.statistics import ActiveRanks, observed_by


class ProtectKnobs(Knobs):
    """How much it weighs, and how well it is measured."""

    weight: float = Field(1.0, gt=0, description="of the loss")
    samples: int = Field(256, gt=0, description="rows on which it is counted how often a rank is active")
    batch_size: int = Field(16, gt=0)


@dataclass(frozen=True)
class ProtectLoss(EveryStep):
    """Mean over modules of `core.orthogonality.protection_loss`. past and frequency by the module's path."""

    past: dict[str, Tensor]
    frequency: dict[str, Tensor]
    weight: float
    name: str = "protect"

    def __call__(self, model: nn.Module, moment: Moment) -> Tensor:
        """From the routing that the task's own forward has recorded, where it has: else all ranks count."""
        terms = []
        for path, layer in adapter_layers(model):
            B, past, frequency = layer.neurolora_B[TRAINED], self.past[path], self.frequency[path]
            terms.append(protection_loss(B - past, past, _active(layer).to(frequency), frequency))
        return torch.stack(terms).mean()


def _active(layer: NeuroLoraLayer) -> Tensor:
    """How often each rank is active now, in any unit: (r)."""
    record, settings = layer.records.get(TRAINED), layer.settings[TRAINED]
    if record is None or settings.active == settings.r:  # all are always active: the record holds zeros
        return torch.ones(settings.r)
    return record.coactivation.sum(-1)


class ProtectLearner(Learner):
    """Ours: `core.orthogonality.protection_loss` on what the task changes of B.

    Keeps how often each rank was active in earlier tasks, r numbers a module, whatever the number of tasks;
    while a task is learned also a copy of B, which is the adapter's own and not kept.
    """

    def losses(self, model: nn.Module) -> list[ExtraLoss]:
        """None for the first task."""
        if not self.memory.tensors:
            return []
        layers = dict(adapter_layers(model))
        past = {path: layer.neurolora_B[TRAINED].detach().clone() for path, layer in layers.items()}
        frequency = {path: self.memory.tensors[layers[path].name].to(B) for path, B in past.items()}
        return [ProtectLoss(past, frequency, self.knobs.weight)]

    def remember(self, model: nn.Module, data: TaskData, task: int) -> Memory:
        """The mean over tasks of each rank's frequency."""
        found = active_frequencies(model, data, self.knobs.samples, self.knobs.batch_size)
        tasks = int(self.memory.values.get("tasks", 0))
        mean = {
            name: (self.memory.tensors.get(name, torch.zeros_like(new)) * tasks + new) / (tasks + 1)
            for name, new in found.items()
        }
        return Memory(mean, {"tasks": tasks + 1})


@torch.no_grad()
def active_frequencies(model: nn.Module, data: TaskData, samples: int, batch_size: int) -> dict[str, Tensor]:
    """Of each module, by its name, the share of tokens on which each rank is active: (r) float32."""
    ranks = ActiveRanks()
    with in_eval_mode(model), observed_by(model, ranks):
        for batch in data.batches(samples, batch_size):
            model(**{name: value for name, value in batch.items() if name != "labels"})
    return {name: frequency.float() for (name, _), frequency in ranks.frequencies().items()}
