"""A merged adapter beside its parents: each parent alone on its own task, then the merged one (Table 2).

Room: evaluation. The command `eval --against-parents` calls it. Models are loaded one at a time.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neurolora.errors import AdapterError, ConfigError, explain
from neurolora.evaluation.harness import evaluate
from neurolora.evaluation.loading import load_for_inference
from neurolora.evaluation.results import LOWER_IS_BETTER, EvaluationResult, plain
from neurolora.evaluation.statistics import mean, mean_stderr
from neurolora.tasks import TaskRequest

MERGE_FILE = "merge.json"


@dataclass(frozen=True)
class TaskComparison:
    """One task: its parent's score alone, the merged adapter's, each with its standard error over rows.

    difference: merged minus alone; difference_stderr is paired by row, NaN where rows have no score.
    """

    task: str
    parent: str
    metric: str
    rows: int
    alone: float
    alone_stderr: float
    merged: float
    merged_stderr: float
    difference: float
    difference_stderr: float

    @property
    def drop(self) -> float:
        """What merging lost, in percent of the score alone; NaN for a score of 0."""
        lost = self.difference if self.metric.split(",")[0] in LOWER_IS_BETTER else -self.difference
        return 100 * lost / self.alone + 0.0 if self.alone else math.nan  # no -0.0


@dataclass(frozen=True)
class Comparison:
    """All tasks of a merge."""

    merged: str
    tasks: tuple[TaskComparison, ...]
    environment: dict[str, Any]

    @property
    def mean_drop(self) -> float:
        """Mean of the tasks' drops, in percent, of those that have one; NaN if none has."""
        drops = [task.drop for task in self.tasks if math.isfinite(task.drop)]
        return mean(drops) if drops else math.nan

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        rows = [{**dataclasses.asdict(task), "drop_percent": task.drop} for task in self.tasks]
        made: dict[str, Any] = plain(
            {"merged": self.merged, "tasks": rows, "mean_drop_percent": self.mean_drop}
        )
        return {**made, "environment": self.environment}


def parents_of(merged: Path | str) -> list[str]:
    """The parents' folders, from the provenance beside a merged adapter. Raises AdapterError."""
    path = Path(merged) / MERGE_FILE
    try:
        found = json.loads(path.read_text(encoding="utf-8"))["parents"]
        return [str(parent["path"]) for parent in found]
    except (OSError, ValueError, KeyError, TypeError) as error:
        do = "Give a folder that `merge` has written, or name the parents"
        raise AdapterError(explain(f"reading {path}", f"it names no parents ({error})", do)) from error


def compare_with_parents(
    merged: Path | str,
    parents: Sequence[Path | str] | None = None,
    *,
    progress: Callable[[str], None] = lambda what: None,
    load: dict[str, Any] | None = None,
    **options: Any,
) -> Comparison:
    """Score every parent on the task it was trained on, and the merged adapter on all of these.

    parents: folders; by default those that the merge names. load: options of `load_for_inference`. options:
    those of `evaluate`; samples are kept, to pair rows.
    Raises AdapterError for folders that are none, ConfigError for a parent without a task of its own.
    """
    paths = [str(path) for path in (parents if parents is not None else parents_of(merged))]
    alone: list[tuple[TaskRequest, EvaluationResult]] = []
    for path in paths:
        progress(f"scoring {path}")
        loaded = load_for_inference(path, **(load or {}))
        if loaded.task is None:
            do = "Score it by itself with --tasks"
            raise ConfigError(explain(f"comparing with the parent {path}", "no task is saved with it", do))
        request = dataclasses.replace(loaded.task.request, limit=None)
        alone.append((request, evaluate(loaded.model, loaded.tokenizer, [request], **options)))
        del loaded
    rows = []
    loaded = load_for_inference(str(merged), **(load or {}))
    for path, (request, own) in zip(paths, alone, strict=True):
        progress(f"scoring {merged} on {request.task}")
        found = evaluate(loaded.model, loaded.tokenizer, [request], **options)
        rows.append(_compared(request.task, path, own, found))
    return Comparison(str(merged), tuple(rows), alone[0][1].environment)


def _compared(task: str, parent: str, own: EvaluationResult, found: EvaluationResult) -> TaskComparison:
    metric, alone, alone_stderr = own.headline(task)
    _, merged, merged_stderr = found.headline(task)
    pairs = zip(own.samples.get(task, []), found.samples.get(task, []), strict=False)
    changes = [b[metric] - a[metric] for a, b in pairs if metric in a and metric in b]
    return TaskComparison(
        task=task,
        parent=parent,
        metric=metric,
        rows=own.n_samples[task],
        alone=alone,
        alone_stderr=alone_stderr,
        merged=merged,
        merged_stderr=merged_stderr,
        difference=merged - alone,
        difference_stderr=mean_stderr(changes) if len(changes) > 1 else math.nan,
    )
