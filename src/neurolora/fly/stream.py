"""Class-incremental streams: classes come step by step, and all that were seen are told apart.

Room: fly. Any classifier with `partial_fit(X, y)` and `predict` can be run; nothing is printed or written.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from neurolora.errors import ConfigError, DataError, explain
from neurolora.fly.expansion import Array


@dataclass(frozen=True)
class StreamResult:
    """A class-incremental run of T steps.

    classes: those that are new at each step. accuracy: A_t, the share of test rows of all classes seen so far
    that are right after step t. by_step: R[t][i], the same on the classes of step i <= t alone. seconds: of
    learning step t, solving included.
    """

    classes: tuple[tuple[Any, ...], ...]
    accuracy: tuple[float, ...]
    by_step: tuple[tuple[float, ...], ...]
    seconds: tuple[float, ...]

    @property
    def average(self) -> float:
        """The mean of A_t over the steps, as Fly-CL and others report."""
        return float(np.mean(self.accuracy))

    @property
    def last(self) -> float:
        """A_T: on all classes, in the end."""
        return self.accuracy[-1]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "classes": [[_plain(label) for label in step] for step in self.classes],
            "accuracy": list(self.accuracy),
            "by_step": [list(row) for row in self.by_step],
            "seconds": list(self.seconds),
            "average": self.average,
            "last": self.last,
        }


def _plain(label: Any) -> Any:
    return label.item() if isinstance(label, np.generic) else label


def class_steps(labels: Any, per_step: int, seed: int | None = None) -> list[Array]:
    """The classes of `labels` in groups of `per_step` (the last may be smaller), shuffled by `seed` if given.

    Raises ConfigError for fewer than one class a step.
    """
    if per_step < 1:
        raise ConfigError(explain(f"{per_step} classes a step", "that is none", "Give 1 or more"))
    classes = np.unique(labels)
    if seed is not None:
        classes = np.random.default_rng(seed).permutation(classes)
    return [classes[start : start + per_step] for start in range(0, len(classes), per_step)]


def run_stream(
    learner: Any,
    train: tuple[Array, Array],
    test: tuple[Array, Array],
    steps: Sequence[Array],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> StreamResult:
    """Learn the steps in turn; after each, score on the test rows of all classes seen.

    train, test: (X, y). Raises DataError for a step without rows to learn from or to be tested on.
    """
    (X, y), (X_test, y_test) = train, test
    parts = [_rows_of(y_test, step, "test") for step in steps]
    accuracy, by_step, seconds = [], [], []
    for done, step in enumerate(steps, start=1):
        rows = _rows_of(y, step, "training")
        began = time.perf_counter()
        learner.partial_fit(X[rows], y[rows])
        learner.predict(X_test[:1])  # what is put off until a prediction belongs to learning
        seconds.append(time.perf_counter() - began)
        right = [learner.predict(X_test[part]) == y_test[part] for part in parts[:done]]
        by_step.append(tuple(float(part.mean()) for part in right))
        accuracy.append(float(np.concatenate(right).mean()))
        progress(done, len(steps))
    classes = tuple(tuple(step) for step in steps)
    return StreamResult(classes, tuple(accuracy), tuple(by_step), tuple(seconds))


def _rows_of(labels: Array, step: Array, what: str) -> Array:
    rows = np.flatnonzero(np.isin(labels, step))
    missing = [label for label in step if not (labels == label).any()]
    if missing:
        asked = f"a stream with the class {_plain(missing[0])!r}"
        raise DataError(explain(asked, f"it has no {what} rows", "Leave the class out, or give rows of it"))
    return rows
