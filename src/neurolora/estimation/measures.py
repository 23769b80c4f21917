"""Label-free measures of a set, as rows: each a score for every row of the set, and a figure of the scores.

Room: estimation. `estimator.py` regresses accuracy on them; `measure_set` gives one figure alone. As in the
literature, *source* as an argument is the known set, with labels where a measure needs them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from neurolora.errors import ConfigError, DataError, did_you_mean, explain
from neurolora.estimation.confidence import atc_threshold, confidences, entropies
from neurolora.estimation.energy import energies, energy_spread
from neurolora.estimation.frechet import distance_to, moments
from neurolora.estimation.inputs import Array, as_labels, as_logits, as_rows

Constants = dict[str, Array]
Needs = Literal["nothing", "source", "labelled source"]


@dataclass(frozen=True)
class Measure:
    """One measure.

    takes: what the rows of a set are, logits (N, C) or features (N, d). needs: of the known set.
    scores(rows, temperature): (N,), or (N, d) for features. summarise(scores, constants): the figure; of
    scores (..., N) one for each set, of features (N, d) one. prepare(scores of the source, whether each was
    right or None): the constants; keeps: their names.
    is_accuracy: the figure is itself an estimate of accuracy, before any regression.
    """

    name: str
    about: str
    source: str
    scores: Callable[[Array, float], Array]
    summarise: Callable[[Array, Constants], Array]
    takes: Literal["logits", "features"] = "logits"
    needs: Needs = "nothing"
    prepare: Callable[[Array, NDArray[np.bool_] | None], Constants] = lambda scores, right: {}
    keeps: tuple[str, ...] = ()
    is_accuracy: bool = False


def _mean(scores: Array, constants: Constants) -> Array:
    """mean + shift, the shift 0 where there is none."""
    mean: Array = scores.mean(axis=-1) + constants.get("shift", np.float64(0))
    return mean


def _share_above(scores: Array, constants: Constants) -> Array:
    share: Array = (scores >= constants["threshold"]).mean(axis=-1)
    return share


def _lost_confidence(scores: Array, right: NDArray[np.bool_] | None) -> Constants:
    return {"shift": np.asarray(right, dtype=np.float64).mean() - scores.mean()}


def _threshold(scores: Array, right: NDArray[np.bool_] | None) -> Constants:
    return {"threshold": np.asarray(atc_threshold(scores, right))}


def _negative_entropies(rows: Array, temperature: float) -> Array:
    return -entropies(rows, temperature)


_ATC = "average thresholded confidence, arXiv 2201.04234"
_ROWS = (
    Measure(
        "mde",
        "meta-distribution energy",
        "arXiv 2401.12689",
        energies,
        lambda scores, constants: energy_spread(scores),
    ),
    Measure(
        "average_confidence",
        "mean of the largest probability",
        "Hendrycks and Gimpel, arXiv 1610.02136",
        confidences,
        _mean,
        is_accuracy=True,
    ),
    Measure(
        "confidence_difference",
        "accuracy of the source, less what the mean confidence has lost since",
        "difference of confidences, Guillory et al., arXiv 2107.03315",
        confidences,
        _mean,
        needs="labelled source",
        prepare=_lost_confidence,
        keeps=("shift",),
        is_accuracy=True,
    ),
    Measure(
        "atc_confidence",
        "share of rows whose largest probability is above the source's threshold",
        _ATC,
        confidences,
        _share_above,
        needs="labelled source",
        prepare=_threshold,
        keeps=("threshold",),
        is_accuracy=True,
    ),
    Measure(
        "atc_entropy",
        "share of rows whose negative entropy is above the source's threshold",
        _ATC,
        _negative_entropies,
        _share_above,
        needs="labelled source",
        prepare=_threshold,
        keeps=("threshold",),
        is_accuracy=True,
    ),
    Measure(
        "mean_entropy",
        "mean entropy of the predicted probabilities",
        "Guillory et al., arXiv 2107.03315",
        entropies,
        _mean,
    ),
    Measure(
        "entropy_difference",
        "mean entropy, less that of the source",
        "Guillory et al., arXiv 2107.03315",
        entropies,
        _mean,
        needs="source",
        prepare=lambda scores, right: {"shift": -scores.mean()},
        keeps=("shift",),
    ),
    Measure(
        "frechet",
        "Frechet distance of the features to those of the source",
        "Deng and Zheng, arXiv 2007.02915",
        lambda rows, temperature: rows,
        lambda scores, constants: np.asarray(distance_to(scores, constants["mean"], constants["factor"])),
        takes="features",
        needs="source",
        prepare=lambda scores, right: dict(zip(("mean", "factor"), moments(scores), strict=True)),
        keeps=("mean", "factor"),
    ),
)
MEASURES = {row.name: row for row in _ROWS}
DEFAULT_MEASURE = "average_confidence"  # as good as any where it was measured, and the simplest


def measure_named(name: str, takes: str | None = None) -> Measure:
    """The row of that name. takes: "logits" where there are no features. Raises `ConfigError`."""
    usable = [known for known, row in MEASURES.items() if takes in (None, row.takes)]
    if not isinstance(name, str) or name not in MEASURES:
        found = f"there is no {name!r}{did_you_mean(name, usable)}"
        raise ConfigError(explain("measure", found, f"Use one of {', '.join(usable)}"))
    if name not in usable:
        found = f"it takes {MEASURES[name].takes}"
        raise ConfigError(explain(f"measure {name}", found, f"Use one of {', '.join(usable)}"))
    return MEASURES[name]


def checked_set(measure: Measure, rows: Any, asked: str, least_rows: int = 2) -> Array:
    """A set as the measure takes it, of at least so many rows. Raises `DataError`."""
    if measure.takes == "features":
        return as_rows(rows, asked, least_rows=least_rows)
    return as_logits(rows, asked, least_rows=least_rows)


def constants_of(measure: Measure, source: Any, labels: Any, temperature: float) -> Constants:
    """What the measure keeps of the known set. Raises `DataError` if it needs more of it than is given."""
    asked = f"the known set of measure {measure.name}"
    if measure.needs == "nothing":
        return {}
    if source is None:
        raise DataError(explain(asked, "it is not given", f"Give its {measure.takes} as source="))
    rows = checked_set(measure, source, asked)
    right = None
    if measure.needs == "labelled source":
        if labels is None:
            raise DataError(explain(asked, "it has no labels", "Give them as source_labels="))
        right = rows.argmax(axis=1) == as_labels(labels, len(rows), rows.shape[1], asked)
    return prepared(measure, measure.scores(rows, temperature), right)


def prepared(measure: Measure, scores: Array, right: NDArray[np.bool_] | None) -> Constants:
    """What the measure keeps of a known set whose rows have these scores (N,), as arrays."""
    found = measure.prepare(scores, right)
    return {name: np.asarray(value, dtype=np.float64) for name, value in found.items()}


def measure_set(
    name: str, rows: Any, *, source: Any = None, source_labels: Any = None, temperature: float = 1.0
) -> float:
    """One measure of one whole set: for `mde` the raw figure, log N in it.

    rows: (N, C) logits, or (N, d) features, N >= 2; source: the known set, likewise, and its labels, used by
    the measures that need them. Raises `ConfigError` and `DataError`.
    """
    measure = measure_named(name)
    found = checked_set(measure, rows, f"measure {name}")
    constants = constants_of(measure, source, source_labels, temperature)
    if source is not None and measure.needs != "nothing":
        same_columns(found, checked_set(measure, source, "the known set").shape[1], f"measure {name}")
    return float(measure.summarise(measure.scores(found, temperature), constants))


def same_columns(rows: Array, columns: int, asked: str) -> None:
    """Raises `DataError` unless `rows` has so many columns."""
    if rows.shape[1] != columns:
        found = f"{rows.shape[1]} columns, and {columns} in the other sets"
        raise DataError(explain(asked, found, "Give sets of one and the same model"))
