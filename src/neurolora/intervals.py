"""Means over seeds with their intervals, and differences paired by seed: pure functions of numbers.

Room: the floor. Anybody may call it. All intervals of results are Student's t over seeds, in the unit of the
values. A percentile bootstrap is here for those who ask for one: of a handful of values it is too narrow.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import mean, stdev
from typing import Any

import numpy as np

from neurolora.errors import DataError, explain

LEVEL = 0.95
#: `mean`, `low` and `high` (None of one value), `n`; of `paired` also `p`.
Interval = dict[str, float | int | None]


def interval(values: Sequence[float]) -> Interval:
    """Mean and 95% interval (Student's t over seeds); of one value there is none.

    Raises DataError for no values, or one that is not finite.
    """
    from scipy import stats

    given = _known(values)
    n, centre = len(given), mean(given)
    if n == 1:
        return {"mean": centre, "low": None, "high": None, "n": n}
    half = float(stats.t.ppf(0.5 + LEVEL / 2, n - 1)) * stdev(given) / math.sqrt(n)
    return {"mean": centre, "low": centre - half, "high": centre + half, "n": n}


def with_half(found: Mapping[str, Any]) -> str:
    """`64.2 ± 1.1`, half of the interval behind the sign; the mean alone where one seed was run."""
    middle = f"{found['mean']:.1f}"
    return middle if found["low"] is None else f"{middle} ± {found['mean'] - found['low']:.1f}"


def middle_and_ends(found: Mapping[str, Any]) -> tuple[float, float, float]:
    """An interval as pictures draw it; of one value, which has none, a point."""
    middle, low, high = (found[name] for name in ("mean", "low", "high"))
    return (middle, middle, middle) if low is None else (middle, low, high)


def paired(better: Sequence[float], than: Sequence[float]) -> Interval:
    """The difference, seed by seed, with its 95% interval and the p of a paired t-test (two-sided).

    Differences count to the ninth decimal, for 83.2 - 83.0 and 81.6 - 81.4 are equal, if not in binary.
    """
    from scipy import stats

    differences = [round(one - other, 9) for one, other in zip(better, than, strict=True)]
    found, p = interval(differences), None
    if len(differences) > 1 and stdev(differences) > 0:
        p = float(stats.ttest_1samp(differences, 0.0).pvalue)
    return {**found, "p": p}


def bootstrap_interval(
    values: Sequence[float], *, level: float = LEVEL, draws: int = 10_000, seed: int = 0
) -> tuple[float, float] | None:
    """The percentile bootstrap interval of the mean, the same for the same values; None of one value.

    Of a handful of values it is too narrow, as percentile intervals are (five at 95%: about 88% of the time).
    Raises DataError as `interval` does.
    """
    given = np.array(_known(values))
    if given.size == 1:
        return None
    places = np.random.default_rng(seed).integers(given.size, size=(draws, given.size))
    low, high = np.quantile(given[places].mean(axis=1), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _known(values: Sequence[float]) -> list[float]:
    given = [float(value) for value in values]
    if not given:
        raise DataError(explain("a mean over runs", "there are no runs", "Finish one run at least"))
    if missing := sum(not math.isfinite(value) for value in given):
        found = f"{missing} of {len(given)} values were not measured"
        raise DataError(explain("a mean over runs", found, "Finish the runs"))
    return given


def verdict(difference: Interval) -> str:
    """`held` or `opposite` where the interval leaves 0 out, `open` where not, or where nothing varies."""
    low, high = difference["low"], difference["high"]
    if low is None or high is None or low == high or low <= 0 <= high:
        return "open"
    return "held" if low > 0 else "opposite"
