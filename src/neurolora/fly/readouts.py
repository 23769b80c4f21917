"""From Kenyon cells to classes: the two read-outs, each the state it keeps and what it makes of it.

Room: fly. Used by `classifier.py` alone. Classes are columns in the order in which the classifier has them;
`READOUTS` has them by name. Neither keeps a sample.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import scipy.sparse as sp

from neurolora.fly.expansion import Array
from neurolora.fly.ridge import add_to_gram, penalties, solve_best, solve_for


class Readout(Protocol):
    """What the classifier needs: learn a block, give weights (M, C), add classes, be stored."""

    count: int

    def learn(self, code: sp.csr_matrix, labels: Array) -> None:
        """Take in a block: code (n, M), labels (n,) as columns."""

    def insert(self, columns: Array) -> None:
        """Make room for new classes, at these columns of the result."""

    def weights(self) -> Array:
        """W_o (M, C): the response is phi(x) W_o."""

    def scores(self, response: Array) -> Array:
        """phi(x) W_o (n, C) as scores, in the order of the response."""

    def report(self) -> dict[str, Any]:
        """What is worth telling of the last `weights()`."""

    def arrays(self) -> dict[str, Array]:
        """The state, whole."""

    def restore(self, arrays: Mapping[str, Array], count: int) -> None:
        """Take over the state of `arrays()`, of these cells and classes. Raises ValueError."""


class RidgeReadout:
    """Streaming ridge regression on one-hot labels (Fly-CL): G (M, M) and Q (M, C), float64, and a count."""

    def __init__(self, cells: int, settings: Any) -> None:
        self.gram = np.zeros((cells, cells), order="F")
        self.moments = np.zeros((cells, 0))
        self.count = 0
        self._alpha, self._grid = settings.alpha, settings.alphas
        self._told: dict[str, Any] = {}

    def learn(self, code: sp.csr_matrix, labels: Array) -> None:
        """G += phi' phi, Q += phi' Y."""
        add_to_gram(self.gram, code)
        self.moments += _sums_by_class(code, labels, self.moments.shape[1])
        self.count += code.shape[0]

    def insert(self, columns: Array) -> None:
        """Columns of zeros in Q: G knows no classes."""
        self.moments = _with_columns(self.moments, columns)

    def weights(self) -> Array:
        """(G + alpha I)^-1 Q, with the penalty that was given or found."""
        if self._alpha != "gcv":
            self._told = {"alpha": float(self._alpha)}
            return solve_for(self.gram, self.moments, float(self._alpha))
        # One-hot labels: the sum of their squares is the number of samples.
        grid = penalties(self.gram, self._grid)
        found = solve_best(self.gram, self.moments, float(self.count), self.count, grid)
        self._told = {"alpha": found.alpha, "gcv_scores": found.scores}
        return found.weights

    def scores(self, response: Array) -> Array:
        """The response itself, which estimates probabilities."""
        return response

    def report(self) -> dict[str, Any]:
        """`alpha`, and with gcv its scores."""
        return self._told

    def arrays(self) -> dict[str, Array]:
        """G's lower triangle, row after row, and Q."""
        lower = np.concatenate([self.gram[row, : row + 1] for row in range(len(self.gram))])
        return {"G_lower": lower, "Q": self.moments}

    def restore(self, arrays: Mapping[str, Array], count: int) -> None:
        """The two sums as they were."""
        self.moments, self.count = _like(self.moments, arrays["Q"], "Q"), count
        lower = _like(np.empty(len(self.gram) * (len(self.gram) + 1) // 2), arrays["G_lower"], "G_lower")
        start = 0
        for row in range(len(self.gram)):
            self.gram[row, : row + 1] = lower[start : start + row + 1]
            start += row + 1


class AssociativeReadout:
    """The Fly Model's rule: only the synapses of active cells to the present class change.

    w_c[active] <- (1 - decay) w_c[active] + learning_rate v, where v is phi(x) over its largest entry,
    negative ones zero. Without decay that is a sum, so no order of the stream matters. Frequent classes get
    larger weights, as in the source (Shen, Dasgupta and Navlakha, arXiv 2107.07617).
    """

    def __init__(self, cells: int, settings: Any) -> None:
        self.synapses = np.zeros((cells, 0))
        self.count = 0
        self._rate, self._decay = float(settings.learning_rate), float(settings.decay)

    def learn(self, code: sp.csr_matrix, labels: Array) -> None:
        """One sum for the block, or step by step where decay makes the order matter."""
        strengths = _normalised(code)
        self.count += code.shape[0]
        if self._decay == 0:
            self.synapses += self._rate * _sums_by_class(strengths, labels, self.synapses.shape[1])
            return
        for row, label in enumerate(labels):  # each step decays what the one before has left
            places = slice(strengths.indptr[row], strengths.indptr[row + 1])
            active = strengths.indices[places]
            kept = (1 - self._decay) * self.synapses[active, label]
            self.synapses[active, label] = kept + self._rate * strengths.data[places]

    def insert(self, columns: Array) -> None:
        """Synapses of zero."""
        self.synapses = _with_columns(self.synapses, columns)

    def weights(self) -> Array:
        """The synapses as they are."""
        return self.synapses.copy()

    def scores(self, response: Array) -> Array:
        """Each class's share of the response; even shares where there is none."""
        raised = np.maximum(response, 0)
        total = raised.sum(axis=1, keepdims=True)
        even = np.full_like(raised, 1 / raised.shape[1])
        return np.asarray(np.divide(raised, total, out=even, where=total > 0))

    def report(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def arrays(self) -> dict[str, Array]:
        """The synapses."""
        return {"synapses": self.synapses}

    def restore(self, arrays: Mapping[str, Array], count: int) -> None:
        """The synapses as they were."""
        self.synapses, self.count = _like(self.synapses, arrays["synapses"], "synapses"), count


READOUTS: dict[str, type[RidgeReadout] | type[AssociativeReadout]] = {
    "ridge": RidgeReadout,
    "associative": AssociativeReadout,
}


def onto_simplex(scores: Array) -> Array:
    """Each row's nearest point among the probability vectors (Euclidean; Duchi et al. 2008).

    Least squares on one-hot labels estimates probabilities without knowing that they are some.
    """
    ordered = -np.sort(-scores, axis=1)
    excess = (np.cumsum(ordered, axis=1) - 1) / np.arange(1, scores.shape[1] + 1)
    last = (ordered > excess).sum(axis=1) - 1
    return np.maximum(scores - np.take_along_axis(excess, last[:, None], axis=1), 0)


def _sums_by_class(code: sp.csr_matrix, labels: Array, classes: int) -> Array:
    """phi' Y (M, C) for one-hot Y."""
    ones = (np.ones(len(labels)), labels, np.arange(len(labels) + 1))
    return np.asarray((code.T @ sp.csr_matrix(ones, shape=(len(labels), classes))).toarray())


def _normalised(code: sp.csr_matrix) -> sp.csr_matrix:
    """Rows in [0, 1]: over their largest entry, negative entries zero."""
    strengths = code.maximum(0).tocsr()
    largest = strengths.max(axis=1).toarray().ravel()
    scale = np.divide(1.0, largest, out=np.zeros_like(largest), where=largest > 0)
    return sp.diags(scale).dot(strengths).tocsr()


def _like(expected: Array, found: Array, name: str) -> Array:
    """`found`, if it has the shape and dtype of `expected`. Raises ValueError."""
    if (found.shape, found.dtype) != (expected.shape, expected.dtype):
        raise ValueError(f"{name} is {found.dtype}{found.shape}, not {expected.dtype}{expected.shape}")
    return found


def _with_columns(matrix: Array, columns: Array) -> Array:
    """`matrix` with columns of zeros that stand at `columns` of the result."""
    width = matrix.shape[1] + len(columns)
    old = np.setdiff1d(np.arange(width), columns)
    wider = np.zeros((len(matrix), width))
    wider[:, old] = matrix
    return wider
