"""The expansion as a scikit-learn transformer.

Room: fly. For users and pipelines; `FlyClassifier` uses the same functions of `expansion.py`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from neurolora.fly.expansion import all_codes, expansion_weights, refuse_overflow
from neurolora.fly.settings import CODING_LEVEL, FAN_IN, N_COMPONENTS, Expansion, resolve_expansion

#: What may come in; computed in float64.
FLOATS = (np.float64, np.float32)


class FlyProjection(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Features to the code of Kenyon cells: phi(x) = the largest entries of W x, the others zero.

    W (M, d) has `fan_in` entries of N(0, 1) in each row and is drawn from `random_state`, so that `fit`
    learns nothing but the number of features. The result is a sparse matrix (n, M), float64, with
    `coding_level` of its entries; it is made in blocks of `block_size` rows, beside which W and the result
    are all that takes memory.

    n_components: M, the Kenyon cells. fan_in: how many features a cell reads, or which fraction of them.
    coding_level: how many cells may answer, or which fraction of them. random_state: as in scikit-learn; an
    integer gives the same W on any machine. What is changed after `fit` counts at the next one.

    Attributes: `components_` W, a sparse matrix; `n_features_in_`; `feature_names_in_`.
    Raises ConfigError (a ValueError) for settings that cannot be, DataError (a ValueError) for a row whose
    code would leave float64, ValueError as scikit-learn does for data.
    Source: Fly-CL (arXiv 2510.16877); the Fly Model (arXiv 2502.01427).
    """

    def __init__(
        self,
        n_components: int = N_COMPONENTS,
        *,
        fan_in: float = FAN_IN,
        coding_level: float = CODING_LEVEL,
        block_size: int = 512,
        random_state: Any = 0,
    ) -> None:
        self.n_components = n_components
        self.fan_in = fan_in
        self.coding_level = coding_level
        self.block_size = block_size
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None) -> FlyProjection:
        """Draw W for as many features as X (n, d) has."""
        X = validate_data(self, X, accept_sparse="csr", dtype=FLOATS)
        self._plan = resolve_expansion(self, X.shape[1])
        self.components_ = draw(self, self._plan, X.shape[1])
        return self

    def transform(self, X: Any) -> sp.csr_matrix:
        """phi(X) (n, M), sparse. X (n, d), dense or sparse."""
        check_is_fitted(self)
        X = validate_data(self, X, accept_sparse="csr", dtype=FLOATS, reset=False)
        refuse_overflow(X, self.components_)
        return all_codes(X, self.components_, self._plan.keep, self._plan.block)

    @property
    def _n_features_out(self) -> int:
        return int(self.components_.shape[0])

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.requires_fit = True
        tags.transformer_tags.preserves_dtype = ["float64"]
        return tags


def draw(estimator: Any, plan: Expansion, n_features: int) -> sp.csr_matrix:
    """W by the estimator's `random_state`."""
    random = check_random_state(estimator.random_state)
    return expansion_weights(plan.cells, n_features, plan.fan_in, random)
