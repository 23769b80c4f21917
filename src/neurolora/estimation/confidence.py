"""How sure a classifier is of each row, by which temperature, and the threshold of ATC.

Room: estimation. Pure functions; `measures.py` and users call them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax

from neurolora.checks import positive
from neurolora.errors import DataError, explain
from neurolora.estimation.inputs import Array, as_labels, as_logits


def confidences(logits: Any, temperature: float = 1.0) -> Array:
    """max_c softmax(f_i / T)_c: (N,) in [1/C, 1]. Raises `DataError`, `ConfigError`."""
    found: Array = softmax(_scaled(logits, temperature, "confidences"), axis=1).max(axis=1)
    return found


def entropies(logits: Any, temperature: float = 1.0) -> Array:
    """H_i = -sum_c p_c log p_c with p = softmax(f_i / T): (N,) in nats. Raises `DataError`, `ConfigError`."""
    log_p = log_softmax(_scaled(logits, temperature, "entropies"), axis=1)
    # A class of probability 0 has a log of -1e4 or so, never -inf, and adds 0.
    found: Array = -(np.exp(log_p) * log_p).sum(axis=1)
    return found


def atc_threshold(scores: Any, right: Any) -> float:
    """t such that the share of `scores` >= t is the accuracy of `right`, as near as equal scores let it be.

    scores: (N,), higher is surer (a confidence, or an entropy with its sign turned); right: (N,) bool,
    whether the row was classified rightly. Above the largest score if no row was. Raises `DataError`.
    Source: arXiv 2201.04234, which sets the share below t to the share of errors: the same t.
    """
    values, truth = np.asarray(scores, dtype=np.float64), np.asarray(right, dtype=bool)
    if values.ndim != 1 or values.shape != truth.shape or not len(values) or not np.isfinite(values).all():
        found = f"scores of shape {values.shape} and answers of {truth.shape}, or a score that is not finite"
        raise DataError(explain("fitting the threshold of ATC", found, "Give one finite score an answer"))
    ordered, counts = np.unique(values, return_counts=True)
    candidates = np.append(ordered, np.nextafter(ordered[-1], np.inf))
    kept = np.append(counts[::-1].cumsum()[::-1], 0)  # rows at or above each candidate
    # The last of equally near ones: it claims less.
    nearest = len(kept) - 1 - int(np.argmin(np.abs(kept - truth.sum())[::-1]))
    return float(candidates[nearest])


def fit_temperature(logits: Any, labels: Any) -> float:
    """T in [0.01, 100] for which labels (N,) are likeliest under softmax(f / T): temperature scaling.

    To be fitted on labelled rows that are not to be estimated. Raises `DataError`.
    Source: Guo et al., arXiv 1706.04599.
    """
    asked = "fitting a temperature"
    rows = as_logits(logits, asked)
    right = as_labels(labels, len(rows), rows.shape[1], asked)
    places = np.arange(len(rows))

    def loss(log_temperature: float) -> float:
        return -float(log_softmax(rows / np.exp(log_temperature), axis=1)[places, right].mean())

    # In 1 / T the loss is convex, so there is one valley in log T as well.
    found = minimize_scalar(loss, bounds=(np.log(0.01), np.log(100)), method="bounded")
    return float(np.exp(found.x))


def _scaled(logits: Any, temperature: float, asked: str) -> Array:
    rows = as_logits(logits, asked)
    scaled: Array = rows / positive(temperature, "temperature")
    return scaled
