"""What an estimator was fitted on, as far as it is kept, and how the line is read from it for a new set.

Room: estimation. `estimator.py` keeps one of the two kinds: versions of the same rows, row by row, or sets of
which there are only figures.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import norm

from neurolora.checks import whole
from neurolora.errors import DataError, explain
from neurolora.estimation.inputs import Array, as_accuracies
from neurolora.estimation.regression import Line, fit_line
from neurolora.estimation.row_noise import RowNoise, jackknife, of_shared_rows, of_unknown_rows
from neurolora.estimation.ruler import Ruler
from neurolora.estimation.versions import Versions

_KNOWN = "the known rows"


class Drawn(NamedTuple):
    """The line through values (m,), the measure of `size` rows of each calibration set, and accuracies."""

    line: Line
    values: Array
    size: int


@dataclass(frozen=True)
class Reading:
    """The line as a new set of a certain size needs it.

    line: through values (m,), the measure of `size` rows of each calibration set, and their accuracies.
    """

    line: Line
    values: Array
    size: int
    noise: RowNoise

    def margin(self, x: float, level: float = 0.95) -> float:
        """Half the prediction interval at measure x: sqrt(line's margin^2 + z^2 variance by the rows).

        The line's margin is Student's, by its scatter (see `Line.margin`); z is the normal quantile at
        (1 + level) / 2. The scatter holds a little of the rows' noise too, so this is, if anything, wide.
        """
        quantile = float(norm.ppf((1 + level) / 2))
        return math.sqrt(self.line.margin(x, level) ** 2 + quantile**2 * self.noise.variance(x))


@dataclass(frozen=True)
class SharedRows:
    """Versions of the same rows. size: of how many rows sets are measured; None: of as many as both have."""

    versions: Versions
    size: int | None

    @property
    def accuracies(self) -> Array:
        """(m,), as fractions."""
        return self.versions.accuracies

    @property
    def known(self) -> int:
        """How many rows there are."""
        return self.versions.rows

    @property
    def least(self) -> int:
        """How many rows a new set must have."""
        return self.size or 2

    def drawn(self, ruler: Ruler, rows: int) -> Drawn:
        """The line for a new set of so many rows, at least `least`. Raises `DataError` as `fit_line` does."""
        size = min(rows, self.versions.rows) if self.size is None else self.size
        values = ruler(self.versions.scores, size, _KNOWN)
        return Drawn(fit_line(values, self.versions.accuracies), values, size)

    def reading(self, ruler: Ruler, rows: int) -> Reading:
        """The same with its margins, which take the time."""
        line, values, size = self.drawn(ruler, rows)
        noise = of_shared_rows(self.versions, ruler, line, values, size, rows)
        return Reading(line, values, size, noise)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {"versions": self.versions.to_dict(), "size": self.size}


@dataclass(frozen=True)
class Figures:
    """Figures of sets whose rows are gone. values, accuracies, per_row: (m,); per_row is `jackknife`'s w.

    size: of how many rows each was measured. known: the rows of the smallest.
    """

    values: Array
    accuracies: Array
    per_row: Array
    size: int
    known: int

    @classmethod
    def of(cls, sets: Sequence[Array], accuracies: Array, size: int | None, ruler: Ruler) -> Figures:
        """sets: m of scores (N_i,) or features (N_i, d). size None: as many rows as the smallest has."""
        known = min(map(len, sets))
        count = known if size is None else size
        values = [float(ruler(one, count, f"set {i}")) for i, one in enumerate(sets, start=1)]
        per_row = [
            jackknife(one, lambda rows: ruler.measure.summarise(rows, ruler.constants), ruler.seed)
            for one in sets
        ]
        return cls(np.array(values), accuracies, np.array(per_row), count, known)

    @property
    def least(self) -> int:
        """How many rows a new set must have."""
        return self.size

    def drawn(self, ruler: Ruler, rows: int) -> Drawn:
        """The line, one for all sizes. Raises `DataError` as `fit_line` does."""
        return Drawn(fit_line(self.values, self.accuracies), self.values, self.size)

    def reading(self, ruler: Ruler, rows: int) -> Reading:
        """The same with its margins for a new set of so many rows, at least `least`."""
        line = self.drawn(ruler, rows).line
        noise = of_unknown_rows(self.values, self.accuracies, self.per_row, line, self.known, rows)
        return Reading(line, self.values, self.size, noise)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        figures = {name: getattr(self, name).tolist() for name in ("values", "accuracies", "per_row")}
        return {"figures": figures, "size": self.size, "known": self.known}


def calibrated_from(state: Mapping[str, Any]) -> SharedRows | Figures:
    """The inverse of both `to_dict`. Raises `KeyError`, `TypeError` or `ValueError` for a damaged one."""
    size = None if state["size"] is None else whole(state["size"], "size", least=2)
    if "versions" in state:
        return SharedRows(Versions.from_dict(state["versions"]), size)
    figures = state["figures"]
    values, per_row = (np.asarray(figures[name], np.float64) for name in ("values", "per_row"))
    accuracies = as_accuracies(figures["accuracies"], "accuracies of the calibration sets")
    if size is None or per_row.shape != values.shape or not (per_row >= 0).all():
        raise DataError(
            explain("figures of the calibration sets", "they do not fit together", "Calibrate again")
        )
    return Figures(values, accuracies, per_row, size, whole(state["known"], "known", least=2))
