"""What a stream says before its first step, and what it says of a folder whose inputs have changed."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from neurolora.cli.main import main
from neurolora.continual import load_stream, run_continual
from neurolora.continual.preflight import INPUTS, read_inputs, require_ready, require_same_inputs
from neurolora.errors import ConfigError, DataError, TargetError


def stream(tiny_stream: ModuleType, base: Path, row: Any = None, **changes: Any) -> Path:
    found: Path = tiny_stream.write_stream(base, [row or tiny_stream.entry("sequential", "lora")], **changes)
    return found


def adapted(strategy: str, **adapter: Any) -> dict[str, Any]:
    return {"strategy": strategy, "adapter": {"method": "lora", "r": 4, **adapter}}


@pytest.mark.parametrize(
    ("changes", "row", "error", "told"),
    [
        ({"model": {"model_name_or_path": "/no/such/model"}}, None, ConfigError, "loading the model"),
        ({}, adapted("sequential", target_modules=["nothing"]), TargetError, "sequential-lora: "),
        ({}, adapted("o-lora", target_modules=["embed_tokens"]), ConfigError, "targets an embedding"),
    ],
)
def test_a_dry_run_finds_what_a_run_would_find(
    changes: dict[str, Any], row: Any, error: type[Exception], told: str, tiny_stream: ModuleType,
    tmp_path: Path, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    path = stream(tiny_stream, tmp_path, row, **changes)
    with pytest.raises(error, match=told):
        require_ready(load_stream(path))
    assert main(["continual", str(path), "--dry-run"]) == 2
    assert told in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_dry_run_looks_at_the_folder(
    tiny_stream: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = stream(tiny_stream, tmp_path)
    assert main(["continual", str(path), "--dry-run"]) == 0
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("x")
    assert main(["continual", str(path), "--dry-run"]) == 6
    assert "no stream's" in capsys.readouterr().err


def test_other_rows_and_another_model_are_refused(tiny_stream: ModuleType, tmp_path: Path) -> None:
    config = load_stream(stream(tiny_stream, tmp_path))
    inputs = read_inputs(config)
    (tmp_path / INPUTS).write_text(json.dumps(inputs))
    require_same_inputs(tmp_path, inputs)
    lines = (tmp_path / "b" / "train.jsonl").read_text().splitlines()
    (tmp_path / "b" / "train.jsonl").write_text("\n".join(lines[:-1]) + "\n")
    with pytest.raises(DataError, match="the train rows of b changed since"):
        require_same_inputs(tmp_path, read_inputs(config))
    with (tmp_path / "model" / "model.safetensors").open("ab") as file:
        file.write(b"x")
    with pytest.raises(DataError, match="the train rows of b, the model changed since"):
        require_same_inputs(tmp_path, read_inputs(config))
    (tmp_path / INPUTS).write_text("{")  # damaged, or of an older version: nothing to compare with
    require_same_inputs(tmp_path, inputs)


def test_a_stream_compares_before_it_goes_on(tiny_stream: ModuleType, tmp_path: Path) -> None:
    short = {"train": {**tiny_stream.TRAIN, "max_steps": 1}, "eval": {"unseen": False, "limit": 2}}
    path = stream(tiny_stream, tmp_path, **short)
    run_continual(load_stream(path), progress=False)
    larger = stream(tiny_stream, tmp_path, **{**short, "eval": {**short["eval"], "batch_size": 2}})
    run_continual(load_stream(larger), progress=False)  # rows at once may change
    (tmp_path / "a" / "test.jsonl").write_text('{"prompt": "w1 w2", "completion": " w3"}\n')
    with pytest.raises(DataError, match="the test rows of a changed since"):
        run_continual(load_stream(larger), progress=False)


def test_a_report_of_what_is_there(
    tiny_stream: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    short = {"train": {**tiny_stream.TRAIN, "max_steps": 1}, "eval": {"unseen": False, "limit": 2}}
    path = stream(tiny_stream, tmp_path, **short)
    assert main(["continual", str(path), "--report"]) == 3
    assert "without --report" in capsys.readouterr().err
    output = run_continual(load_stream(path), progress=False).output_dir
    for name in ("results.json", "report.html"):
        (output / name).unlink(missing_ok=True)
    more = stream(tiny_stream, tmp_path, **short, seeds=[0, 1])  # one cell of two is there
    assert main(["continual", str(more), "--report"]) == 0
    assert (output / "report.html").is_file()
    assert (output / "table.md").read_text().startswith("| strategy | a | b | c | average | BWT |")
    assert len(json.loads((output / "results.json").read_text())["cells"]) == 1
    assert not list(output.glob("cells/*/order-0-seed-1"))
