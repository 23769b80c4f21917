"""From Kenyon cells to classes: the two read-outs, each the state it keeps and what it makes of it.

Room: fly. Used by `classifier.py` alone. Classes are columns in the order in which the classifier has them;
`READOUTS` has them by name. Neither keeps a sample.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np
import scipy.sparse as sp

from neurolora.fly.expansion import Array
from neurolora.fly.ridge import add_to_gram, penalties, solve_best, solve_for


class Solved(NamedTuple):
    """W_o' (C, M), what is worth telling of it, and the settings that it was made with (`asked`)."""

    coef: Array
    told: dict[str, Any]
    asked: list[Any]


class Readout(Protocol):
    """What the classifier needs: learn a block, give weights, add classes, be stored.

    settings: the classifier, read anew at each call, so that what is changed counts from then on.
    """

    name: str
    count: int

    def learn(self, code: sp.csr_matrix, labels: Array, settings: Any) -> None:
        """Take in a block: code (n, M), labels (n,) as columns."""

    def insert(self, columns: Array) -> None:
        """Make room for new classes, at these columns of the result."""

    def asked(self, settings: Any) -> list[Any]:
        """Those settings that a solution depends on, as JSON has them."""

    def solve(self, settings: Any) -> Solved:
        """W_o (M, C), transposed: the response is phi(x) W_o."""

    def scores(self, response: Array) -> Array:
        """phi(x) W_o (n, C) as scores, in the order of the response."""

    def arrays(self) -> dict[str, Array]:
        """The state, whole."""

    def restore(self, arrays: Mapping[str, Array], count: int) -> None:
        """Take over the state of `arrays()`, of these cells and classes. Raises ValueError."""


class RidgeReadout:
    """Streaming ridge regression on one-hot labels (Fly-CL): G (M, M) and Q (M, C), float64, and a count."""

    name = "ridge"

    def __init__(self, cells: int) -> None:
        self.gram = np.zeros((cells, cells), order="F")
        self.moments = np.zeros((cells, 0))
        self.count = 0

    def learn(self, code: sp.csr_matrix, labels: Array, settings: Any) -> None:
        """G += phi' phi, Q += phi' Y."""
        add_to_gram(self.gram, code)
        self.moments += _sums_by_class(code, labels, self.moments.shape[1])
        self.count += code.shape[0]

    def insert(self, columns: Array) -> None:
        """Columns of zeros in Q: G knows no classes."""
        self.moments = _with_columns(self.moments, columns)

    def asked(self, settings: Any) -> list[Any]:
        """The penalty, or "gcv" and what it chooses from."""
        if settings.alpha != "gcv":
            return [float(settings.alpha), None]
        return ["gcv", None if settings.alphas is None else [float(value) for value in settings.alphas]]

    def solve(self, settings: Any) -> Solved:
        """(G + alpha I)^-1 Q, with the penalty that was given or found; told: it, and with gcv the scores."""
        asked = self.asked(settings)
        alpha, given = asked
        if alpha != "gcv":
            weights = solve_for(self.gram, self.moments, alpha)
            return Solved(np.ascontiguousarray(weights.T), {"alpha": alpha}, asked)
        # One-hot labels: the sum of their squares is the number of samples.
        grid = penalties(self.gram, given)
        found = solve_best(self.gram, self.moments, float(self.count), self.count, grid)
        told = {"alpha": found.alpha, "gcv_scores": found.scores}
        return Solved(np.ascontiguousarray(found.weights.T), told, asked)

    def scores(self, response: Array) -> Array:
        """The response itself, which estimates probabilities."""
        return response

    def arrays(self) -> dict[str, Array]:
        """G's lower triangle, row after row, and Q."""
        lower = np.concatenate([self.gram[row, : row + 1] for row in range(len(self.gram))])
        return {"G_lower": lower, "Q": self.moments}

    def restore(self, arrays: Mapping[str, Array], count: int) -> None:
        """The two sums as they were."""
        self.moments, self.count = of_shape(arrays["Q"], self.moments.shape, "Q"), count
        size = len(self.gram) * (len(self.gram) + 1) // 2
        lower = of_shape(arrays["G_lower"], (size,), "G_lower")
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

    name = "associative"

    def __init__(self, cells: int) -> None:
        self.synapses = np.zeros((cells, 0))
        self.count = 0

    def learn(self, code: sp.csr_matrix, labels: Array, settings: Any) -> None:
        """One sum for the block, or step by step where decay makes the order matter."""
        rate, decay = float(settings.learning_rate), float(settings.decay)
        strengths = _normalised(code)
        self.count += code.shape[0]
        if decay == 0:
            self.synapses += rate * _sums_by_class(strengths, labels, self.synapses.shape[1])
            return
        for row, label in enumerate(labels):  # each step decays what the one before has left
            places = slice(strengths.indptr[row], strengths.indptr[row + 1])
            active = strengths.indices[places]
            kept = (1 - decay) * self.synapses[active, label]
            self.synapses[active, label] = kept + rate * strengths.data[places]

    def insert(self, columns: Array) -> None:
        """Synapses of zero."""
        self.synapses = _with_columns(self.synapses, columns)

    def asked(self, settings: Any) -> list[Any]:
        """Nothing: the synapses are what they are."""
        return []

    def solve(self, settings: Any) -> Solved:
        """The synapses as they are."""
        return Solved(self.synapses.T.copy(), {}, [])

    def scores(self, response: Array) -> Array:
        """Each class's share of the response; even shares where there is none."""
        raised = np.maximum(response, 0)
        total = raised.sum(axis=1, keepdims=True)
        even = np.full_like(raised, 1 / raised.shape[1])
        return np.asarray(np.divide(raised, total, out=even, where=total > 0))

    def arrays(self) -> dict[str, Array]:
        """The synapses."""
        return {"synapses": self.synapses}

    def restore(self, arrays: Mapping[str, Array], count: int) -> None:
        """The synapses as they were."""
        self.synapses, self.count = of_shape(arrays["synapses"], self.synapses.shape, "synapses"), count


READOUTS: dict[str, type[RidgeReadout] | type[AssociativeReadout]] = {
    kind.name: kind for kind in (RidgeReadout, AssociativeReadout)
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
    strengths.data /= np.repeat(
        largest, np.diff(strengths.indptr)
    )  # no reciprocal: that of a tiny one is inf
    return strengths


def of_shape(found: Array, shape: tuple[int, ...], name: str) -> Array:
    """`found`, if it is float64 of that shape. Raises ValueError."""
    if (found.shape, found.dtype) != (shape, np.dtype(np.float64)):
        raise ValueError(f"{name} is {found.dtype}{found.shape}, not float64{shape}")
    return found


def _with_columns(matrix: Array, columns: Array) -> Array:
    """`matrix` with columns of zeros that stand at `columns` of the result."""
    width = matrix.shape[1] + len(columns)
    old = np.setdiff1d(np.arange(width), columns)
    wider = np.zeros((len(matrix), width))
    wider[:, old] = matrix
    return wider
