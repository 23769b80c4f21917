"""What comes in at the door of this room, checked: rows of numbers, labels, accuracies.

Room: estimation. Its other files call these first; nothing is computed here. Wrong data are a `DataError`,
with scikit-learn's own words where it has some, which is also a `ValueError`, as its users expect.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.validation import check_array

from neurolora.errors import DataError, explain

Array = NDArray[np.float64]


def as_rows(values: Any, asked: str, *, least_rows: int = 1, least_columns: int = 1) -> Array:
    """A set as float64 (N, columns): from a numpy array, nested lists, or a torch tensor of any float dtype.

    Raises `DataError` unless it is two-dimensional, finite, and has so many rows and columns.
    """
    try:
        rows: Array = check_array(
            _off_torch(values),
            dtype=np.float64,
            ensure_min_samples=least_rows,
            ensure_min_features=least_columns,
        )
    except (TypeError, ValueError) as error:
        found = str(error).splitlines()[0].rstrip(".:")
        do = f"Give numbers of shape (rows, columns), at least {least_rows} by {least_columns}, all finite"
        raise DataError(explain(asked, found, do)) from error
    return rows


def as_logits(values: Any, asked: str, *, least_rows: int = 1) -> Array:
    """Logits (N, C) of at least two classes: one class leaves nothing to be unsure of. Raises `DataError`."""
    return as_rows(values, asked, least_rows=least_rows, least_columns=2)


def as_scores(values: Any, asked: str) -> Array:
    """One finite number a row (N,), float64. Raises `DataError`."""
    try:
        found = np.asarray(_off_torch(values), dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(explain(asked, str(error), "Give one number a row")) from error
    if found.ndim != 1:
        raise DataError(explain(asked, f"scores of shape {found.shape}", "Give one number a row"))
    if not np.isfinite(found).all():
        place = int(np.flatnonzero(~np.isfinite(found))[0])
        raise DataError(explain(asked, f"the score of row {place} is {found[place]}", "Give finite numbers"))
    return found


def as_labels(labels: Any, rows: int, classes: int, asked: str) -> NDArray[np.int64]:
    """Labels (N,), whole numbers from 0 below `classes`, one for each row. Raises `DataError`."""
    found = np.asarray(_off_torch(labels, as_double=False))
    if found.ndim != 1 or found.dtype.kind not in "iu":
        have = f"labels of shape {found.shape} and type {found.dtype}"
        raise DataError(explain(asked, have, "Give one whole number a row"))
    if len(found) != rows:
        raise DataError(explain(asked, f"{len(found)} labels for {rows} rows", "Give one label a row"))
    if found.min() < 0 or found.max() >= classes:
        have = f"labels from {found.min()} to {found.max()}, and logits of {classes} classes"
        raise DataError(explain(asked, have, f"Give labels from 0 to {classes - 1}"))
    return found.astype(np.int64)


def as_accuracies(values: Any, asked: str) -> Array:
    """Accuracies (m,) as fractions from 0 to 1. Raises `DataError`."""
    try:
        found = np.asarray([float(value) for value in values], dtype=np.float64)
    except TypeError as error:
        raise DataError(explain(asked, str(error), "Give a sequence of numbers")) from error
    wrong = [float(value) for value in found if not 0 <= value <= 1]
    if wrong:
        do = "Give fractions from 0 to 1, not per cent"
        raise DataError(explain(asked, f"accuracy {wrong[0]:g} is outside [0, 1]", do))
    return found


def _off_torch(values: Any, *, as_double: bool = True) -> Any:
    """A torch tensor as a numpy array (bfloat16 has no numpy type, hence float64 first); others as they are.

    Known by what it can do, so that torch need not be imported.
    """
    if not hasattr(values, "detach"):
        return values
    here = values.detach().cpu()
    return (here.double() if as_double else here).numpy()
