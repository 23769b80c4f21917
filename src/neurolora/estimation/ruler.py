"""A measure as it is laid on sets: with the known set's constants, over subsamples of one size.

Room: estimation. `estimator.py` makes one when it is fitted.
"""

from __future__ import annotations

from dataclasses import dataclass

from neurolora.estimation.inputs import Array
from neurolora.estimation.measures import Constants, Measure
from neurolora.estimation.sampling import mean_over_draws


@dataclass(frozen=True)
class Ruler:
    """constants: what the measure keeps of the known set. draws, seed: of the subsamples of larger sets."""

    measure: Measure
    constants: Constants
    draws: int
    seed: int

    def __call__(self, scores: Array, size: int, asked: str, constants: Constants | None = None) -> Array:
        """The measure of `size` rows of each set: scores (..., N) give (...), features (N, d) one figure.

        Raises `DataError` if a set has fewer rows.
        """
        own = self.constants if constants is None else constants
        return mean_over_draws(
            scores,
            lambda rows: self.measure.summarise(rows, own),
            size,
            self.draws,
            self.seed,
            asked,
            rows_first=self.measure.takes == "features",
        )
