"""How well estimates of accuracy agree with the truth: the three numbers that papers report.

Room: estimation. A pure function; benchmarks and the commands call it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import SupportsFloat

import numpy as np
from scipy.stats import rankdata

from neurolora.errors import DataError, explain
from neurolora.estimation.inputs import Array, as_accuracies


@dataclass(frozen=True)
class Agreement:
    """spearman, pearson: in [-1, 1], NaN where a side is constant; error_points: in percentage points."""

    spearman: float
    pearson: float
    error_points: float
    count: int


def correlations(estimates: Sequence[SupportsFloat], truth: Sequence[SupportsFloat]) -> Agreement:
    """Spearman's and Pearson's correlation, and the mean absolute error 100 (1/m) sum |estimate - truth|.

    Both are accuracies as fractions, one a set, at least two. Estimates may come as `Estimate`s: they are
    correlated before they are cut to [0, 1], which would make equal what is not. Raises `DataError`.
    """
    asked = "comparing estimates with the truth"
    first, second = as_accuracies(estimates, asked), as_accuracies(truth, asked)
    if len(first) != len(second) or len(first) < 2:
        found = f"{len(first)} estimates and {len(second)} true accuracies"
        raise DataError(explain(asked, found, "Give as many of both, at least two"))
    uncut = np.array([float(getattr(one, "unclipped", one)) for one in estimates], dtype=np.float64)
    return Agreement(
        spearman=_pearson(rankdata(uncut), rankdata(second)),
        pearson=_pearson(uncut, second),
        error_points=100 * float(np.abs(first - second).mean()),
        count=len(first),
    )


def _pearson(first: Array, second: Array) -> float:
    """Pearson's correlation; NaN, without scipy's warning, where it is not defined."""
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return math.nan
    return float(np.corrcoef(first, second)[0, 1])
