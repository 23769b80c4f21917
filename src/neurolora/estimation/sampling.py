"""Figures of sets made comparable: the mean over seeded subsamples of one size.

Room: estimation. `energy.py` and `measures.py` call it; it touches nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from neurolora.errors import DataError, explain
from neurolora.estimation.inputs import Array

#: Subsamples drawn from a set that is larger than asked.
DRAWS = 10


def mean_over_draws(
    scores: Array,
    summarise: Callable[[Array], Array],
    size: int,
    draws: int,
    seed: int,
    asked: str,
    *,
    rows_first: bool = False,
) -> Array:
    """(1/draws) sum over draws of summarise(`size` rows of `scores`, drawn without replacement).

    scores: (..., N), a set or several; with `rows_first` one set of features (N, d). With `size` = N there is
    one subsample, and it is taken once. Rows are put in order first, so their order in the set does not
    matter, and all sets of a size are drawn from at the same ranks. Raises `DataError` if `size` is above N.
    """
    axis = 0 if rows_first else -1
    total = scores.shape[axis]
    if size > total:
        found = f"{size} rows were asked for, and the set has {total}"
        raise DataError(explain(asked, found, f"Give at least {size} rows, or ask for fewer"))
    ordered = scores[np.lexsort(scores.T)] if rows_first else np.sort(scores, axis=-1)
    if size == total:
        return summarise(ordered)
    chosen = _ranks(total, size, draws, seed)
    mean: Array = np.mean([summarise(ordered.take(rows, axis=axis)) for rows in chosen], axis=0)
    return mean


@lru_cache(maxsize=4)  # a bootstrap asks for the same ones hundreds of times
def _ranks(total: int, size: int, draws: int, seed: int) -> tuple[NDArray[np.int64], ...]:
    generator = np.random.default_rng(seed)
    return tuple(generator.choice(total, size, replace=False) for _ in range(draws))
