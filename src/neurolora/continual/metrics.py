"""What a stream of tasks taught and cost, from its matrix of accuracies: pure functions of numbers.

Room: continual. R (T, T) float: R[j, i] is the accuracy on task i after training on task j, tasks in the
order they were learned, both from 0. Larger is better; any unit (all results are in the unit of R). An entry
that was not measured is NaN; what a metric needs must be there.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from neurolora.errors import DataError, explain

Matrix = NDArray[np.float64]


def average_accuracy(R: ArrayLike) -> float:
    """Mean of the last row: (1/T) sum over i of R[T-1, i]. Raises DataError."""
    matrix = _checked(R, "average accuracy")
    return float(_known(matrix[-1], "average accuracy").mean())


def learning_accuracy(R: ArrayLike) -> float:
    """Mean of the diagonal: how well each task was learned in its turn (plasticity). Raises DataError."""
    matrix = _checked(R, "learning accuracy")
    return float(_known(matrix.diagonal(), "learning accuracy").mean())


def backward_transfer(R: ArrayLike) -> float:
    """Eq. 9 of arXiv 2603.12378 (Lopez-Paz and Ranzato, 2017): mean over i < T-1 of R[T-1, i] - R[i, i].

    Negative where tasks were forgotten. Raises DataError for fewer than two tasks.
    """
    matrix = _checked(R, "backward transfer", least=2)
    change = matrix[-1, :-1] - matrix.diagonal()[:-1]
    return float(_known(change, "backward transfer").mean())


def forward_transfer(R: ArrayLike, before: ArrayLike) -> float:
    """Mean over i > 0 of R[i-1, i] - before[i] (Lopez-Paz and Ranzato, 2017).

    before (T): the accuracy on each task of the model that has learned nothing yet. Positive where earlier
    tasks helped a task that was still to come. Raises DataError for fewer than two tasks.
    """
    matrix = _checked(R, "forward transfer", least=2)
    start = _row(before, len(matrix), "before")
    gain = matrix.diagonal(offset=1) - start[1:]
    return float(_known(gain, "forward transfer").mean())


def forgetting(R: ArrayLike) -> float:
    """Mean over i < T-1 of the max over i <= j < T-1 of R[j, i], less R[T-1, i].

    After Chaudhry et al. (2018), whose maximum is over all j < T-1; here it begins where the task was
    learned, so that a lucky score before that is not forgotten. Positive where a task was forgotten; negative
    where it ends above its best. Raises DataError for fewer than two tasks.
    """
    matrix = _checked(R, "forgetting", least=2)
    last = len(matrix) - 1
    best = [_known(matrix[i:last, i], "forgetting").max() for i in range(last)]
    return float((np.array(best) - _known(matrix[-1, :-1], "forgetting")).mean())


def intransigence(R: ArrayLike, alone: ArrayLike) -> float:
    """Mean over i of alone[i] - R[i, i]: what the stream costs in learning, negative where it helps.

    alone (T): the accuracy of a model that learned the task by itself. After Chaudhry et al. (2018), whose
    reference has learned all tasks up to i together. Raises DataError.
    """
    matrix = _checked(R, "intransigence")
    free = _row(alone, len(matrix), "alone")
    return float(_known(free - matrix.diagonal(), "intransigence").mean())


#: Metrics of R alone, by the names that tables and files use.
METRICS: dict[str, Callable[[ArrayLike], float]] = {
    "average_accuracy": average_accuracy,
    "backward_transfer": backward_transfer,
    "learning_accuracy": learning_accuracy,
    "forgetting": forgetting,
}


def _checked(R: ArrayLike, what: str, least: int = 1) -> Matrix:
    try:
        matrix = np.asarray(R, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(explain(what, f"R is no matrix of numbers ({error})", "Give T rows of T")) from None
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise DataError(explain(what, f"R has the shape {matrix.shape}", "Give T rows of T numbers"))
    if len(matrix) < least:
        do = f"At least {least} tasks are needed, one after another"
        raise DataError(explain(what, f"R has {len(matrix)} tasks", do))
    return matrix


def _row(values: ArrayLike, length: int, name: str) -> Matrix:
    row = np.asarray(values, dtype=np.float64)
    if row.shape != (length,):
        do = f"Give one number for each of the {length} tasks"
        raise DataError(explain(name, f"its shape is {row.shape}", do))
    return row


def _known(values: Matrix, what: str) -> Matrix:
    """The values, if all that is needed was measured."""
    missing = int((~np.isfinite(values)).sum())
    if missing:
        found = f"{missing} of {values.size} entries that it needs were not measured"
        raise DataError(explain(what, found, "Finish the run: every task after every task"))
    return values
