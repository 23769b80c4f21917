"""Intervals and paired differences, against numbers worked out by hand, by enumeration, or by a library."""

from __future__ import annotations

import itertools
import math
from statistics import mean, stdev

import numpy as np
import pytest

from neurolora.errors import DataError
from neurolora.intervals import bootstrap_interval, interval, paired

#: 97.5% point of Student's t with 4 degrees of freedom, from tables.
T4 = 2.776


def test_the_interval_is_students() -> None:
    values = [1.0, 2.0, 3.0, 4.0, 5.0]
    found = interval(values)
    half = T4 * stdev(values) / math.sqrt(5)
    assert (found["mean"], found["n"]) == (3.0, 5)
    assert found["low"] == pytest.approx(3.0 - half, abs=1e-3)
    assert found["high"] == pytest.approx(3.0 + half, abs=1e-3)


def test_one_seed_has_no_interval() -> None:
    assert interval([4.0]) == {"mean": 4.0, "low": None, "high": None, "n": 1}
    assert bootstrap_interval([4.0]) is None


def test_pairs_take_out_what_seeds_have_in_common() -> None:
    rng = np.random.default_rng(0)
    seeds = rng.normal(0, 20, 5)
    better, than = (seeds + 1 + rng.normal(0, 0.1, 5)).tolist(), seeds.tolist()
    found = paired(better, than)
    assert found["mean"] == pytest.approx(mean(better) - mean(than))
    assert found["low"] is not None
    assert found["low"] > 0
    assert found["p"] is not None
    assert found["p"] < 0.001


def test_equal_differences_have_an_interval_of_no_width_and_no_p() -> None:
    found = paired([2.0, 3.0], [1.0, 2.0])
    assert (found["low"], found["high"], found["p"]) == (1.0, 1.0, None)


def test_rows_of_unequal_length_are_no_pairs() -> None:
    with pytest.raises(ValueError, match="zip"):
        paired([1.0, 2.0], [1.0])


@pytest.mark.parametrize("level", [0.9, 0.95])
def test_the_bootstrap_interval_is_that_of_all_draws(level: float) -> None:
    """All 3,125 draws with replacement of five values, each as likely as the others."""
    values = [1.0, 2.1, 3.3, 4.7, 10.0]
    means = np.array([mean(draw) for draw in itertools.product(values, repeat=5)])
    found = bootstrap_interval(values, level=level)
    assert found is not None
    outside = [float((means < found[0] - 1e-9).mean()), float((means > found[1] + 1e-9).mean())]
    assert outside == pytest.approx([(1 - level) / 2] * 2, abs=0.006)
    assert found == bootstrap_interval(values, level=level)


@pytest.mark.parametrize("wrong", [[], [1.0, float("nan")]])
def test_what_was_not_measured_has_no_mean(wrong: list[float]) -> None:
    for function in (interval, bootstrap_interval):
        with pytest.raises(DataError):
            function(wrong)
