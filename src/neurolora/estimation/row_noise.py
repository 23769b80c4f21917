"""What chance does to an estimate through the rows: the known ones, on which the line lies, and the new ones.

Room: estimation. Pure functions; `calibrated.py` calls them. A line's own scatter holds next to none of this
where its points are versions of the same rows: they err together.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from neurolora.estimation.inputs import Array
from neurolora.estimation.measures import prepared
from neurolora.estimation.regression import Line
from neurolora.estimation.ruler import Ruler
from neurolora.estimation.versions import Versions

#: Bootstrap resamples; the standard deviation of 200 is known to about 5%.
RESAMPLES = 200
#: A new set of more rows than this many times the known ones is taken for one of so many.
LARGEST = 10
#: Parts of the jackknife.
GROUPS = 10


@dataclass(frozen=True)
class RowNoise:
    """Variances of accuracy: `known(x)` of the line's height at x, `new` (m,) of a new set about the line.

    values: (m,) the measure of the calibration sets, at which `new` was found; between them it is
    interpolated, beyond them it stays.
    """

    values: Array
    new: Array
    known: Callable[[float], float]

    def variance(self, x: float) -> float:
        """That of a new set's accuracy at measure x, less what the line says there."""
        return self.known(x) + _between(x, self.values, self.new)


def of_shared_rows(
    versions: Versions, ruler: Ruler, line: Line, values: Array, size: int, rows: int
) -> RowNoise:
    """By the bootstrap over rows, the same of all versions. values: (m,), the line's x; rows: of the new set.

    Each time N rows are drawn with replacement, and the constants and the line are fitted again; and as many
    as the new set has, to see how far its accuracy is then from the line.
    """
    generator = np.random.default_rng([ruler.seed, rows])
    count, asked = min(rows, LARGEST * versions.rows), "resampled rows"
    lines, beside = [], []
    for _ in range(RESAMPLES):
        known, new = (versions.resampled(generator, amount) for amount in (versions.rows, count))
        own = prepared(ruler.measure, known.scores[0], known.right[0])
        lines.append(_line(ruler(known.scores, size, asked, own), known.accuracies))
        beside.append(new.accuracies - line.slope * ruler(new.scores, size, asked))
    slopes, heights = np.array(lines).T
    return RowNoise(values, np.var(beside, axis=0), partial(_height_variance, heights=heights, slopes=slopes))


def of_unknown_rows(
    values: Array, accuracies: Array, per_row: Array, line: Line, known: int, new: int
) -> RowNoise:
    """By p(1 - p) + slope^2 w, the variance that a row brings, over as many as there are: `known`, `new`.

    per_row: (m,) w, the measure's own part, see `jackknife`. Whether the sets share rows is not known, so the
    line is taken to err as one through sets that share all: too much for sets with rows of their own.
    """
    # Two of each more (Agresti and Coull): a set without an error does not prove that there is none.
    shares = (accuracies * known + 2) / (known + 4)
    each = shares * (1 - shares) + line.slope**2 * per_row
    return RowNoise(values, each / new, partial(_between, places=values, values=each / known))


def jackknife(scores: Array, summarise: Callable[[Array], Array], seed: int) -> float:
    """w: N times the variance of a figure of N rows, by leaving out one of at most `GROUPS` parts at a time.

    scores: (N,) or (N, d); their order does not matter. 0 for fewer than four rows.
    """
    ordered = scores[np.lexsort(scores.T if scores.ndim == 2 else (scores,))]
    places = np.random.default_rng(seed).permutation(len(ordered))
    groups = min(GROUPS, len(ordered) // 2)
    if groups < 2:
        return 0.0
    found = [float(summarise(np.delete(ordered, places[part::groups], axis=0))) for part in range(groups)]
    return float((groups - 1) * np.var(found) * len(ordered))


def _line(x: Array, y: Array) -> tuple[float, float]:
    """(slope, height at 0) by least squares; level where x is all the same, as a resample's may be."""
    centred = x - x.mean()
    spread = float((centred**2).sum())
    slope = float((centred * y).sum()) / spread if spread > 0 else 0.0
    return slope, float(y.mean() - slope * x.mean())


def _height_variance(x: float, heights: Array, slopes: Array) -> float:
    return float(np.var(heights + slopes * x))


def _between(x: float, places: Array, values: Array) -> float:
    order = np.argsort(places)
    return float(np.interp(x, places[order], values[order]))
