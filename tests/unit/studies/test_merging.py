"""Table 2: what it asks the book for, and what it makes of the answers."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest

from neurolora.studies import Book, default_folder, load_scale, load_study
from neurolora.studies.cells import Cell
from neurolora.studies.merging import run_merging

CHANGES = {"seeds": [0, 1], "search": {"seeds": [100, 101]}}


def test_all_merges_of_all_seeds_are_asked_for_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers are started for each time that cells are asked for, and wait for each other at its end."""
    asked: list[tuple[str, int]] = []
    parents: dict[str, set[str]] = {}
    counter = itertools.count(1)

    def run(book: Book, cells: list[Cell], what: str) -> dict[str, Any]:
        asked.append((what, len(cells)))
        parents[what] = {", ".join(parent.name for parent in cell.parents) for cell in cells}
        columns = {cell.key: {score.column for score in cell.scores} for cell in cells}
        nothing = {"costs": None, "size": None}
        return {
            key: nothing
            | {"key": key, "scores": {name: {"value": float(next(counter))} for name in sorted(names)}}
            for key, names in columns.items()
        }

    monkeypatch.setattr(Book, "run", run)
    study = load_study(default_folder(), "table2")
    scale = load_scale(default_folder(), "miniature", quick=True, changes=CHANGES)
    table = run_merging(study, scale, Book(tmp_path))
    assert asked == [
        ("table2, before training", 3),
        ("table2, scales of merges", 4 * 8 * 2),
        ("table2, adapters", 4 * 2 * 3),
        ("table2", 4 * 2 * 2),
    ]
    assert len({record["key"] for record in table.records}) == 4 * 2 * (3 + 2)
    searched = [
        told.count(f"seed {seed}") for told in parents["table2, scales of merges"] for seed in (100, 101)
    ]
    assert sorted(searched) == [0] * 8 + [3] * 8  # of each method, what is merged is of one seed
    base = table.base["ties"]
    assert base == table.base["alone"] == (1 + 2 + 3) / 3
    for row in table.values.values():
        alone, merged, kept, gained = (row[each] for each in ("alone", "ties", "ties_kept", "ties_gained"))
        assert kept == [100 * score / own for score, own in zip(merged, alone, strict=True)]
        both = zip(merged, alone, strict=True)
        assert gained == [100 * (score - base) / (own - base) for score, own in both]
