"""From projection neurons to Kenyon cells: a sparse random expansion, and winner-take-all.

Room: fly. Pure functions on arrays. A sample's code depends on that sample alone, to the bit: sparse products
sum each entry in the same order whatever else is in the block, so any split of a stream gives the same codes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from neurolora.errors import DataError, explain

Array: TypeAlias = NDArray[Any]
#: Activations above it are refused: their squares, summed over all cells and samples, must stay finite.
LARGEST = 1e75
#: Entries of X below it cannot come near that, whatever the fan-in: entries of W are below 10.
_UNSUSPECTED = 1e50
#: Rows of W that are drawn at once: what bounds the memory of the draw, and part of what a seed means.
_DRAWN = 1024


def expansion_weights(
    n_components: int, n_features: int, fan_in: int, random: np.random.RandomState
) -> sp.csr_matrix:
    """W (n_components, n_features): in each row `fan_in` entries of N(0, 1) at random places, else zeros.

    Source: Fly-CL (arXiv 2510.16877), which has 10,000 Kenyon cells of 300 inputs each on 768 features.
    """
    places, values = [], []
    for start in range(0, n_components, _DRAWN):
        rows = min(_DRAWN, n_components - start)
        order = random.random_sample((rows, n_features)).argpartition(fan_in - 1, axis=1)
        places.append(np.sort(order[:, :fan_in], axis=1))
        values.append(random.standard_normal((rows, fan_in)))
    starts = np.arange(0, n_components * fan_in + 1, fan_in)
    entries = (np.concatenate(values).ravel(), np.concatenate(places).ravel(), starts)
    return sp.csr_matrix(entries, shape=(n_components, n_features))


def activations(X: Any, weights: sp.csr_matrix) -> Array:
    """X W' (n, M), dense; X (n, d) dense or sparse."""
    product = X @ weights.T if sp.issparse(X) else (weights @ np.ascontiguousarray(X.T)).T
    return product.toarray() if sp.issparse(product) else np.ascontiguousarray(product)


def winners(activation: Array, keep: int) -> sp.csr_matrix:
    """The `keep` largest entries of each row, the others zero; of equal ones those further left.

    activation (n, M); the result has at most `keep` entries a row, none of them stored as zero.
    """
    n, size = activation.shape
    if keep < size:
        threshold = np.partition(activation, size - keep, axis=1)[:, size - keep, None]
        chosen = activation >= threshold
        for row in np.flatnonzero(chosen.sum(axis=1) > keep):
            tied = np.flatnonzero(activation[row] == threshold[row])
            above = keep - int((activation[row] > threshold[row]).sum())
            chosen[row, tied[above:]] = False
    else:
        chosen = np.ones_like(activation, dtype=bool)
    starts = np.arange(0, n * keep + 1, keep)
    entries = (activation[chosen], np.nonzero(chosen)[1].astype(np.int32), starts)
    code = sp.csr_matrix(entries, shape=(n, size))
    code.eliminate_zeros()
    return code


def codes(X: Any, weights: sp.csr_matrix, keep: int, block: int) -> Iterator[tuple[slice, sp.csr_matrix]]:
    """phi(X) in blocks of rows: each block's place, and its winners (rows, M)."""
    for start in range(0, X.shape[0], block):
        place = slice(start, min(start + block, X.shape[0]))
        yield place, winners(activations(X[place], weights), keep)


def all_codes(X: Any, weights: sp.csr_matrix, keep: int, block: int) -> sp.csr_matrix:
    """phi(X) (n, M) whole, written into arrays of n `keep` entries: no second copy of it is ever there."""
    n, cells = X.shape[0], weights.shape[0]
    whole = np.int32 if n * keep <= np.iinfo(np.int32).max else np.int64  # what scipy would turn them into
    data, places = np.empty(n * keep), np.empty(n * keep, dtype=whole)
    starts = np.zeros(n + 1, dtype=whole)
    end = 0
    for place, code in codes(X, weights, keep, block):
        begin, end = end, end + code.nnz
        data[begin:end], places[begin:end] = code.data, code.indices
        starts[place.start + 1 : place.stop + 1] = begin + code.indptr[1:]
    return sp.csr_matrix((data[:end], places[:end], starts), shape=(n, cells))


def refuse_overflow(X: Any, weights: sp.csr_matrix) -> None:
    """Raises DataError, naming the row, where |W x| exceeds `LARGEST`. X (n, d) finite, dense or sparse."""
    most = np.maximum(_plain(X.max(axis=1)), -_plain(X.min(axis=1)))
    for row in np.flatnonzero(most > _UNSUSPECTED):
        with np.errstate(over="ignore", invalid="ignore"):
            answer = np.abs(activations(X[row : row + 1], weights)).max()
        if not answer <= LARGEST:
            found = f"its entries go up to {most[row]:.3g}, and sums of squares would leave float64"
            raise DataError(explain(f"row {row} of X", found, "Scale the features, or leave the row out"))


def _plain(column: Any) -> Array:
    return np.asarray(column.toarray() if sp.issparse(column) else column, dtype=np.float64).ravel()
