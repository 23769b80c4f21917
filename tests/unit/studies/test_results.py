"""Intervals, paired tests and verdicts, against numbers worked out by hand or by another library."""

from __future__ import annotations

import math
from statistics import mean, stdev

import numpy as np
import pytest

from neurolora.studies.results import check_claim, interval, paired, verdict
from neurolora.studies.spec import Claim
from neurolora.studies.table import Table

#: 97.5% point of Student's t with 4 degrees of freedom, from tables.
T4 = 2.776


def test_the_interval_is_students() -> None:
    values = [1.0, 2.0, 3.0, 4.0, 5.0]
    found = interval(values)
    half = T4 * stdev(values) / math.sqrt(5)
    assert (found["mean"], found["n"]) == (3.0, 5)
    assert found["low"] == pytest.approx(3.0 - half, abs=1e-3)
    assert found["high"] == pytest.approx(3.0 + half, abs=1e-3)


def test_one_seed_has_no_interval_and_decides_nothing() -> None:
    assert interval([4.0]) == {"mean": 4.0, "low": None, "high": None, "n": 1}
    found = paired([4.0], [1.0])
    assert (found["mean"], found["p"], verdict(found)) == (3.0, None, "open")


def test_pairs_take_out_what_seeds_have_in_common() -> None:
    rng = np.random.default_rng(0)
    seeds = rng.normal(0, 20, 5)
    better, than = (seeds + 1 + rng.normal(0, 0.1, 5)).tolist(), seeds.tolist()
    found = paired(better, than)
    assert found["mean"] == pytest.approx(mean(better) - mean(than))
    assert found["p"] < 0.001  # type: ignore[operator]
    assert verdict(found) == "held"
    assert verdict(paired(than, better)) == "opposite"


def test_the_p_value_belongs_to_the_interval() -> None:
    rng = np.random.default_rng(1)
    for shift in np.linspace(-1, 1, 21):
        found = paired((rng.normal(shift, 1, 6)).tolist(), [0.0] * 6)
        assert (found["p"] < 0.05) == (verdict(found) != "open")  # type: ignore[operator]


def test_equal_differences_have_an_interval_of_no_width_and_no_p() -> None:
    found = paired([2.0, 3.0], [1.0, 2.0])
    assert (found["low"], found["high"], found["p"]) == (1.0, 1.0, None)
    assert verdict(found) == "open"


def test_rows_of_unequal_length_are_no_pairs() -> None:
    with pytest.raises(ValueError, match="zip"):
        paired([1.0, 2.0], [1.0])


def test_gains_are_counted_from_the_other_row_in_each_column() -> None:
    table = Table({"a": "a", "b": "b"})
    for ours, theirs in (((70.0, 52.0), (60.0, 50.0)), ((72.0, 51.0), (61.0, 50.0))):
        for row, (a, b) in (("ours", ours), ("theirs", theirs)):
            table.add(row, "a", a)
            table.add(row, "b", b)
    claim = Claim(say="more on a", better=("ours", "a"), than=("ours", "b"), gains_over="theirs")
    assert check_claim(claim, table)["difference"]["mean"] == ((10 - 2) + (11 - 1)) / 2
    assert check_claim(claim.model_copy(update={"gains_over": "other"}), table)["verdict"] == "not measured"
