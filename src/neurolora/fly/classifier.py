"""The Fly Model and Fly-CL as one scikit-learn classifier that learns class after class and stores no sample.

Room: fly. Holds state; the expansion is in `expansion.py`, what is learned in `readouts.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets, unique_labels
from sklearn.utils.validation import check_is_fitted, validate_data

from neurolora.checks import positive
from neurolora.errors import ConfigError, explain
from neurolora.fly.expansion import Array, codes, refuse_overflow
from neurolora.fly.projection import FLOATS, draw
from neurolora.fly.readouts import READOUTS, Readout, Solved, onto_simplex
from neurolora.fly.settings import CODING_LEVEL, FAN_IN, N_COMPONENTS, Expansion, resolve_expansion

#: Attributes that take a solution.
_SOLVED = ("coef_", "alpha_", "gcv_scores_")


class FlyClassifier(ClassifierMixin, BaseEstimator):
    """Kenyon-cell codes of features, and a read-out that is a sum over samples.

    phi(x) as in `FlyProjection`; then `readout="ridge"` (Fly-CL): G += phi' phi, Q += phi' Y over all that
    `partial_fit` is given, and W_o = (G + alpha I)^-1 Q; or `readout="associative"` (the Fly Model). Any
    split of a stream and, but for `decay`, any order of it give the same sums (to rounding), so nothing is
    forgotten. Classes may be new at any time. Memory: W, M^2 + M C float64 (ridge) and a block of
    `block_size` codes.

    alpha: the ridge penalty, or "gcv" for the best of `alphas` by generalised cross-validation; alphas None:
    nine penalties on the scale of G. That takes M^2 n operations up to M / 2 samples (and M^2 / 2 numbers),
    and 2 M^3 / 3 for each penalty above. learning_rate, decay: of the associative rule. The others: see
    `FlyProjection`.

    Features far from zero mean make the same cells win for every sample: centre them first, above all for
    the associative read-out.

    Of settings that are changed after the first rows, the penalty counts at the next prediction, the rule's
    rate and decay at the next `partial_fit`; the expansion and the read-out stay until the next `fit`.
    `fit` solves at once; after `partial_fit` or a new penalty whoever needs `coef_` first does, a prediction
    or a reader of these attributes, and may not run in two threads.

    Attributes: `classes_` sorted, `components_` W (M, d) sparse, `coef_` (C, M), `alpha_` (ridge only),
    `gcv_scores_` (penalty to score, "gcv" only), `n_samples_seen_`, `n_features_in_`, `feature_names_in_`.
    Raises ConfigError (a ValueError) for settings, DataError (a ValueError) where G + alpha I is singular and
    for a row whose codes would leave float64 (nothing of its batch is learned), ValueError as scikit-learn
    does for data. Source: arXiv 2510.16877, 2502.01427.
    """

    def __init__(
        self,
        n_components: int = N_COMPONENTS,
        *,
        fan_in: float = FAN_IN,
        coding_level: float = CODING_LEVEL,
        readout: str = "ridge",
        alpha: float | str = "gcv",
        alphas: Sequence[float] | None = None,
        learning_rate: float = 0.01,
        decay: float = 0.0,
        block_size: int = 512,
        random_state: Any = 0,
    ) -> None:
        self.n_components = n_components
        self.fan_in = fan_in
        self.coding_level = coding_level
        self.readout = readout
        self.alpha = alpha
        self.alphas = alphas
        self.learning_rate = learning_rate
        self.decay = decay
        self.block_size = block_size
        self.random_state = random_state

    # --- learning

    def fit(self, X: Any, y: Any) -> FlyClassifier:
        """Forget everything, and learn X (n, d) with labels y (n,)."""
        self._learn(X, y, None, first=True)
        self._solution()
        return self

    def partial_fit(self, X: Any, y: Any, classes: Any = None) -> FlyClassifier:
        """Learn more rows, with classes known or new. classes: labels to make room for, none needed."""
        return self._learn(X, y, classes, first=not hasattr(self, "_readout"))

    def _learn(self, X: Any, y: Any, classes: Any, *, first: bool) -> FlyClassifier:
        check_settings(self)
        X, y = validate_data(self, X, y, accept_sparse="csr", dtype=FLOATS, reset=first)
        check_classification_targets(y)
        known = [] if first else [self.classes_]
        declared = [] if classes is None else [np.asarray(classes)]
        labels = unique_labels(*known, *declared, y)
        plan = resolve_expansion(self, X.shape[1]) if first else self._plan
        weights = draw(self, plan, X.shape[1]) if first else self.components_
        refuse_overflow(X, weights)
        # Whatever can be wrong with a batch has been said: from here on things change.
        if first:
            self.components_: sp.csr_matrix = weights
            self._plan: Expansion = plan
            self._readout: Readout = READOUTS[self.readout](plan.cells)
        old = np.zeros(len(labels), dtype=bool) if first else np.isin(labels, self.classes_)
        self._readout.insert(np.flatnonzero(~old))
        self.classes_: Array = labels
        self._solved: Solved | None = None
        columns = np.searchsorted(self.classes_, y)
        for place, code in codes(X, self.components_, plan.keep, plan.block):
            self._readout.learn(code, columns[place], self)
        self.n_samples_seen_ = self._readout.count
        return self

    # --- what was learned

    @property
    def coef_(self) -> Array:
        """W_o' (C, M). Solves if something was learned, or the penalty changed, since that was done last."""
        return self._solution().coef

    @property
    def alpha_(self) -> float:
        """The penalty that was given or found; ridge only. Solves as `coef_` does."""
        return float(self._told("alpha"))

    @property
    def gcv_scores_(self) -> dict[float, float]:
        """The score of each penalty that was tried; "gcv" only. Solves as `coef_` does."""
        return dict(self._told("gcv_scores"))

    def __dir__(self) -> list[str]:
        """All names but those that would yet have to be solved for: notebooks read all that is here.

        scikit-learn's own asks `hasattr` of each name, and so would solve.
        """
        solved = self._current()
        there = [f"{name}_" for name in ("coef", *solved.told)] if solved is not None else []
        names = object.__dir__(self)
        return [name for name in names if (name in there if name in _SOLVED else hasattr(self, name))]

    def _current(self) -> Solved | None:
        """The solution that is there, if it is of all rows and of the present penalty."""
        solved: Solved | None = self.__dict__.get("_solved")
        try:
            check_penalty(self)
            return solved if solved is not None and solved.asked == self._readout.asked(self) else None
        except (ValueError, TypeError):  # a penalty that is none
            return None

    def _told(self, name: str) -> Any:
        told = self._solution().told
        if name not in told:
            raise AttributeError(f"{name}_ is no part of readout={self.readout!r} with alpha={self.alpha!r}")
        return told[name]

    def _solution(self) -> Solved:
        check_is_fitted(self, "classes_")
        found = self._current()
        if found is None:
            check_penalty(self)
            found = self._solved = self._readout.solve(self)
        return found

    # --- predicting

    def predict(self, X: Any) -> Array:
        """The class of the largest score for each row of X; of equal scores the first class."""
        best = self._scores(X).argmax(axis=1)
        return np.asarray(self.classes_[best])

    def decision_function(self, X: Any) -> Array:
        """phi(X) W_o (n, C), of the associative read-out each class's share of it.

        For two classes the second's score minus the first's (n,).
        """
        scores = self._scores(X)
        return scores[:, 1] - scores[:, 0] if len(self.classes_) == 2 else scores

    def predict_proba(self, X: Any) -> Array:
        """Probabilities (n, C): the scores brought to the nearest probability vector; not calibrated."""
        return onto_simplex(self._scores(X))

    def _scores(self, X: Any) -> Array:
        check_is_fitted(self, "classes_")
        X = validate_data(self, X, accept_sparse="csr", dtype=FLOATS, reset=False)
        refuse_overflow(X, self.components_)
        weights = self.coef_.T
        scores = np.empty((X.shape[0], weights.shape[1]))
        for place, code in codes(X, self.components_, self._plan.keep, self._plan.block):
            scores[place] = self._readout.scores(code @ weights)
        return scores

    # --- files

    def save(self, path: Path | str) -> None:
        """Write everything to one safetensors file, whole or not at all; learning can go on after `load`."""
        from neurolora.fly.storage import save_classifier

        check_is_fitted(self, "classes_")
        save_classifier(self, Path(path))

    @classmethod
    def load(cls, path: Path | str) -> FlyClassifier:
        """Read what `save` wrote. Raises DataError for a file that is damaged or something else."""
        from neurolora.fly.storage import load_classifier

        return load_classifier(cls, Path(path))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags


def check_settings(one: FlyClassifier) -> None:
    """Raises ConfigError for a setting that cannot be, whatever the data; `fan_in` may yet be too many."""
    resolve_expansion(one, None)
    if not isinstance(one.readout, str) or one.readout not in READOUTS:
        do = f"Give one of {', '.join(READOUTS)}"
        raise ConfigError(explain(f"FlyClassifier(readout={one.readout!r})", "there is no such read-out", do))
    check_penalty(one)
    positive(one.learning_rate, "FlyClassifier.learning_rate")
    if positive(one.decay, "FlyClassifier.decay", zero=True) > 1:
        raise ConfigError(explain(f"FlyClassifier(decay={one.decay!r})", "it is above 1", "Give at most 1"))


def check_penalty(one: FlyClassifier) -> None:
    """Raises ConfigError for `alpha` or `alphas` that cannot be."""
    if not (isinstance(one.alpha, str) and one.alpha == "gcv"):
        positive(one.alpha, "FlyClassifier.alpha", zero=True)
    given: Any = one.alphas  # a user may have written anything
    if given is None:
        return
    if isinstance(given, str) or not hasattr(given, "__len__"):
        do = "Give a list of penalties, or None"
        raise ConfigError(explain(f"FlyClassifier(alphas={given!r})", "it is no list", do))
    if len(given) == 0:
        do = "Give some, or None"
        raise ConfigError(explain("FlyClassifier(alphas=[])", "there is nothing to choose from", do))
    for value in given:
        positive(value, "FlyClassifier.alphas")
