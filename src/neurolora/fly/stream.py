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

    Of a learner that knew classes before: known, those of them that have test rows, which count as seen;
    earlier, T + 1 shares of their rows that are right, before the first step and after each: what it forgets;
    untested, those without test rows, which no accuracy counts.
    """

    classes: tuple[tuple[Any, ...], ...]
    accuracy: tuple[float, ...]
    by_step: tuple[tuple[float, ...], ...]
    seconds: tuple[float, ...]
    known: tuple[Any, ...] = ()
    earlier: tuple[float, ...] = ()
    untested: tuple[Any, ...] = ()

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
            "known": [_plain(label) for label in self.known],
            "earlier": list(self.earlier),
            "untested": [_plain(label) for label in self.untested],
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
    known: Sequence[Any] = (),
) -> StreamResult:
    """Learn the steps in turn; after each, score on the test rows of all classes seen.

    train, test: (X, y). known: the classes that the learner has learned before; test rows of them are scored
    too, also before the first step. Raises DataError for a class of a step without rows to learn from or to
    be tested on.
    """
    (X, y), (X_test, y_test) = train, test
    check_rows(y, y_test, steps)
    before = np.array([label for label in known if (y_test == label).any()], dtype=y_test.dtype)
    old = np.isin(y_test, before)
    earlier = [_share(learner.predict(X_test[old]) == y_test[old])] if old.any() else []
    accuracy, by_step, seconds = [], [], []
    for done, step in enumerate(steps, start=1):
        rows = np.flatnonzero(np.isin(y, step))
        began = time.perf_counter()
        learner.partial_fit(X[rows], y[rows])
        learner.predict(X_test[:1])  # what is put off until a prediction belongs to learning
        seconds.append(time.perf_counter() - began)
        seen = np.flatnonzero(np.isin(y_test, np.concatenate([before, *steps[:done]])))
        right, truth = learner.predict(X_test[seen]) == y_test[seen], y_test[seen]
        by_step.append(tuple(_share(right[np.isin(truth, part)]) for part in steps[:done]))
        accuracy.append(_share(right))
        if earlier:
            earlier.append(_share(right[np.isin(truth, before)]))
        progress(done, len(steps))
    return StreamResult(
        classes=tuple(tuple(step) for step in steps),
        accuracy=tuple(accuracy),
        by_step=tuple(by_step),
        seconds=tuple(seconds),
        known=tuple(before),
        earlier=tuple(earlier),
        untested=tuple(label for label in known if label not in set(before)),
    )


def check_rows(train: Array, test: Array, steps: Sequence[Array]) -> None:
    """Raises DataError for a class of a step that the labels `train` or `test` (n,) do not have."""
    for labels, what in ((test, "test"), (train, "training")):
        there = set(labels.tolist())
        for label in (_plain(label) for step in steps for label in step):
            if label not in there:
                asked = f"a stream with the class {label!r}"
                do = "Leave the class out, or give rows of it"
                raise DataError(explain(asked, f"it has no {what} rows", do))


def _share(right: Array) -> float:
    return float(right.mean())
