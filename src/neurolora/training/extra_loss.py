"""Losses that are added to the task's own in training: what one looks like, and what it is told.

Room: training. `NeuroLoraTrainer` takes any number of them; `silence.py` is one, strategies of continual
learning bring others. Each is weighted, counted once in an optimizer step, and logged under its own name.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from neurolora.tuner.auxiliary import context_of
from neurolora.tuner.hooks import SCALE


@dataclass(frozen=True)
class Moment:
    """Where in a run a micro-batch stands, and its batch.

    inputs, outputs: of the task's own forward, with its graph. collate: rows of token ids to a batch on the
    model's device. Random choices must follow from seed, step, micro_batch and process alone, so that a run
    that was killed and resumed makes the same ones.
    """

    seed: int
    step: int
    micro_batch: int
    process: int
    inputs: dict[str, Any]
    outputs: Any
    collate: Callable[[list[Any]], dict[str, Any]]

    @property
    def place(self) -> tuple[int, int, int]:
        """(step, micro-batch, process)."""
        return self.step, self.micro_batch, self.process


class ExtraLoss(Protocol):
    """A loss beside the task's. `name` is its name in the log, with `_loss` behind it."""

    @property
    def name(self) -> str: ...  # noqa: D102

    @property
    def weight(self) -> float: ...  # noqa: D102

    @property
    def reads_outputs(self) -> bool:
        """Whether it looks at `moment.outputs`, so that these must be whole."""
        ...

    def is_due(self, step: int) -> bool:
        """Whether optimizer step `step` (from 0) has this loss."""
        ...

    def __call__(self, model: nn.Module, moment: Moment) -> Tensor:
        """The unweighted loss of one micro-batch: a scalar with gradient. A step has the mean over them."""
        ...


class EveryStep:
    """Of a loss that is due at every step, and that looks at the weights or at batches of its own."""

    reads_outputs: ClassVar[bool] = False

    def is_due(self, step: int) -> bool:
        """Always."""
        return True


def task_loss(model: nn.Module, batch: dict[str, Any]) -> Tensor:
    """The model's own loss on a batch with labels, without the orthogonality loss that the tuner adds.

    A scalar with gradient, the mean over label tokens.
    """
    extra = {} if context_of(model) is None else {SCALE: torch.zeros(())}
    loss: Tensor = model(**batch, **extra).loss
    return loss
