"""Checkpoints: whole or not believed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from neurolora.errors import TrainingError
from neurolora.training.checkpoints import (
    STAGING,
    checked,
    damage,
    latest_checkpoint,
    list_checkpoints,
    publish,
    rotate,
)


def make(run: Path, step: int, text: str = "weights") -> Path:
    staged = run / STAGING / f"checkpoint-{step}"
    (staged / "inner").mkdir(parents=True)
    (staged / "adapter_model.safetensors").write_text(text)
    (staged / "inner" / "optimizer.pt").write_text("moments")
    return publish(staged, run)


def test_published_is_whole_and_newest_by_number(tmp_path: Path) -> None:
    for step in (2, 10, 9):
        make(tmp_path, step)
    assert latest_checkpoint(tmp_path) == tmp_path / "checkpoint-10"
    assert [folder.name for folder in list_checkpoints(tmp_path)] == [f"checkpoint-{n}" for n in (2, 9, 10)]
    assert damage(tmp_path / "checkpoint-9") is None
    assert not (tmp_path / STAGING).exists()


@pytest.mark.parametrize("harm", ["shorten", "remove", "unseal", "garble"])
def test_a_damaged_one_is_passed_over_and_said(tmp_path: Path, harm: str) -> None:
    make(tmp_path, 1)
    bad = make(tmp_path, 2)
    inner = bad / "inner" / "optimizer.pt"
    if harm == "shorten":
        inner.write_text("mom")
    elif harm == "remove":
        inner.unlink()
    elif harm == "unseal":
        (bad / "checkpoint.json").unlink()
    else:
        (bad / "checkpoint.json").write_text('{"files": ')
    assert latest_checkpoint(tmp_path) == tmp_path / "checkpoint-1"
    with pytest.raises(TrainingError, match=r"The newest whole checkpoint is .*checkpoint-1"):
        checked(bad)


def test_a_checkpoint_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"there is no such folder. Start the run anew"):
        checked(tmp_path / "checkpoint-5")
    assert latest_checkpoint(tmp_path / "nothing") is None


def test_an_old_one_of_the_same_step_is_replaced(tmp_path: Path) -> None:
    make(tmp_path, 3, "old")
    folder = make(tmp_path, 3, "newer")
    assert (folder / "adapter_model.safetensors").read_text() == "newer"
    assert json.loads((folder / "checkpoint.json").read_text())["step"] == 3


def test_rotation_keeps_the_newest_and_the_protected(tmp_path: Path) -> None:
    for step in (1, 2, 3, 4):
        make(tmp_path, step)
    rotate(tmp_path, 2, protect=str(tmp_path / "checkpoint-1"))
    assert [folder.name for folder in list_checkpoints(tmp_path)] == [f"checkpoint-{n}" for n in (1, 3, 4)]
    rotate(tmp_path, None)
    assert len(list_checkpoints(tmp_path)) == 3
