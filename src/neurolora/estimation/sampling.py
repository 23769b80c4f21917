"""Figures of sets made comparable: the mean over seeded subsamples of one size.

Room: estimation. `energy.py` and `measures.py` call it; it touches nothing.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from neurolora.errors import DataError, explain
from neurolora.estimation.inputs import Array

#: Subsamples drawn from a set that is larger than asked.
DRAWS = 10


def mean_over_draws(
    scores: Array, summarise: Callable[[Array], float], size: int, draws: int, seed: int, asked: str
) -> float:
    """(1/draws) sum over draws of summarise(`size` rows of `scores`, drawn without replacement).

    scores: (N,) or (N, d). With `size` = N there is one subsample, and it is taken once. Rows are put in
    order first, so their order in the set does not matter. Raises `DataError` if `size` is above N.
    """
    if size > len(scores):
        found = f"{size} rows were asked for, and the set has {len(scores)}"
        raise DataError(explain(asked, found, f"Give at least {size} rows, or ask for fewer"))
    ordered = scores[np.lexsort(scores.T if scores.ndim == 2 else (scores,))]
    if size == len(scores):
        return summarise(ordered)
    generator = np.random.default_rng(seed)
    chosen = (generator.choice(len(scores), size, replace=False) for _ in range(draws))
    return float(np.mean([summarise(ordered[rows]) for rows in chosen]))
