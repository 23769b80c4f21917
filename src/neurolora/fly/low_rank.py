"""Ridge regression where there are far fewer samples than cells: every penalty from one decomposition.

Room: fly. Called by `ridge.py`. G = phi' phi has the rank of the samples, so a pivoted Cholesky decomposition
G = R'R with R (rank, M), made in G's upper triangle, holds all of it, and what depends on the penalty is left
to the eigenvalues of R R' (rank, rank). Unlike the scores from sums nothing here is a difference of nearly
equal numbers, so penalties that all but interpolate the samples are scored too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from scipy.linalg import eigh
from scipy.linalg.blas import dsyrk
from scipy.linalg.lapack import dpstrf

from neurolora.fly.expansion import Array

_COLUMNS = 128


class Spectrum(NamedTuple):
    """R R' = U diag(s) U', and what a solution needs of G and Q: W = R' U (S + alpha)^-1 S^-1 U' R Q.

    fitted: S^-1 U' R Q (rank, C). factor (M, M): R in its upper triangle, its columns in the order `order`;
    it is the matrix that was given to `decompose`, and holds R only until that is restored.
    """

    values: Array
    vectors: Array
    fitted: Array
    factor: Array
    order: Array


def decompose(gram: Array, moments: Array) -> Spectrum | None:
    """The spectrum; None where G is zero. gram: both triangles hold G; the upper one is overwritten.

    Takes two matrices (rank, rank) for the time of the eigenvalues, one of which is kept.
    """
    factor, order, rank, _ = dpstrf(gram, lower=0, overwrite_a=1)
    if rank == 0 or factor[0, 0] <= 0:
        return None
    order = order - 1
    product = np.zeros((rank, rank), order="F")
    moved = np.zeros((rank, moments.shape[1]))
    for place, part in _columns(factor, rank):
        dsyrk(1.0, part, beta=1.0, c=product, lower=1, overwrite_c=1)
        moved += part @ moments[order[place]]
    values, vectors = eigh(product, lower=True, overwrite_a=True, check_finite=False, driver="evr")
    return Spectrum(values, vectors, vectors.T @ moved / values[:, None], factor, order)


def _columns(factor: Array, rank: int) -> Iterator[tuple[slice, Array]]:
    """R (rank, M) in blocks of columns, with zeros where `factor` holds something else."""
    for start in range(0, factor.shape[1], _COLUMNS):
        place = slice(start, min(start + _COLUMNS, factor.shape[1]))
        part = factor[:rank, place].copy(order="F")
        for column in range(part.shape[1]):
            part[start + column + 1 :, column] = 0
        yield place, part


def scores(found: Spectrum, squares: float, count: int, grid: Sequence[float]) -> dict[float, float]:
    """GCV of each penalty: (RSS / n) / (1 - df / n)^2.

    With t_i = |fitted_i|, the part of Y along the i-th left singular vector of phi, RSS = sum_i (alpha /
    (s_i + alpha))^2 t_i^2 + what lies along none, and n - df = n - rank + sum_i alpha / (s_i + alpha).
    """
    along = np.square(found.fitted).sum(axis=1)
    outside = max(squares - float(along.sum()), 0.0) if count > len(found.values) else 0.0
    told = {}
    for alpha in grid:
        left = alpha / (found.values + alpha)
        free = (count - len(left) + float(left.sum())) / count
        residual = float((np.square(left) * along).sum()) + outside
        told[alpha] = residual / count / free**2 if free > 0 else float("inf")
    return told


def solution(found: Spectrum, alpha: float) -> Array:
    """W_o (M, C) at this penalty."""
    inner = found.vectors @ (found.fitted / (found.values + alpha)[:, None])
    weights = np.empty((len(found.order), inner.shape[1]))
    for place, part in _columns(found.factor, len(inner)):
        weights[found.order[place]] = part.T @ inner
    return weights
