"""Accuracy of a model on data without labels: calibrated on perturbed versions of a labelled set of its task.

Room: evaluation. The command `estimate` calls it; the maths is in `neurolora.estimation`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from neurolora.errors import ConfigError, explain
from neurolora.estimation import PERTURBATIONS, AccuracyEstimator, perturb_rows
from neurolora.evaluation.logits import AnswerLogits, answer_logits
from neurolora.tasks import Row, TaskRequest

STRENGTHS = (0.05, 0.1, 0.2, 0.4)
#: What calibrates unless told otherwise: kinds of noise that any text can have.
TEXT_NOISE = ("typos", "dropped_words", "swapped_words")
CLEAN = "as it is"
#: Called with what is run, how many sets are done, and of how many.
Progress = Callable[[str, int, int], None]


class CalibrationSet(NamedTuple):
    """One version of the labelled set: its perturbation, strength, and the model's accuracy on it."""

    perturbation: str
    strength: float
    accuracy: float


@dataclass(frozen=True)
class Calibration:
    """A fitted estimator, and what it was fitted on. what: of what the logits are; rows: of each set."""

    estimator: AccuracyEstimator
    sets: tuple[CalibrationSet, ...]
    what: str
    rows: int


def calibrate(
    model: Any,
    tokenizer: Any,
    request: TaskRequest,
    rows: Sequence[Row],
    *,
    measure: str = "mde",
    perturbations: Sequence[str] = TEXT_NOISE,
    strengths: Sequence[float] = STRENGTHS,
    seed: int = 0,
    batch_size: int = 32,
    size: int | None = None,
    progress: Progress = lambda *_: None,
) -> Calibration:
    """Fit measure -> accuracy on `rows` as they are and under every perturbation at every strength.

    rows: labelled rows of the request's task, none of them to be estimated later. measure: one of
    `neurolora.estimation.MEASURES` that takes logits. size: rows by which a set is measured, None = all; a
    set to be estimated may not have fewer. Raises ConfigError and DataError.
    """
    estimator = AccuracyEstimator(measure, size=size or "smallest", seed=seed)
    plan = list(_versions(rows, perturbations, strengths, seed))
    found: list[AnswerLogits] = []
    told: list[CalibrationSet] = []
    for done, (name, strength, version) in enumerate(plan, start=1):
        progress(name if name == CLEAN else f"{name} {strength:g}", done - 1, len(plan))
        found.append(answer_logits(model, tokenizer, request, version, batch_size))
        told.append(CalibrationSet(name, strength, found[-1].accuracy))
    progress("fitting", len(plan), len(plan))
    sets, accuracies = [one.logits for one in found], [one.accuracy for one in told]
    estimator.fit(sets, accuracies, source=sets[0], source_labels=found[0].gold)
    return Calibration(estimator, tuple(told), found[0].what, len(rows))


def _versions(
    rows: Sequence[Row], perturbations: Sequence[str], strengths: Sequence[float], seed: int
) -> Iterator[tuple[str, float, Sequence[Row]]]:
    """The rows as they are, and perturbed; all names and strengths are checked before any model runs."""
    for name in perturbations:
        if name not in PERTURBATIONS:
            do = f"Use some of {', '.join(PERTURBATIONS)}"
            raise ConfigError(explain("calibrating", f"there is no perturbation {name!r}", do))
    yield CLEAN, 0.0, rows
    for name in perturbations:
        for strength in strengths:
            yield name, strength, perturb_rows(rows, name, strength, seed)
