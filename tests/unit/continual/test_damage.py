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

    with monkeypatch.context() as patch, pytest.raises(Stop):
        patch.setattr(cell, function, watched)
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
