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
from neurolora.training.extra_loss import ExtraLoss, Moment


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
    """sum over i, j of |<new_i, past_j>|, the rows of two A's: new (r, d), past (R, d) -> a scalar."""
    return (past.to(new.dtype) @ new.mT).abs().sum()


@dataclass(frozen=True)
class OLoraLoss:
    """sum over modules of the overlap of A with the earlier A's, and of the norms of A and B."""

    weight: float
    norm_weight: float
    name: str = "olora"

    def is_due(self, step: int) -> bool:
        """At every step."""
        return True

    def __call__(self, model: nn.Module, moment: Moment) -> Tensor:
        """The overlap and, in units of its weight, the norms."""
        terms: list[Tensor] = []
        for module in model.modules():
            down: Any = getattr(module, "lora_A", None)
            if down is None or TRAINED not in down or PAST not in down:
                continue
            A, B = down[TRAINED].weight, module.lora_B[TRAINED].weight  # type: ignore[union-attr, index]
            terms.append(overlap(A, down[PAST].weight))
            if self.norm_weight:
                terms.append(self.norm_weight / self.weight * (A.norm() + B.norm()))
        return torch.stack(terms).sum()


class OLoraLearner(GrowLearner):
    """O-LoRA (Wang et al., 2023, arXiv 2310.14152): a new LoRA for each task, its A's rows kept orthogonal to
    those of the earlier, frozen ones; all are summed.

    The adapter grows by r ranks with each task. As in the official code, the loss has the weight lambda_1 in
    every micro-batch; ours counts once a step, so with gradient accumulation it is weaker by that factor.
    """

    def losses(self, model: nn.Module) -> list[ExtraLoss]:
        """None for the first task."""
        has_past = any(PAST in getattr(module, "lora_A", {}) for module in model.modules())
        if not has_past or not self.knobs.weight:
            return []
        return [OLoraLoss(self.knobs.weight, self.knobs.norm_weight)]
