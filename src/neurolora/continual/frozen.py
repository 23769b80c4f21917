"""Strategies that give each task an adapter of its own beside the frozen ones of earlier tasks.

Room: continual. After a task all of them are written as one adapter, the exact sum of their outputs
(`merging`, method concat), so what is evaluated and kept is one folder that PEFT loads.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from neurolora.continual.learner import Knobs, Learner
from neurolora.continual.weights import PAST, TRAINED
from neurolora.training.extra_loss import EveryStep, ExtraLoss, Moment


class GrowKnobs(Knobs):
    """It has none: the new block's A follows from the number of the task."""


class GrowLearner(Learner):
    """Ours. A fresh block with its own A, gate and ranks for each task; the earlier ones are frozen, and the
    outputs of all are summed. The weights of a task are never changed again; its outputs are, by the blocks
    that come after it, unless these are quiet on its inputs (`silence_weight` in training).

    The adapter grows by one block with each task; nothing else is kept.
    """

    def publish(self, trained: Path, past: Path | None, output: Path) -> Path:
        """All blocks in one adapter."""
        if past is None:
            return trained
        from neurolora.merging import merge_adapters

        merge_adapters([past, trained], output, method="concat", lambda_=1.0, overwrite=True)
        return output


class OLoraKnobs(Knobs):
    """The published values: lambda_1 of the official scripts, and lambda_2, which they leave at 0."""

    weight: float = Field(0.5, ge=0, description="lambda_1, of the overlap of A with the earlier A's")
    norm_weight: float = Field(0.0, ge=0, description="lambda_2, of the norms of the new A and B")


def overlap(new: Tensor, past: Tensor) -> Tensor:
    """sum over i, j of |<new_i, past_j>|, the rows of two A's: new (r, d), past (R, d) -> a scalar.

    As in the official code; the paper's equation squares each product.
    """
    return (past.to(new.dtype) @ new.mT).abs().sum()


@dataclass(frozen=True)
class OverlapLoss(EveryStep):
    """sum over modules of the overlap of A with the earlier A's."""

    weight: float
    name: str = "olora"

    def __call__(self, model: nn.Module, moment: Moment) -> Tensor:
        """Of the weights alone: the batch is not looked at."""
        terms = [
            overlap(layer.lora_A[TRAINED].weight, layer.lora_A[PAST].weight)
            for layer in _layers(model)
            if PAST in layer.lora_A
        ]
        return torch.stack(terms).sum()


@dataclass(frozen=True)
class NormLoss(EveryStep):
    """sum over modules of ||A|| + ||B|| of the new LoRA."""

    weight: float
    name: str = "olora_norm"

    def __call__(self, model: nn.Module, moment: Moment) -> Tensor:
        """Of the weights alone: the batch is not looked at."""
        parts = [part[TRAINED].weight for layer in _layers(model) for part in (layer.lora_A, layer.lora_B)]
        return torch.stack([part.norm() for part in parts]).sum()


def _layers(model: nn.Module) -> list[Any]:
    """The modules with a LoRA that is trained."""
    return [module for module in model.modules() if TRAINED in getattr(module, "lora_A", {})]


class OLoraLearner(GrowLearner):
    """O-LoRA (Wang et al., 2023, arXiv 2310.14152): a new LoRA for each task, its A's rows kept orthogonal to
    those of the earlier, frozen ones; all are summed.

    The adapter grows by r ranks with each task; nothing else is kept. Each loss counts once in an optimizer
    step, whatever the gradient accumulation.
    """

    def losses(self, model: nn.Module) -> list[ExtraLoss]:
        """The overlap from the second task on, the norms in all; none of weight 0."""
        found: list[ExtraLoss] = []
        if self.knobs.weight and any(PAST in layer.lora_A for layer in _layers(model)):
            found.append(OverlapLoss(self.knobs.weight))
        if self.knobs.norm_weight:
            found.append(NormLoss(self.knobs.norm_weight))
        return found
