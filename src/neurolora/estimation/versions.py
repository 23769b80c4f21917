"""Versions of one labelled set, row by row: all that an estimator has to keep of them.

Room: estimation. `estimator.py` keeps one; nothing of it depends on a measure.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neurolora.errors import DataError, explain
from neurolora.estimation.inputs import Array, as_rows


@dataclass(frozen=True)
class Versions:
    """scores: (m, N), of a measure. right: (m, N) bool. Column i is one and the same row in all versions.

    The first version is the known set as it is.
    """

    scores: Array
    right: NDArray[np.bool_]

    @property
    def rows(self) -> int:
        """N."""
        return int(self.scores.shape[1])

    @property
    def accuracies(self) -> Array:
        """(m,), as fractions."""
        found: Array = self.right.mean(axis=1)
        return found

    def resampled(self, generator: np.random.Generator, count: int) -> Versions:
        """`count` rows, drawn with replacement: the same of every version."""
        chosen = generator.integers(self.rows, size=count)
        return Versions(self.scores[:, chosen], self.right[:, chosen])

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values. scores: float64, little-endian, in base64; right: a text of 0s and 1s each."""
        packed = base64.b64encode(np.ascontiguousarray(self.scores, dtype="<f8").tobytes()).decode("ascii")
        return {"scores": packed, "right": ["".join("01"[one] for one in row.tolist()) for row in self.right]}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Versions:
        """The inverse of `to_dict`. Raises `KeyError`, `TypeError` or `ValueError` for a damaged one."""
        right = [list(row) for row in values["right"]]
        scores = np.frombuffer(base64.b64decode(values["scores"], validate=True), dtype="<f8")
        if {mark for row in right for mark in row} - {"0", "1"}:
            raise ValueError("`right` has other marks than 0 and 1")
        return checked_versions(scores.reshape(len(right), -1), np.array(right) == "1")


def checked_versions(scores: Any, right: Any) -> Versions:
    """Scores and answers of one shape (m, N), N >= 2, finite. Raises `DataError`."""
    asked = "versions of the known rows"
    found, answers = as_rows(scores, asked, least_columns=2), np.asarray(right)
    if answers.dtype != bool or answers.shape != found.shape:
        have = f"scores of shape {found.shape}, and answers of {answers.shape} and type {answers.dtype}"
        raise DataError(explain(asked, have, "Say of every score's row whether it was right, True or False"))
    return Versions(found, answers)
