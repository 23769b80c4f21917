"""Replay: some rows of earlier tasks are learned again beside the new ones (Chaudhry et al., 2019,
arXiv 1902.10486). The honest upper comparison: it keeps data, which the others do not.

Room: continual.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from neurolora.continual.learner import BatchLoss, Knobs, Learner, TaskData
from neurolora.continual.memory import Memory
from neurolora.training.extra_loss import EveryStep, ExtraLoss, Moment
from neurolora.training.silence import mixed_seed


class ReplayKnobs(Knobs):
    """How much is kept, and how much of it is heard again."""

    rows: int = Field(64, gt=0, description="rows kept of each task")
    batch_size: int = Field(8, gt=0, description="of them beside each micro-batch")
    weight: float = Field(1.0, gt=0, description="of their loss")


@dataclass(frozen=True)
class ReplayLoss(EveryStep):
    """The model's loss on rows drawn from all that were kept."""

    rows: Sequence[Any]
    batch_size: int
    weight: float
    batch_loss: BatchLoss
    name: str = "replay"

    def __call__(self, model: nn.Module, moment: Moment) -> Tensor:
        """The loss of the rows that seed and place choose."""
        generator = torch.Generator().manual_seed(mixed_seed("replay", moment.seed, *moment.place))
        count = min(self.batch_size, len(self.rows))
        places = torch.randperm(len(self.rows), generator=generator)[:count].tolist()
        return self.batch_loss(model, moment.collate([self.rows[place] for place in places]))


class ReplayLearner(Learner):
    """Experience replay (Chaudhry et al., 2019, arXiv 1902.10486).

    Keeps `rows` rows of each task as token ids: grows with the number of tasks.
    """

    def losses(self, model: nn.Module) -> list[ExtraLoss]:
        """None for the first task."""
        rows = self.memory.values.get("rows", [])
        if not rows:
            return []
        return [ReplayLoss(rows, self.knobs.batch_size, self.knobs.weight, self.batch_loss)]

    def remember(self, model: nn.Module, data: TaskData, task: int) -> Memory:
        """The rows kept so far, and some of this task's."""
        kept = [*self.memory.values.get("rows", []), *data.some(self.knobs.rows)]
        return Memory({}, {"rows": kept})
