"""Scores of an adapter on the tasks of a stream: one number a task, in percent, larger is better.

Room: continual; called by `cell` and `run`, and by `studies`. The adapter is loaded from its folder, so what
is scored is what is kept; on its base as it was trained on: the same revision, dtype and quantisation.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neurolora.continual.config import StreamConfig, TaskEntry
from neurolora.evaluation import Loaded, load_for_inference, task_score
from neurolora.evaluation.loading import placed
from neurolora.tasks import TaskRequest
from neurolora.training import setup
from neurolora.training.config import TrainingConfig


@dataclass(frozen=True)
class Scorer:
    """The test rows of a stream's tasks, and how they are scored."""

    config: StreamConfig

    def score(self, loaded: Loaded, tasks: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
        """(task, score) of each task."""
        settings = self.config.eval
        for name in tasks:
            entry = self.config.task(name)
            found = task_score(
                loaded,
                self.request(entry),
                metric=entry.metric,
                split=settings.split,
                limit=settings.limit,
                batch_size=settings.batch_size,
            )
            yield name, found

    def request(self, entry: TaskEntry) -> TaskRequest:
        """The task's data as evaluation takes it."""
        return setup.task_request(self.config.any_training(self.config.strategies[0], entry.name))


def device_of(training: TrainingConfig) -> str | None:
    """Where a run's model belongs: on the CPU if it was trained there by wish, else (None) where it can."""
    return "cpu" if training.train.use_cpu else None


def load_as_trained(folder: Path | None, training: TrainingConfig) -> Loaded:
    """The adapter in `folder` on the base that `training` describes, a whole model, or (None) the base alone.

    Raises what loading raises.
    """
    device = device_of(training)
    if folder is not None and training.adapter.method != "full":
        return load_for_inference(folder, device=device, base=setup.load_base_model(training))
    if folder is not None:
        model, tokenizer = setup.load_finished(training, folder)
    else:
        model = setup.load_base_model(training)
        tokenizer, _ = setup.load_tokenizer(training, model.config)
    return Loaded(placed(model, device), tokenizer, None)
