"""Verdicts on claims, and what a stored result belongs to."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from neurolora.intervals import paired, verdict
from neurolora.studies import default_folder, load_scale
from neurolora.studies.results import check_claim, settings_fingerprint
from neurolora.studies.spec import Claim
from neurolora.studies.table import Table


def test_one_seed_decides_nothing() -> None:
    found = paired([4.0], [1.0])
    assert (found["mean"], found["p"], verdict(found)) == (3.0, None, "open")


def test_a_verdict_has_two_sides() -> None:
    better, than = [3.0, 4.1, 5.0], [1.0, 2.0, 3.1]
    assert verdict(paired(better, than)) == "held"
    assert verdict(paired(than, better)) == "opposite"


def test_the_p_value_belongs_to_the_interval() -> None:
    rng = np.random.default_rng(1)
    for shift in np.linspace(-1, 1, 21):
        found = paired((rng.normal(shift, 1, 6)).tolist(), [0.0] * 6)
        assert (found["p"] < 0.05) == (verdict(found) != "open")  # type: ignore[operator]


def test_equal_differences_decide_nothing() -> None:
    assert verdict(paired([2.0, 3.0], [1.0, 2.0])) == "open"
    found = paired([83.2, 81.6, 79.2], [83.0, 81.4, 79.0])  # 0.2 each, if not in binary
    assert (verdict(found), found["p"]) == ("open", None)


def test_gains_are_counted_from_the_other_row_in_each_column() -> None:
    table = Table({"a": "a", "b": "b"})
    for ours, theirs in (((70.0, 52.0), (60.0, 50.0)), ((72.0, 51.0), (61.0, 50.0))):
        for row, (a, b) in (("ours", ours), ("theirs", theirs)):
            table.add(row, "a", a)
            table.add(row, "b", b)
    claim = Claim(say="more on a", better=("ours", "a"), than=("ours", "b"), gains_over="theirs")
    assert check_claim(claim, table)["difference"]["mean"] == ((10 - 2) + (11 - 1)) / 2
    assert check_claim(claim.model_copy(update={"gains_over": "other"}), table)["verdict"] == "not measured"


def test_settings_are_the_same_wherever_the_data_lie(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real scale's data are the user's folders: a stored result must not age where they are missing."""
    scale = load_scale(default_folder(), "stories")
    monkeypatch.chdir(tmp_path)
    missing = settings_fingerprint(scale)
    for task in scale.tasks.values():
        Path(task.data["dataset_name"]).mkdir(parents=True)
    assert settings_fingerprint(scale) == missing
