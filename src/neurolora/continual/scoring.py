"""Scores of an adapter on the tasks of a stream: one number a task, in percent, larger is better.

Room: continual; called by `cell` and `run`. The adapter is loaded from its folder, so what is scored is what
is kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neurolora.continual.config import StreamConfig, TaskEntry
from neurolora.evaluation import load_for_inference, task_score
from neurolora.tasks import TaskRequest
from neurolora.training import setup


@dataclass(frozen=True)
class Scorer:
    """The test rows of a stream's tasks, and how they are scored."""

    config: StreamConfig

    def score(self, folder: Path | str, tasks: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
        """(task, score) of each task, for an adapter, a model or `world`, loaded once."""
        loaded, settings = load_for_inference(str(folder)), self.config.eval
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
        first = self.config.strategies[0]
        training = self.config.training(first, entry.name, seed=0, place=0, output_dir=Path("unused"))
        return setup.task_request(training)
