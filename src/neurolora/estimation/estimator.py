"""Accuracy of a model on rows without labels, from a measure calibrated on sets with labels.

Room: estimation. Studies and the commands call it. It runs no model: sets come in as logits or features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from neurolora.checks import positive, whole
from neurolora.errors import DataError, explain
from neurolora.estimation.inputs import Array, as_accuracies
from neurolora.estimation.measures import Constants, checked_set, constants_of, measure_named, same_columns
from neurolora.estimation.regression import LEAST_SETS, fit_line
from neurolora.estimation.sampling import DRAWS, mean_over_draws

FORMAT = "neurolora accuracy estimator, 1"


@dataclass(frozen=True)
class Estimate:
    """What is known of a set without labels. `float(estimate)` is `accuracy`.

    accuracy: in [0, 1]; low, high: the 95% prediction interval, cut to [0, 1]. unclipped: the line's own
    value; where it is outside [0, 1] the cut interval says less than it seems. value: the measure.
    beyond: how far the measure is outside the calibrated range, in widths of it; 0 within; below 0 under it.
    """

    accuracy: float
    low: float
    high: float
    value: float
    beyond: float
    unclipped: float

    @property
    def outside(self) -> bool:
        """Whether no calibration set was like this one: the line is extended beyond what it was fitted on."""
        return self.beyond != 0

    def __float__(self) -> float:
        return self.accuracy


class AccuracyEstimator(BaseEstimator):
    """accuracy = a + b measure, by least squares over labelled, perturbed versions of a known set.

    measure: a name of `MEASURES`. temperature: divides the logits. size: of how many rows each set is
    measured, "smallest" being as many as the smallest calibration set has; of a larger set it is the mean
    over `draws` subsamples, by `seed`. That is so for every measure: MDE and the Frechet distance depend on
    the number of rows, and the scatter about the line, which the interval is made of, does for all.

    The interval holds for sets that differ from the known one as the calibration sets do; nothing without
    labels can know of a shift of another kind. Perturbed versions of one set share its rows, so their scatter
    is, if anything, below that of new data.

    After `fit`: line_ (a `Line`), values_ and accuracies_ (m,), size_, n_features_in_, constants_ (of the
    known set). Source: arXiv 2401.12689; for the others see `MEASURES`.
    """

    def __init__(
        self,
        measure: str = "mde",
        *,
        temperature: float = 1.0,
        size: int | Literal["smallest"] = "smallest",
        draws: int = DRAWS,
        seed: int = 0,
    ) -> None:
        self.measure = measure
        self.temperature = temperature
        self.size = size
        self.draws = draws
        self.seed = seed

    def fit(
        self,
        sets: Sequence[Any],
        accuracies: Sequence[float],
        *,
        source: Any = None,
        source_labels: Any = None,
    ) -> AccuracyEstimator:
        """Fit the line. sets: m >= 3 of logits (N_i, C) or features (N_i, d); accuracies: (m,), fractions.

        source, source_labels: the known set and its labels, for the measures that need them; others pass them
        by, so one call serves all. Raises `DataError` for fewer sets, unequal columns, measures or accuracies
        that are all equal, accuracies outside [0, 1], and what is no finite (N, C); `ConfigError` for wrong
        settings.
        """
        measure = measure_named(self.measure)
        self._check_settings()
        truth = as_accuracies(accuracies, "accuracies of the calibration sets")
        rows = [checked_set(measure, found, f"calibration set {i}") for i, found in enumerate(sets, start=1)]
        if len(rows) < LEAST_SETS:
            do = f"Give at least {LEAST_SETS}, better ten or more"
            raise DataError(explain("calibrating", f"{len(rows)} sets", do))
        columns = rows[0].shape[1]
        for number, found in enumerate(rows[1:], start=2):
            same_columns(found, columns, f"calibration set {number}")
        if source is not None and measure.needs != "nothing":
            same_columns(checked_set(measure, source, "the known set"), columns, "the known set")
        constants = constants_of(measure, source, source_labels, self.temperature)
        size = min(map(len, rows)) if self.size == "smallest" else int(self.size)
        values = np.array(
            [self._measure(found, constants, size, f"set {i}") for i, found in enumerate(rows, start=1)]
        )
        # Last, and together: a fit that fails leaves the estimator as it was.
        self.line_ = fit_line(values, truth)
        self.values_, self.accuracies_ = values, truth
        self.size_, self.n_features_in_, self.constants_ = size, columns, constants
        return self

    def predict(self, rows: Any) -> Estimate:
        """The accuracy on an unlabelled set (N, C) with N >= size_.

        Raises `DataError` for a smaller one, other columns, and what is no finite (N, C); scikit-learn's
        `NotFittedError` before `fit`.
        """
        check_is_fitted(self)
        found = checked_set(measure_named(self.measure), rows, "estimating accuracy")
        same_columns(found, self.n_features_in_, "estimating accuracy")
        if len(found) < self.size_:
            have = f"the set has {len(found)} rows, and the estimator was calibrated on {self.size_}"
            do = f"Give at least {self.size_} rows, or calibrate with size={len(found)}"
            raise DataError(explain("estimating accuracy", have, do))
        value = self._measure(found, self.constants_, self.size_, "estimating accuracy")
        centre, margin = self.line_.at(value), self.line_.margin(value)
        return Estimate(
            accuracy=_cut(centre),
            low=_cut(centre - margin),
            high=_cut(centre + margin),
            value=value,
            beyond=self.line_.beyond(value),
            unclipped=centre,
        )

    def state_dict(self) -> dict[str, Any]:
        """Everything `from_state` needs, as plain dicts, lists, texts and numbers: ready for JSON."""
        check_is_fitted(self)
        return {
            "format": FORMAT,
            "measure": self.measure,
            "temperature": float(self.temperature),
            "size": self.size_,
            "draws": int(self.draws),
            "seed": int(self.seed),
            "columns": self.n_features_in_,
            "values": self.values_.tolist(),
            "accuracies": self.accuracies_.tolist(),
            "constants": {name: value.tolist() for name, value in self.constants_.items()},
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> AccuracyEstimator:
        """The fitted estimator of a `state_dict`, its predictions the same to the bit. Raises `DataError`."""
        asked = "reading a saved accuracy estimator"
        if state.get("format") != FORMAT:
            have = f"its format is {state.get('format')!r}"
            raise DataError(explain(asked, have, f"Give a state of format {FORMAT!r}"))
        try:
            settings = {name: state[name] for name in ("temperature", "size", "draws", "seed")}
            made = cls(state["measure"], **settings)
            made._restore(state)
        except (KeyError, TypeError, ValueError) as error:
            have = f"it is damaged ({type(error).__name__}: {error})"
            raise DataError(explain(asked, have, "Calibrate again")) from error
        return made

    def _restore(self, state: Mapping[str, Any]) -> None:
        measure = measure_named(self.measure)
        self._check_settings()
        self.size_ = int(self.size)
        self.n_features_in_ = whole(state["columns"], "columns", least=1)
        self.constants_ = {name: np.asarray(state["constants"][name], np.float64) for name in measure.keeps}
        self.values_ = np.asarray(state["values"], np.float64)
        self.accuracies_ = as_accuracies(state["accuracies"], "accuracies of the calibration sets")
        self.line_ = fit_line(self.values_, self.accuracies_)

    def _check_settings(self) -> None:
        positive(self.temperature, "temperature")
        whole(self.draws, "draws", least=1)
        whole(self.seed, "seed", least=0)
        if self.size != "smallest":
            whole(self.size, "size", least=2)

    def _measure(self, rows: Array, constants: Constants, size: int, asked: str) -> float:
        """The measure of `size` rows."""
        measure = measure_named(self.measure)
        return mean_over_draws(
            measure.scores(rows, self.temperature),
            lambda chosen: measure.summarise(chosen, constants),
            size,
            self.draws,
            self.seed,
            asked,
        )


def _cut(value: float) -> float:
    return min(max(value, 0.0), 1.0)
