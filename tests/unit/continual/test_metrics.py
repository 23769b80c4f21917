"""The metrics on matrices made by hand, signs included."""

from __future__ import annotations

import math

import pytest

from neurolora.continual import metrics
from neurolora.errors import DataError

NAN = math.nan
#: Task 0 falls from 90 to 70 to 60, task 1 from 80 to 75; task 2 is learned to 50.
FORGETS = [[90.0, 30.0, 20.0], [70.0, 80.0, 25.0], [60.0, 75.0, 50.0]]
#: The second task helps the first.
HELPS = [[50.0, 40.0], [60.0, 80.0]]


def test_averages() -> None:
    assert metrics.average_accuracy(FORGETS) == pytest.approx((60 + 75 + 50) / 3)
    assert metrics.learning_accuracy(FORGETS) == pytest.approx((90 + 80 + 50) / 3)


def test_backward_transfer_is_negative_where_tasks_are_forgotten() -> None:
    assert metrics.backward_transfer(FORGETS) == pytest.approx(((60 - 90) + (75 - 80)) / 2)
    assert metrics.backward_transfer(HELPS) == pytest.approx(10.0)


def test_forgetting_has_the_other_sign_and_starts_from_the_best() -> None:
    assert metrics.forgetting(FORGETS) == pytest.approx(((90 - 60) + (80 - 75)) / 2)
    assert metrics.forgetting(HELPS) == pytest.approx(-10.0)
    recovers = [[50.0, 0.0, 0.0], [70.0, 80.0, 0.0], [60.0, 80.0, 90.0]]
    assert metrics.forgetting(recovers) == pytest.approx((10 + 0) / 2)  # from 70, not from 50
    assert metrics.backward_transfer(recovers) == pytest.approx((10 + 0) / 2)


def test_a_score_before_a_task_was_learned_is_not_forgotten() -> None:
    lucky = [[50.0, 95.0, 0.0], [50.0, 80.0, 0.0], [50.0, 80.0, 90.0]]
    assert metrics.forgetting(lucky) == 0.0


def test_forward_transfer_is_over_the_model_that_learned_nothing() -> None:
    assert metrics.forward_transfer(FORGETS, [10.0, 20.0, 30.0]) == pytest.approx(((30 - 20) + (25 - 30)) / 2)


def test_intransigence_is_what_the_stream_costs() -> None:
    assert metrics.intransigence(FORGETS, [90.0, 85.0, 70.0]) == pytest.approx((0 + 5 + 20) / 3)


def test_entries_that_are_not_needed_may_be_missing() -> None:
    lower = [[90.0, NAN, NAN], [70.0, 80.0, NAN], [60.0, 75.0, 50.0]]
    for name in metrics.METRICS:
        assert metrics.METRICS[name](lower) == metrics.METRICS[name](FORGETS)
    with pytest.raises(DataError, match="not measured"):
        metrics.forward_transfer(lower, [0.0, 0.0, 0.0])
    with pytest.raises(DataError, match="not measured"):
        metrics.average_accuracy([[1.0, 2.0], [NAN, 2.0]])


@pytest.mark.parametrize("name", ["backward_transfer", "forgetting"])
def test_one_task_forgets_nothing_that_could_be_measured(name: str) -> None:
    with pytest.raises(DataError, match="At least 2 tasks"):
        metrics.METRICS[name]([[90.0]])
    assert metrics.average_accuracy([[90.0]]) == 90.0


@pytest.mark.parametrize("wrong", [[[1.0, 2.0]], [1.0], [["a", "b"], ["c", "d"]], [[1.0], [2.0, 3.0]]])
def test_what_is_no_matrix_is_refused(wrong: object) -> None:
    with pytest.raises(DataError, match="Give T rows"):
        metrics.average_accuracy(wrong)  # type: ignore[arg-type]


def test_other_rows_must_fit() -> None:
    with pytest.raises(DataError, match="one number for each of the 3 tasks"):
        metrics.forward_transfer(FORGETS, [1.0])
    with pytest.raises(DataError, match="alone"):
        metrics.intransigence(FORGETS, [1.0, 2.0])
