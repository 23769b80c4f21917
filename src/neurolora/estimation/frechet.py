"""Frechet distance between two sets of features, each taken as a Gaussian.

Room: estimation. Pure functions; `measures.py` and users call them.

d^2 = |m1 - m2|^2 + tr S1 + tr S2 - 2 tr (S1 S2)^(1/2), and S = F'F for a factor F of each covariance, so the
last trace is the sum of the singular values of F1 F2'. No covariance is formed and no matrix root taken:
`sqrtm` of a product turns complex where a covariance is singular, as with fewer rows than features.
Source: Dowson and Landau 1982; as a measure of accuracy arXiv 2007.02915.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from neurolora.errors import DataError, explain
from neurolora.estimation.inputs import Array, as_rows


def frechet_distance(source: Any, target: Any) -> float:
    """d^2 >= 0 as above (the square, as FID has it), in squared units of the features.

    source: (N, d), target: (M, d), each with at least two rows, numpy or torch. Covariances have N - 1 below
    the line. Raises `DataError` for other shapes and for numbers that are not finite.
    """
    first = as_rows(source, "features of the source", least_rows=2)
    second = as_rows(target, "features of the target", least_rows=2)
    if first.shape[1] != second.shape[1]:
        found = f"{first.shape[1]} and {second.shape[1]} features"
        raise DataError(explain("the Frechet distance", found, "Give features of one and the same layer"))
    return distance_to(second, *moments(first))


def moments(features: Array) -> tuple[Array, Array]:
    """(mean (d,), factor (min(N, d), d)) of features (N, d): factor' factor is the covariance."""
    mean: Array = features.mean(axis=0)
    centred: Array = (features - mean) / np.sqrt(len(features) - 1)
    return mean, np.linalg.qr(centred).R


def distance_to(features: Array, mean: Array, factor: Array) -> float:
    """d^2 of features (N, d) to the Gaussian of `mean` and `factor` (see `moments`)."""
    own_mean, own_factor = moments(features)
    overlap = np.linalg.svd(own_factor @ factor.T, compute_uv=False).sum()
    squares = ((own_mean - mean) ** 2).sum() + (own_factor**2).sum() + (factor**2).sum()
    return max(float(squares - 2 * overlap), 0.0)  # rounding alone can take it below 0
