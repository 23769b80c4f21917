"""Elastic weight consolidation on the adapter's parameters (Kirkpatrick et al., 2017, arXiv 1612.00796).

Room: continual. The online form with decay is that of Schwarz et al. (2018, arXiv 1805.06370).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from neurolora.continual.learner import BatchLoss, Knobs, Learner, TaskData, trainable_parameters
from neurolora.continual.memory import Memory
from neurolora.evaluation.scores import in_eval_mode
from neurolora.training.extra_loss import EveryStep, ExtraLoss, Moment


class EwcKnobs(Knobs):
    """form: `online` decays what earlier tasks left and pulls to the newest weights; `per_task` adds a
    penalty for each task, all kept as one."""

    weight: float = Field(1000.0, gt=0, description="lambda, of half the penalty")
    form: Literal["online", "per_task"] = "online"
    decay: float = Field(1.0, ge=0, le=1, description="gamma of the online form")
    samples: int = Field(256, gt=0, description="rows that the Fisher information is estimated on")


def fisher_diagonal(
    model: nn.Module, batches: Iterable[dict[str, Any]], batch_loss: BatchLoss
) -> dict[str, Tensor]:
    """F_p = mean over rows of (d log p(y | x) / d p)^2, for each trainable parameter, float32.

    The empirical Fisher information, at the labels of the data. batches: of one row each. log p(y | x) is the
    sum over the row's label tokens, or that of its one label. Evaluation mode, so no dropout; it is put back.
    """
    parameters = trainable_parameters(model)
    sums = {name: torch.zeros_like(value, dtype=torch.float32) for name, value in parameters.items()}
    count = 0
    with in_eval_mode(model):
        for batch in batches:
            loss = batch_loss(model, batch) * label_count(batch["labels"])
            grads = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
            for name, grad in zip(parameters, grads, strict=True):
                if grad is not None:
                    sums[name] += grad.to(torch.float32).square()
            count += 1
    return {name: value / max(count, 1) for name, value in sums.items()}


def label_count(labels: Tensor) -> int:
    """Labels that a row's mean loss is taken over: of (1, length) the shifted tokens, of (1) the one."""
    return int(labels[:, 1:].ne(-100).sum()) if labels.dim() == 2 else labels.numel()


def consolidate(old: Memory, fisher: dict[str, Tensor], now: dict[str, Tensor], knobs: EwcKnobs) -> Memory:
    """The Fisher information F of all tasks and the anchor a that the penalty F (p - a)^2 / 2 pulls to.

    online: F = gamma F_old + F_new, a = the newest weights. per_task: sum_t F_t (p - p_t)^2 differs by a
    constant from F (p - a)^2 with F = sum_t F_t and a the mean of the p_t weighted by F_t; so it takes no
    more room for many tasks than for one. Where F is 0, a is the newest weights.
    """
    kept: dict[str, Tensor] = {}
    for name, new in fisher.items():
        before, anchor = old.tensors.get(f"F.{name}"), old.tensors.get(f"a.{name}")
        p = now[name].detach().to(torch.float32, copy=True)  # not the weights themselves, which go on
        if before is None or anchor is None:
            total, target = new, p
        elif knobs.form == "online":
            total, target = knobs.decay * before.to(new) + new, p
        else:
            total = before.to(new) + new
            mean = (before.to(new) * anchor.to(new) + new * p) / total
            target = torch.where(total > 0, mean, p)
        kept |= {f"F.{name}": total, f"a.{name}": target}
    return Memory(kept, {"tasks": int(old.values.get("tasks", 0)) + 1})


@dataclass(frozen=True)
class EwcLoss(EveryStep):
    """sum over p of F_p (p - a_p)^2 / 2."""

    fisher: dict[str, Tensor]
    anchor: dict[str, Tensor]
    weight: float
    name: str = "ewc"

    def __call__(self, model: nn.Module, moment: Moment) -> Tensor:
        """The penalty, half included, lambda not."""
        parameters = trainable_parameters(model)
        terms = [
            (F * (parameters[name].to(F) - self.anchor[name]).square()).sum()
            for name, F in self.fisher.items()
        ]
        return 0.5 * torch.stack(terms).sum()


class EwcLearner(Learner):
    """Elastic weight consolidation (Kirkpatrick et al., 2017, arXiv 1612.00796; online: 1805.06370).

    Keeps the Fisher information and the anchor: twice the trained weights in float32, whatever the number of
    tasks.
    """

    def losses(self, model: nn.Module) -> list[ExtraLoss]:
        """None for the first task."""
        tensors = self.memory.tensors
        if not tensors:
            return []
        device = next(model.parameters()).device
        parts = [
            {name[2:]: value.to(device) for name, value in tensors.items() if name.startswith(kind)}
            for kind in ("F.", "a.")
        ]
        return [EwcLoss(parts[0], parts[1], self.knobs.weight)]

    def remember(self, model: nn.Module, data: TaskData, task: int) -> Memory:
        """Measure the Fisher information at the task's end."""
        fisher = fisher_diagonal(model, data.batches(self.knobs.samples, 1), self.batch_loss)
        return consolidate(self.memory, fisher, dict(trainable_parameters(model)), self.knobs)
