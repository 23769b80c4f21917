"""Accuracy of a model on data without labels: calibrated on perturbed versions of a labelled set of its task.

Room: evaluation. The command `estimate` calls it; the maths is in `neurolora.estimation`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from neurolora.errors import ConfigError, DataError, explain
from neurolora.estimation import DEFAULT_MEASURE, PERTURBATIONS, AccuracyEstimator, Estimate, perturb_rows
from neurolora.estimation.regression import LEAST_SETS
from neurolora.evaluation.logits import AnswerScores, answer_scores
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
    measure: str = DEFAULT_MEASURE,
    perturbations: Sequence[str] = TEXT_NOISE,
    strengths: Sequence[float] = STRENGTHS,
    seed: int = 0,
    batch_size: int = 32,
    size: int | None = None,
    progress: Progress = lambda *_: None,
) -> Calibration:
    """Fit measure -> accuracy on `rows` as they are and under every perturbation at every strength.

    rows: labelled rows of the request's task, none of them to be estimated later. measure: one of
    `neurolora.estimation.MEASURES` that takes logits. size: by how many rows sets are measured, which one to
    be estimated must have; None = as many as both it and `rows` have. Of each row only a number is kept.
    Raises ConfigError, before the model runs, and DataError.
    """
    estimator = AccuracyEstimator(measure, size="smallest" if size is None else size, seed=seed)
    estimator.check_settings(takes="logits")
    _require_rows(len(rows), 2 if size is None else size)
    plan = list(_versions(rows, perturbations, strengths, seed))
    if len(plan) < LEAST_SETS:
        do = f"Ask for perturbations and strengths that make at least {LEAST_SETS} with the rows as they are"
        raise ConfigError(explain("calibrating", f"{len(plan)} versions of the rows", do))
    found: list[AnswerScores] = []
    for done, (name, strength, version) in enumerate(plan, start=1):
        progress(name if name == CLEAN else f"{name} {strength:g}", done - 1, len(plan))
        found.append(answer_scores(model, tokenizer, request, version, estimator.row_scores, batch_size))
    progress("fitting", len(plan), len(plan))
    scores, right = np.stack([one.scores for one in found]), np.stack([one.right for one in found])
    estimator.fit_versions(scores, right, found[0].columns)
    told = [
        CalibrationSet(name, strength, one.accuracy)
        for (name, strength, _), one in zip(plan, found, strict=True)
    ]
    return Calibration(estimator, tuple(told), found[0].what, len(rows))


def estimate_accuracy(
    model: Any,
    tokenizer: Any,
    request: TaskRequest,
    rows: Sequence[Row],
    calibration: Calibration,
    batch_size: int = 32,
) -> Estimate:
    """The accuracy on rows whose answers are not read, by a calibration of the same model and task.

    Raises DataError for too few rows, and for logits of another kind than those it was calibrated on.
    """
    estimator = calibration.estimator
    found = answer_scores(model, tokenizer, request, rows, estimator.row_scores, batch_size)
    known = (calibration.what, estimator.n_features_in_)
    if (found.what, found.columns) != known:
        have = f"{_described(found.what, found.columns)}, and the calibration is of {_described(*known)}"
        raise DataError(explain("estimating accuracy", have, "Calibrate on this model and task"))
    return estimator.predict_scores(found.scores)


def _described(what: str, columns: int | None) -> str:
    return what if columns is None else f"{columns} {what}"


def _require_rows(rows: int, least: int) -> None:
    if rows < least:
        raise DataError(explain("calibrating", f"{rows} labelled rows", f"Give at least {least}"))


def _versions(
    rows: Sequence[Row], perturbations: Sequence[str], strengths: Sequence[float], seed: int
) -> Iterator[tuple[str, float, Sequence[Row]]]:
    """The rows as they are, and perturbed; all names and strengths are checked before any model runs."""
    for name in perturbations:
        if name not in PERTURBATIONS:
            do = f"Use some of {', '.join(PERTURBATIONS)}"
            raise ConfigError(explain("calibrating", f"there is no perturbation {name!r}", do))
    if not all(strength > 0 for strength in strengths):
        found = f"strengths {', '.join(f'{strength:g}' for strength in strengths)}"
        raise ConfigError(
            explain("calibrating", found, "Give strengths above 0: the rows as they are stand for 0 already")
        )
    yield CLEAN, 0.0, rows
    for name in dict.fromkeys(perturbations):  # what is asked for twice is still one version
        for strength in dict.fromkeys(strengths):
            yield name, strength, perturb_rows(rows, name, strength, seed)
