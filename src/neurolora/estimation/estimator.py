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
from neurolora.errors import ConfigError, DataError, explain
from neurolora.estimation.calibrated import Figures, Reading, SharedRows, calibrated_from
from neurolora.estimation.inputs import Array, as_accuracies, as_rows, as_scores
from neurolora.estimation.measures import (
    DEFAULT_MEASURE,
    Constants,
    Measure,
    checked_set,
    constants_of,
    measure_named,
    prepared,
    same_columns,
)
from neurolora.estimation.regression import LEAST_SETS
from neurolora.estimation.ruler import Ruler
from neurolora.estimation.sampling import DRAWS
from neurolora.estimation.versions import checked_versions

FORMAT = "neurolora accuracy estimator, 2"
_ESTIMATING = "estimating accuracy"


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
    measured; of a larger set it is the mean over `draws` subsamples, by `seed`. That is so for every measure:
    MDE and the Frechet distance depend on the number of rows. "smallest" is as many as the smallest
    calibration set has, and after `fit_versions` as the new set has, if these are fewer.

    The interval of an `Estimate` counts the scatter about the line and what chance does through the rows, the
    known and the new. It holds for sets that differ from the known one as the calibration sets do; nothing
    without labels can know of a shift of another kind.

    After a fit: line_ (a `Line`), values_ and accuracies_ (m,), size_, n_features_in_ (None: any),
    constants_ (of the known set). Source: arXiv 2401.12689; for the others see `MEASURES`.
    """

    def __init__(
        self,
        measure: str = DEFAULT_MEASURE,
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
        """Fit the line on sets of which nothing says whether they share rows; else use `fit_versions`.

        sets: m >= 3 of logits (N_i, C) or features (N_i, d); accuracies: (m,), fractions. source,
        source_labels: the known set and its labels, for the measures that need them; others pass them by, so
        one call serves all. Raises `DataError` for fewer sets, unequal columns, measures or accuracies that
        are all equal, accuracies outside [0, 1], and what is no finite (N, C); `ConfigError` for wrong
        settings.
        """
        measure = self.check_settings()
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
        ruler = self._ruler(constants_of(measure, source, source_labels, self.temperature))
        scores = [measure.scores(found, self.temperature) for found in rows]
        figures = Figures.of(scores, truth, self._size(), ruler)
        self._keep(figures, ruler, columns)
        return self

    def fit_versions(self, scores: Any, right: Any, columns: int | None = None) -> AccuracyEstimator:
        """Fit the line on m >= 3 versions of one and the same labelled rows, the first of them as they are.

        scores: (m, N), `row_scores` of each version; right: (m, N) bool, whether the model was right. Column
        i is one row in all versions, so the interval knows what chance they share, and a new set of any size
        from two rows can be read. columns: of the logits; None: any, as rows may have more or fewer choices.
        Raises `DataError` as `fit` does; `ConfigError` for wrong settings and measures of features.
        """
        measure = self.check_settings(takes="logits")
        versions = checked_versions(scores, right)
        ruler = self._ruler(prepared(measure, versions.scores[0], versions.right[0]))
        self._keep(SharedRows(versions, self._size()), ruler, columns)
        return self

    def row_scores(self, rows: Any) -> Array:
        """Logits (N, C) as scores (N,), features (N, d) as they are: all that has to be kept of a set.

        Raises `DataError` for what is no finite (N, C), `ConfigError` for wrong settings.
        """
        measure = self.check_settings()
        return measure.scores(checked_set(measure, rows, "scoring rows", least_rows=1), self.temperature)

    def predict(self, rows: Any) -> Estimate:
        """The accuracy on an unlabelled set (N, C), N >= size_ after `fit`, N >= 2 after `fit_versions`.

        Raises `DataError` for a smaller one, other columns, and what is no finite (N, C); `ConfigError` where
        settings were changed since the fit; scikit-learn's `NotFittedError` before one.
        """
        self._check_fitted()
        found = checked_set(measure_named(self.measure), rows, _ESTIMATING)
        if self.n_features_in_ is not None:
            same_columns(found, self.n_features_in_, _ESTIMATING)
        return self.predict_scores(self.row_scores(found))

    def predict_scores(self, scores: Any) -> Estimate:
        """The same of `row_scores`, where the logits are not kept. Raises `DataError` for what is none."""
        self._check_fitted()
        check = as_scores if measure_named(self.measure).takes == "logits" else as_rows
        found = check(scores, _ESTIMATING)
        reading = self.reading(len(found))
        value = float(self._ruler(self.constants_)(found, reading.size, _ESTIMATING))
        centre, margin = reading.line.at(value), reading.margin(value)
        return Estimate(
            accuracy=_cut(centre),
            low=_cut(centre - margin),
            high=_cut(centre + margin),
            value=value,
            beyond=reading.line.beyond(value),
            unclipped=centre,
        )

    def reading(self, rows: int) -> Reading:
        """The line, and its margins, for a new set of so many rows. Raises `DataError` for too few."""
        self._check_fitted()
        if rows < self.calibrated_.least:
            have = f"the set has {rows} rows, and the estimator measures {self.calibrated_.least}"
            do = f"Give at least {self.calibrated_.least} rows, or calibrate with a smaller size"
            raise DataError(explain(_ESTIMATING, have, do))
        if rows not in self._readings:
            self._readings[rows] = self.calibrated_.reading(self._ruler(self.constants_), rows)
        return self._readings[rows]

    def state_dict(self) -> dict[str, Any]:
        """Everything `from_state` needs, as plain dicts, lists, texts and numbers: ready for JSON."""
        self._check_fitted()
        return {
            "format": FORMAT,
            "measure": self.measure,
            "temperature": float(self.temperature),
            "draws": int(self.draws),
            "seed": int(self.seed),
            "columns": self.n_features_in_,
            "constants": {name: value.tolist() for name, value in self.constants_.items()},
            **self.calibrated_.to_dict(),
        }

    @classmethod
    def from_state(cls, state: Any) -> AccuracyEstimator:
        """The fitted estimator of a `state_dict`, its predictions the same to the bit. Raises `DataError`."""
        asked = "reading a saved accuracy estimator"
        if not isinstance(state, Mapping) or state.get("format") != FORMAT:
            have = (
                f"its format is {state.get('format')!r}" if isinstance(state, Mapping) else "it is no mapping"
            )
            raise DataError(explain(asked, have, f"Give a state of format {FORMAT!r}, or calibrate again"))
        try:
            settings = {name: state[name] for name in ("temperature", "draws", "seed")}
            made = cls(state["measure"], size=state["size"] or "smallest", **settings)
            made._restore(state)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            have = f"it is damaged ({type(error).__name__}: {error})"
            raise DataError(explain(asked, have, "Calibrate again")) from error
        return made

    def _restore(self, state: Mapping[str, Any]) -> None:
        measure = self.check_settings()
        columns = None if state["columns"] is None else whole(state["columns"], "columns", least=1)
        ruler = self._ruler(
            {name: np.asarray(state["constants"][name], np.float64) for name in measure.keeps}
        )
        self._keep(calibrated_from(state), ruler, columns)

    def check_settings(self, takes: str | None = None) -> Measure:
        """The measure, if it and all settings can be used. Raises `ConfigError`.

        takes: "logits" where there are no features, so that a measure of these is refused.
        """
        measure = measure_named(self.measure, takes)
        positive(self.temperature, "temperature")
        whole(self.draws, "draws", least=1)
        whole(self.seed, "seed", least=0)
        if self.size != "smallest":
            whole(self.size, "size", least=2)
        return measure

    def _check_fitted(self) -> None:
        """Raises `NotFittedError`, and `ConfigError` for settings changed since: a line is of one measure."""
        check_is_fitted(self)
        changed = [name for name, value in self._fitted_with.items() if getattr(self, name) != value]
        if changed:
            name = changed[0]
            found = f"{name} was {self._fitted_with[name]!r} at the fit and is {getattr(self, name)!r}"
            raise ConfigError(explain(_ESTIMATING, found, "Fit again"))

    def _size(self) -> int | None:
        return None if self.size == "smallest" else int(self.size)

    def _ruler(self, constants: Constants) -> Ruler:
        return Ruler(measure_named(self.measure), constants, int(self.draws), int(self.seed))

    def _keep(self, found: SharedRows | Figures, ruler: Ruler, columns: int | None) -> None:
        """Last, and together: a fit that fails leaves the estimator as it was."""
        line, values, size = found.drawn(ruler, found.known)
        self.calibrated_, self.constants_, self.n_features_in_ = found, ruler.constants, columns
        self.line_, self.values_, self.size_, self.accuracies_ = line, values, size, found.accuracies
        self._fitted_with = self.get_params()
        self._readings: dict[int, Reading] = {}


def _cut(value: float) -> float:
    return min(max(value, 0.0), 1.0)
