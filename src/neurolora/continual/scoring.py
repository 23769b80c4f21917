"""Scores of an adapter on the tasks of a stream: one number a task, in percent, larger is better.

Room: continual; called by `cell` and `run`. The adapter is loaded from its folder, so what is scored is what
is kept.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neurolora.continual.config import StreamConfig, TaskEntry
from neurolora.errors import DataError, explain
from neurolora.evaluation import answer_token_loss, evaluate, load_for_inference
from neurolora.evaluation.results import LOWER_IS_BETTER
from neurolora.tasks import TaskRequest, load_examples
from neurolora.training import setup


@dataclass(frozen=True)
class Scorer:
    """The test rows of a stream's tasks, and how they are scored."""

    config: StreamConfig

    def score(self, folder: Path | str, tasks: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
        """(task, score) of each task, for an adapter, a model or `world`, loaded once."""
        loaded = load_for_inference(str(folder))
        for name in tasks:
            entry = self.config.task(name)
            yield name, _MEASURES[entry.metric](self, loaded, entry)

    def request(self, entry: TaskEntry) -> TaskRequest:
        """The task's data as evaluation takes it."""
        first = self.config.strategies[0]
        training = self.config.training(first, entry.name, seed=0, place=0, output_dir=Path("unused"))
        return setup.task_request(training)

    def _own_score(self, loaded: Any, entry: TaskEntry) -> dict[str, Any]:
        settings = self.config.eval
        found = evaluate(
            loaded.model,
            loaded.tokenizer,
            [self.request(entry)],
            batch_size=settings.batch_size,
            limit=settings.limit,
            log_samples=False,
            split=settings.split,
            progress=False,
        )
        task = next(iter(found.results))
        metric, value, stderr = found.headline(task)
        if metric in LOWER_IS_BETTER:
            do = "Set `metric: answer_probability` for this task"
            raise DataError(explain(f"scoring {entry.name}", f"its own score is a {metric}", do))
        return _score(metric, 100 * value, 100 * stderr, found.n_samples[task])

    def _answer_probability(self, loaded: Any, entry: TaskEntry) -> dict[str, Any]:
        """100 exp(-mean loss of the answer's tokens), and its standard error by the delta method."""
        settings = self.config.eval
        request = dataclasses.replace(self.request(entry), limit=settings.limit)
        examples = load_examples(request, settings.split)
        loss = answer_token_loss(loaded.model, loaded.tokenizer, examples, settings.batch_size)
        value = 100 * math.exp(-loss.value)
        return _score("answer_probability", value, value * loss.stderr, len(examples))


_MEASURES = {"accuracy": Scorer._own_score, "answer_probability": Scorer._answer_probability}


def _score(metric: str, value: float, stderr: float, n: int) -> dict[str, Any]:
    shown = None if math.isnan(stderr) else round(stderr, 6)
    return {"metric": metric, "value": round(value, 6), "stderr": shown, "n": n}
