"""A cell of which something is missing or damaged: it goes on to the same numbers, or says what is wrong."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import neurolora.continual.cell as cell
from neurolora.continual import load_stream, run_continual
from neurolora.errors import DataError


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
    folder = stopped(path, monkeypatch, "_score", 1)
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


@pytest.mark.parametrize("gone", ["1-b", "1-b/adapter"])
def test_an_adapter_that_is_gone_is_missed(
    tiny_stream: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gone: str
) -> None:
    """A state that says more than the folders hold; the run's own adapter is not the sum of all."""
    path = write(tiny_stream, tmp_path, "grow", "neurolora")
    folder = stopped(path, monkeypatch, "_score", 1)
    shutil.move(folder / "tasks" / gone, tmp_path / "aside")
    with pytest.raises(DataError, match=r"1-b/adapter is gone.*\n?.*Put the folder back"):
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
    with pytest.raises(DataError, match="1-b/run is gone"):
        run_continual(load_stream(path), progress=False)
