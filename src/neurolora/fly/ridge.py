"""Ridge regression from sums alone: G += phi' phi, Q += phi' Y, solved by Cholesky in the memory of G.

Room: fly. Pure functions on arrays, but for `gram` matrices, which are changed in place as said. Of G (M, M)
the lower triangle holds the sums; the upper one is room to work in, so that a solution takes no second
matrix of that size. Float64 throughout.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
from scipy.linalg.blas import dsyrk
from scipy.linalg.lapack import dpotrf, dpotrs, dtrcon, dtrtri

from neurolora.errors import DataError, explain
from neurolora.fly import low_rank
from neurolora.fly.expansion import Array

#: Multiples of the mean of G's diagonal that are tried where no penalties are given.
AUTO_GRID = tuple(10.0**power for power in range(-4, 5))
#: Free parts of the samples, 1 - df / n, below which RSS, about their square, is lost in rounding.
INTERPOLATED = 1e-4
_MIRRORED = 512  # columns that are copied at once from one triangle into the other


class Solution(NamedTuple):
    """W_o (M, C), its penalty, and for each penalty that was tried its GCV score (inf: not solvable)."""

    weights: Array
    alpha: float
    scores: dict[float, float]


def add_to_gram(gram: Array, code: sp.csr_matrix) -> None:
    """G += phi' phi, its lower triangle, in place. gram (M, M), Fortran order; code (n, M)."""
    dsyrk(1.0, code.toarray().T, beta=1.0, c=gram, lower=1, overwrite_c=1)


def penalties(gram: Array, given: Sequence[float] | None) -> tuple[float, ...]:
    """The penalties to try: those given, or `AUTO_GRID` on the scale of this G (1 where G is zero)."""
    if given is not None:
        return tuple(float(value) for value in given)
    mean = float(np.diagonal(gram).mean())
    return tuple(multiple * mean for multiple in AUTO_GRID) if mean > 0 else (1.0,)


def solve_best(gram: Array, moments: Array, squares: float, count: int, grid: Sequence[float]) -> Solution:
    """The solution whose penalty has the lowest generalised cross-validation score.

    gram: G in its lower triangle, kept. moments: Q (M, C). squares: the sum of all entries of Y squared.
    count: samples. The score is (RSS / n) / (1 - df / n)^2 (Golub, Heath and Wahba 1979). Up to half as many
    samples as cells it comes from G's spectrum (`low_rank.py`, with up to M^2 / 2 numbers more), else from
    a Cholesky decomposition for each penalty. Of equal scores the largest penalty is taken.
    Raises DataError if no penalty of the grid can be solved.
    """
    ordered = sorted(grid, reverse=True)
    if 2 * count <= len(gram):
        return _by_spectrum(gram, moments, squares, count, ordered)
    return _by_cholesky(gram, moments, squares, count, ordered)


def _by_spectrum(gram: Array, moments: Array, squares: float, count: int, grid: Sequence[float]) -> Solution:
    with _room_above(gram, 0.0):
        found = low_rank.decompose(gram, moments)
        if found is None:
            return Solution(np.zeros_like(moments), grid[0], dict.fromkeys(grid, squares / count))
        scores = low_rank.scores(found, squares, count, grid)
        alpha = min(scores, key=scores.__getitem__)
        return Solution(low_rank.solution(found, alpha), alpha, scores)


def _by_cholesky(gram: Array, moments: Array, squares: float, count: int, grid: Sequence[float]) -> Solution:
    """By sums alone: RSS = squares - tr(W'Q) - alpha |W|^2 and df = M - alpha tr((G + alpha I)^-1).

    A penalty so small that the samples are all but interpolated (df within `INTERPOLATED` of n) has no
    score: there RSS is the difference of equal numbers. If none has one, the largest is taken.
    """
    scores: dict[float, float] = {}
    best: tuple[float, float, Array] | None = None
    for alpha in grid:
        solved = _solve(gram, moments, alpha, with_trace=True)
        scores[alpha] = float("inf") if solved is None else _gcv(*solved, moments, squares, count, alpha)
        if solved is not None and (best is None or scores[alpha] < best[0]):
            best = (scores[alpha], alpha, solved[0])
    if best is None:
        raise _singular(grid)
    return Solution(best[2], best[1], scores)


def solve_for(gram: Array, moments: Array, alpha: float) -> Array:
    """W_o = (G + alpha I)^-1 Q (M, C). Raises DataError where that matrix is singular."""
    solved = _solve(gram, moments, alpha, with_trace=False)
    if solved is None:
        raise _singular([alpha])
    return solved[0]


def _solve(gram: Array, moments: Array, alpha: float, with_trace: bool) -> tuple[Array, float] | None:
    """W_o, and tr((G + alpha I)^-1) if asked for; None where Cholesky's decomposition breaks down."""
    with _room_above(gram, alpha):
        scale = np.sqrt(np.diagonal(gram))[:, None]
        factor, failed = dpotrf(gram, lower=0, clean=0, overwrite_a=1)
        if failed:
            return None
        _divide_columns(factor, scale)
        if not _is_sound(factor):
            return None
        weights = dpotrs(factor, moments / scale, lower=0)[0] / scale
        if not np.isfinite(weights).all():
            return None
        if not with_trace:
            return weights, float("nan")
        inverse, _ = dtrtri(factor, lower=0, overwrite_c=1)
        return weights, _upper_squares(inverse, scale[:, 0])


@contextlib.contextmanager
def _room_above(gram: Array, alpha: float) -> Iterator[None]:
    """G + alpha I in both triangles, the upper one free to be overwritten; afterwards G below, as it was."""
    diagonal = np.diagonal(gram).copy()
    _mirror(gram)
    np.fill_diagonal(gram, diagonal + alpha)
    try:
        yield
    finally:
        np.fill_diagonal(gram, diagonal)


def _mirror(gram: Array) -> None:
    """Copy the lower triangle into the upper one, in blocks."""
    size = gram.shape[0]
    for start in range(0, size, _MIRRORED):
        stop = min(start + _MIRRORED, size)
        corner = np.tril(gram[start:stop, start:stop])
        gram[start:stop, start:stop] = corner + np.tril(corner, -1).T
        gram[start:stop, stop:] = gram[stop:, start:stop].T


def _divide_columns(factor: Array, scale: Array) -> None:
    """R to S = R D^-1 in the upper triangle, so that S'S is G + alpha I with ones on its diagonal.

    Cholesky's rounding is relative to that diagonal, entry by entry: cells of unlike scale are no loss.
    """
    for column, value in enumerate(scale[:, 0]):
        factor[: column + 1, column] /= value


def _is_sound(factor: Array) -> bool:
    """Whether S'S differs from a singular matrix by more than rounding: its condition is that of S, squared.

    The pivots alone do not tell: where the rank is one too low the smallest is often far above rounding.
    """
    reciprocal, _ = dtrcon(factor, norm="1", uplo="U")
    return bool(reciprocal**2 > np.finfo(np.float64).eps)


def _upper_squares(inverse: Array, scale: Array) -> float:
    """tr(A^-1) = |R^-1|^2 for A = R'R and R = S D, where the upper triangle of `inverse` is S^-1 = D R^-1."""
    return float(
        sum(
            np.square(inverse[: column + 1, column] / scale[: column + 1]).sum()
            for column in range(inverse.shape[1])
        )
    )


def _gcv(weights: Array, trace: float, moments: Array, squares: float, count: int, alpha: float) -> float:
    freedom = 1 - (len(weights) - alpha * trace) / count
    if freedom < INTERPOLATED:
        return float("inf")
    residual = squares - float((weights * moments).sum()) - alpha * float(np.square(weights).sum())
    return max(residual, 0.0) / count / freedom**2


def _singular(grid: Sequence[float]) -> DataError:
    tried = ", ".join(f"{alpha:g}" for alpha in grid)
    do = "Give a larger alpha, or features that are not all equal or collinear"
    return DataError(explain(f"ridge regression with alpha {tried}", "G + alpha I is singular", do))
