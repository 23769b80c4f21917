"""A straight line through (measure, accuracy), and how far a new set may lie from it.

Room: estimation. Pure functions of numbers; `estimator.py` calls them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.stats import t as student_t

from neurolora.errors import DataError, explain
from neurolora.estimation.inputs import Array

#: A line has two numbers; the third point is the first to say how well it fits.
LEAST_SETS = 3


@dataclass(frozen=True)
class Line:
    """y = y_mean + slope (x - x_mean), by least squares through `count` points.

    spread: sum of (x_i - x_mean)^2. deviation: s, the root of the residuals' squares over count - 2.
    low, high: the smallest and the largest x_i.
    """

    slope: float
    x_mean: float
    y_mean: float
    spread: float
    deviation: float
    count: int
    low: float
    high: float

    @property
    def intercept(self) -> float:
        """y at x = 0."""
        return self.at(0.0)

    def at(self, x: float) -> float:
        """y on the line."""
        return self.y_mean + self.slope * (x - self.x_mean)

    def margin(self, x: float, level: float = 0.95) -> float:
        """Half the prediction interval of one new y: t s sqrt(1 + 1/m + (x - x_mean)^2 / spread).

        t is Student's, of m - 2 degrees of freedom, at (1 + level) / 2. Errors are taken as independent and
        normal, of one size along the line.
        """
        quantile = float(student_t.ppf((1 + level) / 2, self.count - 2))
        distance = (x - self.x_mean) ** 2 / self.spread
        return quantile * self.deviation * math.sqrt(1 + 1 / self.count + distance)

    def beyond(self, x: float) -> float:
        """How far x is outside [low, high], in widths of it: below 0 under it, 0 within, above 0 over it."""
        outside = min(x - self.low, 0.0) + max(x - self.high, 0.0)
        return outside / (self.high - self.low)


def fit_line(x: Array, y: Array) -> Line:
    """The line of least squares. x, y: (m,) each, m >= 3.

    Raises `DataError` for fewer points, numbers that are not finite, and x or y that are all equal.
    """
    asked = "fitting accuracy to the measure"
    if len(x) != len(y):
        raise DataError(explain(asked, f"{len(x)} sets and {len(y)} accuracies", "Give one accuracy a set"))
    if len(x) < LEAST_SETS:
        raise DataError(explain(asked, f"{len(x)} sets", f"Give at least {LEAST_SETS}, better ten or more"))
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise DataError(explain(asked, "a measure or accuracy that is no number", "Look for huge inputs"))
    _must_differ(x, "measure", asked)
    _must_differ(y, "accuracy", asked)
    x_mean, y_mean = float(x.mean()), float(y.mean())
    spread = float(((x - x_mean) ** 2).sum())
    slope = float(((x - x_mean) * (y - y_mean)).sum()) / spread
    residuals = y - y_mean - slope * (x - x_mean)
    deviation = math.sqrt(float((residuals**2).sum()) / (len(x) - 2))
    return Line(slope, x_mean, y_mean, spread, deviation, len(x), float(x.min()), float(x.max()))


def _must_differ(values: Array, name: str, asked: str) -> None:
    """Equal up to rounding is equal: a line through noise of the last digit has any slope."""
    if np.ptp(values) <= 1e-12 * np.abs(values).max():
        found = f"the {name} of all {len(values)} sets is {values[0]:g}"
        raise DataError(explain(asked, found, "Give sets that are perturbed by different strengths"))
