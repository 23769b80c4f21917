"""A merged adapter beside its parents: the right tasks, pairs of rows, drops, and what cannot be compared."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from typer.testing import CliRunner

from neurolora.cli.main import app
from neurolora.errors import AdapterError, ConfigError
from neurolora.evaluation.comparison import Comparison, TaskComparison, compare_with_parents, parents_of
from neurolora.merging import merge_adapters
from neurolora.report.merging import comparison_bars, write_comparison_page
from neurolora.training import load_config, run_training


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, tiny_llama: ModuleType) -> tuple[Path, list[Path]]:
    """Two adapters of one A trained on the same rows, and their mean."""
    base = tmp_path_factory.mktemp("comparison")
    tiny_llama.make_model(base / "model")
    tiny_llama.make_rows(base / "data")
    parents = []
    for seed in (0, 1):
        folder = base / f"parent{seed}"
        settings = {**tiny_llama.settings(base), "output_dir": str(folder), "seed": seed, "init_seed": 0}
        run_training(load_config(None, settings), progress=False)
        parents.append(folder)
    merge_adapters(parents, base / "merged")
    return base / "merged", parents


def test_parents_alone_and_merged(runs: tuple[Path, list[Path]]) -> None:
    merged, parents = runs
    found = compare_with_parents(merged, split="validation", batch_size=4, progress=lambda what: None)
    assert [row.parent for row in found.tasks] == [str(path) for path in parents]
    for row in found.tasks:
        assert (row.task, row.metric, row.rows) == ("completion", "acc", 6)
        assert row.difference == pytest.approx(row.merged - row.alone)
    assert found.tasks[0].merged == found.tasks[1].merged, "one adapter on the same rows"
    json.dumps(found.to_dict(), allow_nan=False)


def test_a_parent_beside_itself_loses_nothing(runs: tuple[Path, list[Path]]) -> None:
    _, parents = runs
    found = compare_with_parents(parents[0], parents[:1], split="validation", batch_size=4)
    assert found.tasks[0].difference == found.tasks[0].difference_stderr == 0.0


def row(metric: str, alone: float, merged: float) -> TaskComparison:
    return TaskComparison("t", "p", metric, 10, alone, 0.1, merged, 0.1, merged - alone, 0.05)


def test_the_drop_is_relative_and_knows_what_is_better() -> None:
    assert row("acc", 0.8, 0.6).drop == pytest.approx(25.0)
    assert row("loss", 2.0, 3.0).drop == pytest.approx(50.0)
    assert row("exact_match,strict-match", 0.5, 0.75).drop == pytest.approx(-50.0)
    assert math.isnan(row("acc", 0.0, 0.6).drop)
    rows = (row("acc", 0.8, 0.6), row("acc", 0.0, 0.6), row("acc", 0.5, 0.5))
    assert Comparison("m", rows, {}).mean_drop == pytest.approx(12.5)


def test_a_folder_that_was_not_merged_names_no_parents(tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match="names no parents"):
        parents_of(tmp_path)


def test_a_parent_without_a_task_is_refused(runs: tuple[Path, list[Path]]) -> None:
    merged, _ = runs
    with pytest.raises(ConfigError, match="no task is saved"):
        compare_with_parents(merged, [merged])


def test_the_command(runs: tuple[Path, list[Path]], tmp_path: Path) -> None:
    merged, _ = runs
    page = tmp_path / "page.html"
    arguments = [
        "eval",
        str(merged),
        "--against-parents",
        "--split",
        "validation",
        "--html",
        str(page),
        "--json",
    ]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    assert len(document["tasks"]) == 2
    assert "Each task alone and merged" in page.read_text(encoding="utf-8")


@pytest.mark.parametrize("extra", [["--tasks", "gsm8k"], ["--dataset-name", "x"]])
def test_tasks_come_from_the_parents(runs: tuple[Path, list[Path]], extra: list[str]) -> None:
    done = CliRunner().invoke(app, ["eval", str(runs[0]), "--against-parents", *extra])
    assert done.exit_code != 0


def test_the_page(runs: tuple[Path, list[Path]], tmp_path: Path) -> None:
    merged, _ = runs
    found: Any = compare_with_parents(merged, split="validation", batch_size=4)
    picture = comparison_bars(found)
    assert picture.svg.count("<path") > 2
    text = write_comparison_page(found, tmp_path / "page.html").read_text(encoding="utf-8")
    assert "completion" in text
