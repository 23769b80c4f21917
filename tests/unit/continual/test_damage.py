"""A cell of which something is missing or damaged: it goes on to the same numbers, or says what is wrong."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import neurolora.continual.cell as cell
import neurolora.continual.run as run
from neurolora.continual import load_stream, run_continual
from neurolora.errors import DataError, OutputError
from neurolora.locks import alone_in
from neurolora.training.trainer import NeuroLoraTrainer


class Stop(Exception):  # noqa: N818
    """In the place of a kill."""


def stopped(path: Path, monkeypatch: pytest.MonkeyPatch, function: str, stage: int) -> Path:
    """Run a stream until a function of `cell.py` is called for a stage; the folder of its only cell."""
    real = getattr(cell, function)

    def watched(where: Any, at: int, *others: Any) -> Any:
        if at == stage:
            raise Stop
        return real(where, at, *others)

    with monkeypatch.context() as patch:
        patch.setattr(cell, function, watched)
        with pytest.raises(Stop):
            run_continual(load_stream(path), progress=False)
    (folder,) = (path.parent / "out" / "cells").glob("*/*")
    return folder


def write(tiny_stream: ModuleType, base: Path, strategy: str, method: str, **settings: Any) -> Path:
    return Path(
        tiny_stream.write_stream(
            base,
            [tiny_stream.entry(strategy, method, **settings)],
            train={**tiny_stream.TRAIN, "max_steps": 2},
            eval={"unseen": False},
        )
    )


def test_what_was_kept_outlives_a_damaged_state(
    tiny_stream: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The state before is of the task before: it needs what was kept after that."""
    settings = {"samples": 4, "weight": 1e4}
    whole = run_continual(load_stream(write(tiny_stream, tmp_path / "whole", "ewc", "lora", **settings)))
    path = write(tiny_stream, tmp_path / "hurt", "ewc", "lora", **settings)
    folder = stopped(path, monkeypatch, "_measure", 1)
    (folder / "state.json").write_text("{")
    found = run_continual(load_stream(path), progress=False)
    assert found.summary["cells"][0]["scores"] == whole.summary["cells"][0]["scores"]


def test_what_was_kept_and_is_gone_is_missed(
    tiny_stream: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tiny_stream, tmp_path, "ewc", "lora", samples=4)
    folder = stopped(path, monkeypatch, "_train", 1)
    shutil.rmtree(folder / "memory")
    with pytest.raises(DataError, match=r"after-0.*\n?.*Remove the cell's folder"):
        run_continual(load_stream(path), progress=False)


@pytest.mark.parametrize("gone", ["1-b", "1-b/adapter", "1-b/adapter/adapter_model.safetensors"])
def test_an_adapter_that_is_gone_is_missed(
    tiny_stream: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gone: str
) -> None:
    """A state that says more than the folders hold; the run's own adapter is not the sum of all."""
    path = write(tiny_stream, tmp_path, "grow", "neurolora")
    folder = stopped(path, monkeypatch, "_measure", 1)
    shutil.move(folder / "tasks" / gone, tmp_path / "aside")
    with pytest.raises(DataError, match=r"no weights in .*1-b/adapter\. Put them back"):
        run_continual(load_stream(path), progress=False)
    shutil.move(tmp_path / "aside", folder / "tasks" / gone)
    found = run_continual(load_stream(path), progress=False)
    assert found.summary["rows"][0]["complete"] == 1


def test_an_adapter_that_the_next_task_needs_is_missed(
    tiny_stream: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tiny_stream, tmp_path, "sequential", "lora")
    folder = stopped(path, monkeypatch, "_train", 2)
    shutil.rmtree(folder / "tasks" / "0-a")  # nothing needs this one any more
    shutil.rmtree(folder / "tasks" / "1-b")
    with pytest.raises(DataError, match=r"no weights in .*1-b/run"):
        run_continual(load_stream(path), progress=False)


@pytest.mark.parametrize("at", ["write_text", "write_json", "_score_base"])
def test_a_comparison_that_was_stopped_at_its_first_files_goes_on(
    tiny_stream: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    def stop(*_: Any) -> None:
        raise Stop

    path = write(tiny_stream, tmp_path, "sequential", "lora")
    with monkeypatch.context() as patch:
        patch.setattr(run, at, stop)
        with pytest.raises(Stop):
            run_continual(load_stream(path), progress=False)
    (tmp_path / "out").mkdir(exist_ok=True)
    (tmp_path / "out" / ".config.yaml.x1.part").write_text("{")  # as a kill leaves it
    stopped(path, monkeypatch, "_train", 0)


def test_replacing_that_was_stopped_can_only_be_replaced(
    tiny_stream: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is left of cells of another config is never gone on with."""
    path = write(tiny_stream, tmp_path, "sequential", "lora")
    stopped(path, monkeypatch, "_train", 1)

    def stop(*_: Any) -> None:
        raise Stop

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", stop)
        with pytest.raises(Stop):
            run_continual(load_stream(path), progress=False, overwrite=True)
    with pytest.raises(OutputError, match="with --overwrite"):
        run_continual(load_stream(path), progress=False)
    run._open_folder(load_stream(path), tmp_path / "out", overwrite=True)
    left = [entry.name for entry in sorted((tmp_path / "out").iterdir())]
    assert left == ["config.yaml", "inputs.json"]


def test_a_damaged_score_of_the_base_is_measured_again(
    tiny_stream: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tiny_stream, tmp_path, "sequential", "lora")
    stopped(path, monkeypatch, "_train", 0)
    before = tmp_path / "out" / "before.json"
    text = before.read_text()
    for damaged in (text[:20], "{}", '{"a": {}, "b": {}, "c": {}}', "[]"):
        before.write_text(damaged)
        with pytest.raises(DataError, match=r"no before\.json that can be read"):
            run.gather(load_stream(path))
        said: list[str] = []
        run._score_base(load_stream(path), tmp_path / "out", run.Scorer(load_stream(path)), said.append)
        assert len(said) == 1
        assert "is damaged" in said[0]
        assert json.loads(before.read_text()) == json.loads(text)


def test_a_damaged_adapter_is_told_of(
    tiny_stream: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tiny_stream, tmp_path, "grow", "neurolora")
    folder = stopped(path, monkeypatch, "_train", 2)
    weights = folder / "tasks" / "1-b" / "adapter" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-7])
    with pytest.raises(DataError, match=r"going on with grow.*1-b/adapter/.* is damaged .*Put them back"):
        run_continual(load_stream(path), progress=False)


def test_whoever_reads_a_damaged_state_says_so_once(
    tiny_stream: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tiny_stream, tmp_path, "sequential", "lora")
    run_continual(load_stream(path), progress=False)
    (state,) = (tmp_path / "out" / "cells").glob("*/*/state.json")
    state.write_text("{")
    for begin in (run.gather, lambda config, notify: run_continual(config, progress=False, notify=notify)):
        said: list[str] = []
        begin(load_stream(path), said.append)
        told = [line for line in said if "state.json is damaged; going on from the last good state" in line]
        assert len(told) == 1
        state.write_text("{")


@pytest.mark.parametrize(("strategy", "method"), [("sequential", "full"), ("grow", "neurolora")])
def test_a_stream_that_was_moved_goes_on(
    tiny_stream: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, strategy: str, method: str
) -> None:
    """No number depends on where it lies."""
    path = write(tiny_stream, tmp_path, strategy, method)
    real = NeuroLoraTrainer.train

    def watched(self: NeuroLoraTrainer, *args: Any, **options: Any) -> Any:
        if "/tasks/1-" in str(self.args.output_dir):
            raise Stop
        return real(self, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(NeuroLoraTrainer, "train", watched)
        with pytest.raises(Stop):
            run_continual(load_stream(path), progress=False)
    (tmp_path / "out").rename(tmp_path / "there")
    moved = run_continual(load_stream(path, {"output_dir": str(tmp_path / "there")}), progress=False)
    whole = run_continual(load_stream(path), progress=False)
    assert moved.summary["cells"][0]["scores"] == whole.summary["cells"][0]["scores"]


HOLDER = """
import sys, time
from pathlib import Path
from neurolora.locks import alone_in
with alone_in(Path(sys.argv[1]), "testing"):
    print("in", flush=True)
    time.sleep(60)
"""


def test_two_processes_are_not_in_one_folder(tmp_path: Path) -> None:
    """They would write each other's state; a killed one is in nobody's way."""
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "out")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "in\n"
        try:
            with (
                pytest.raises(OutputError, match=r"another process .* Wait"),
                alone_in(tmp_path / "out", "testing"),
            ):
                pass
        finally:
            other.kill()
    for _ in range(2):
        with alone_in(tmp_path / "out", "testing"):
            assert not list((tmp_path / "out").iterdir())


def test_a_stream_holds_its_folder(tiny_stream: ModuleType, tmp_path: Path) -> None:
    path = write(tiny_stream, tmp_path, "sequential", "lora")
    with alone_in(tmp_path / "out", "testing"), pytest.raises(OutputError, match="another process"):
        run_continual(load_stream(path), progress=False, overwrite=True)
    (tmp_path / "out").rmdir()
    (tmp_path / "out").write_text("a file")
    with pytest.raises(OutputError, match=r"File exists\. Choose another"):
        run_continual(load_stream(path), progress=False)
