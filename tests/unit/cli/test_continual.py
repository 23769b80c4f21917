"""The command `continual`."""

import json

import pytest

from neurolora.cli.continual import EXAMPLE
from neurolora.cli.main import main
from neurolora.continual import STRATEGIES, load_stream


@pytest.fixture
def stream(tiny_stream, tmp_path):
    rows = [tiny_stream.entry("sequential", "lora"), tiny_stream.entry("grow", "neurolora")]
    return tiny_stream.write_stream(tmp_path, rows, train={**tiny_stream.TRAIN, "max_steps": 2})


def test_the_strategies_are_listed_with_a_file_that_works(tmp_path, capsys):
    assert main(["continual", "--strategies"]) == 0
    shown = capsys.readouterr().out
    assert all(f"\n{name}: " in f"\n{shown}" for name in STRATEGIES)
    assert EXAMPLE in shown
    (tmp_path / "example.yaml").write_text(EXAMPLE)
    assert len(load_stream(tmp_path / "example.yaml").all_orders) == 2
    assert main(["continual", "--strategies", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {row["name"] for row in rows} == set(STRATEGIES)
    assert next(row for row in rows if row["name"] == "ewc")["settings"]["weight"]["default"] == 1000.0


def test_a_dry_run_lists_the_cells_and_trains_nothing(stream, tmp_path, capsys):
    assert main(["continual", str(stream), "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "sequential-lora: a -> b -> c, seed 0" in shown
    assert "2 cells, 6 training runs" in shown
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_run_ends_with_a_table_a_page_and_json(stream, tmp_path, capsys):
    assert main(["continual", str(stream), "--output-dir", str(tmp_path / "there")]) == 0
    captured = capsys.readouterr()
    assert "BWT" in captured.out
    assert "grow-neurolora" in captured.out
    assert "learning a (1 of 3)" in captured.err
    assert (tmp_path / "there" / "report.html").is_file()
    assert main(["continual", str(stream), "--output-dir", str(tmp_path / "there"), "--json"]) == 0
    captured = capsys.readouterr()
    found = json.loads(captured.out)
    assert [row["label"] for row in found["rows"]] == ["sequential-lora", "grow-neurolora"]
    assert "learning" not in captured.err
    assert main(["continual", str(stream), "--output-dir", str(tmp_path / "there"), "--overwrite"]) == 0
    assert "learning a (1 of 3)" in capsys.readouterr().err


def test_what_is_wrong_is_one_message(stream, tmp_path, capsys):
    assert main(["continual"]) == 2
    assert "there is no config" in capsys.readouterr().err
    assert main(["continual", str(tmp_path / "none.yaml")]) == 2
    text = stream.read_text().replace("strategy: grow", "strategy: growl")
    stream.write_text(text)
    assert main(["continual", str(stream)]) == 2
    shown = capsys.readouterr().err
    assert "did you mean grow" in shown
    assert "Traceback" not in shown
