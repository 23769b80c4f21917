"""Rows of the papers studies: where the search for their rates begins, and what each run is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from neurolora.studies import Book, default_folder, load_scale, load_study
from neurolora.studies.library import ORDER
from neurolora.studies.single import find_rates, trained


@pytest.mark.parametrize(
    "name", [name for name in ORDER if name != "table3"]
)  # streams have no rows of these
def test_every_row_begins_at_its_methods_rate(name: str, tmp_path: Path) -> None:
    study, scale = load_study(default_folder(), name), load_scale(default_folder(), "miniature", quick=True)
    found = find_rates(study.rows, study.tasks, scale, Book(tmp_path), "x")
    assert list(found) == list(study.rows)
    for label, rates in found.items():
        method = study.rows[label].adapter["method"]
        assert [rates[task].best for task in study.tasks] == [scale.rates[method]] * len(study.tasks)


def test_only_a_gate_has_a_gates_rate() -> None:
    study, scale = load_study(default_folder(), "table1"), load_scale(default_folder(), "miniature")
    for label, share in {"neurolora": scale.gate_rate, "mole": 1.0, "flylora": None, "lora": None}.items():
        train = trained(scale, study.rows[label], "gsm8k", 0, 0.01).work["train"]
        assert train["learning_rate"] == 0.01
        assert train.get("gate_learning_rate") == (None if share is None else pytest.approx(0.01 * share))
    gates = load_study(default_folder(), "gate").rows
    train = trained(scale, gates["gate-paper"], "gsm8k", 0, 0.01).work["train"]
    assert train["gate_learning_rate"] == pytest.approx(0.025)
