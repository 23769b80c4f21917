"""What a strategy does beside training, and what it is given: the base that the others build on.

Room: continual. A learner lives for one task. It holds no model and no data; it is told of both. `cell.py`
calls it around `run_training`; a loop of one's own may as well, as benchmarks/real_continual.py does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from neurolora.continual.memory import Memory
from neurolora.training import setup
from neurolora.training.config import TrainingConfig
from neurolora.training.extra_loss import ExtraLoss, task_loss

#: What becomes of the adapter of the tasks before: trained on, kept frozen beside a new one, or left out.
Carry = Literal["weights", "frozen", "nothing"]
BatchLoss = Callable[[nn.Module, dict[str, Any]], Tensor]


class Knobs(BaseModel):
    """A strategy's own settings: frozen, and nothing unknown gets in."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


@dataclass(frozen=True)
class TaskData:
    """A task's encoded training rows, and how they become a batch on the model's device."""

    rows: Sequence[Any]
    collate: Callable[[list[Any]], dict[str, Any]]
    seed: int

    def some(self, count: int) -> list[Any]:
        """At most `count` rows, drawn by the seed alone."""
        generator = torch.Generator().manual_seed(self.seed)
        places = torch.randperm(len(self.rows), generator=generator)[:count].tolist()
        return [self.rows[place] for place in places]

    def batches(self, count: int, size: int) -> Iterator[dict[str, Any]]:
        """Batches of `size` out of `some(count)`."""
        chosen = self.some(count)
        for start in range(0, len(chosen), size):
            yield self.collate(chosen[start : start + size])


def training_data(config: TrainingConfig, model: Any, tokenizer: Any) -> TaskData:
    """The training rows of a run, in batches for this model. Raises DataError."""
    rows = setup.load_rows(config, tokenizer, "train").rows
    collate = setup.collator(tokenizer, next(model.parameters()).device)
    return TaskData(rows, collate, config.train.seed)


class Learner:
    """Sequential fine-tuning (the papers' ...-Seq): the adapter goes on, and nothing holds it back.

    Keeps nothing. It is also the learner of the bounds, to which no adapter goes on (`Strategy.carry`).

    knobs: the strategy's settings. memory: what `remember` returned after the task before. batch_loss: the
    model's loss on a batch, without what the tuner adds to it.
    """

    def __init__(self, knobs: Any, memory: Memory, batch_loss: BatchLoss = task_loss) -> None:
        self.knobs = knobs
        self.memory = memory
        self.batch_loss = batch_loss

    def losses(self, model: nn.Module) -> list[ExtraLoss]:
        """What is added to the task's loss; `model` holds the weights that the task starts from."""
        return []

    def remember(self, model: nn.Module, data: TaskData, task: int) -> Memory:
        """What the next task needs, once task number `task` is learned; `model` holds its weights."""
        return Memory()

    def publish(self, trained: Path, past: Path | None, output: Path) -> Path:
        """The folder of the adapter that stands for all tasks so far; a new one is written into `output`.

        trained: the folder of this task's run. past: the adapter after the task before.
        """
        return trained


def trainable_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that the task trains, by name, each once."""
    return {name: value for name, value in model.named_parameters() if value.requires_grad}
