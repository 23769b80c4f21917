"""The file that says how far a cell has come."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from neurolora.continual.state import BEFORE, STATE, CellState, load_state
from neurolora.errors import DataError

ORDER = ["a", "b"]


def filled(folder: Path) -> CellState:
    state = CellState(ORDER)
    state.add_task({"seconds": 1.0})
    state.save(folder)
    for task, value in (("a", 90.0), ("b", 10.0)):
        state.add_score(0, task, {"value": value})
        state.save(folder)
    return state


def test_it_comes_back(tmp_path: Path) -> None:
    state = filled(tmp_path)
    assert load_state(tmp_path, ORDER, pytest.fail) == state
    R = state.matrix()
    assert R[0] == [90.0, 10.0]
    assert all(math.isnan(value) for value in R[1])


def test_a_new_cell_has_done_nothing(tmp_path: Path) -> None:
    assert load_state(tmp_path, ORDER, pytest.fail) == CellState(ORDER)


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"sha256": "0", "state": {}}', "changed"])
def test_of_a_damaged_file_the_last_good_one_is_used(tmp_path: Path, damage: str) -> None:
    filled(tmp_path)
    text = (tmp_path / STATE).read_text()
    (tmp_path / STATE).write_text(text.replace("90.0", "99.0") if damage == "changed" else damage)
    said: list[str] = []
    found = load_state(tmp_path, ORDER, said.append)
    assert found.scores == [{"a": {"value": 90.0}}]
    assert "damaged; going on from the last good state" in said[0]
    found.add_score(0, "b", {"value": 10.0})
    found.save(tmp_path)  # must not put the damaged file in the place of the good one
    assert json.loads((tmp_path / BEFORE).read_text())["state"]["scores"] == [{"a": {"value": 90.0}}]
    assert load_state(tmp_path, ORDER, pytest.fail) == found


def test_both_damaged_is_a_new_cell_and_says_so(tmp_path: Path) -> None:
    filled(tmp_path)
    (tmp_path / STATE).write_text("x")
    (tmp_path / BEFORE).write_text("x")
    said: list[str] = []
    assert load_state(tmp_path, ORDER, said.append) == CellState(ORDER)
    assert len(said) == 1
    assert "beginning this cell anew" in said[0]


def test_another_order_is_refused(tmp_path: Path) -> None:
    filled(tmp_path)
    with pytest.raises(DataError, match="of the order a, b, not b, a"):
        load_state(tmp_path, ["b", "a"], pytest.fail)
