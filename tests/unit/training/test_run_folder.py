"""Who may write into a run folder, and what a resume insists on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from neurolora.errors import AdapterError, ConfigError, OutputError, TrainingError
from neurolora.training.checkpoints import STAGING, publish
from neurolora.training.config import TrainingConfig, load_config
from neurolora.training.metrics import METRICS
from neurolora.training.run_folder import (
    CONFIG,
    FINISHED,
    check_tensors,
    is_finished,
    open_run_folder,
    publish_final,
    refuse_if_used,
)


def config(folder: Path, **changes: Any) -> TrainingConfig:
    needed = {"model_name_or_path": "world", "task": "world-recall", "output_dir": str(folder)}
    return load_config(None, {**needed, **changes})


def start(folder: Path, step: int | None = None, **changes: Any) -> None:
    """What a run leaves that was killed after `step`."""
    folder.mkdir(exist_ok=True)
    config(folder, **changes).save(folder / CONFIG)
    if step is not None:
        staged = folder / STAGING / f"checkpoint-{step}"
        staged.mkdir(parents=True)
        (staged / "trainer_state.json").write_text("{}")
        publish(staged, folder)


def test_a_new_or_empty_folder_is_fine(tmp_path: Path) -> None:
    assert open_run_folder(config(tmp_path / "a" / "b"), None, overwrite=False) is None
    assert (tmp_path / "a" / "b").is_dir()


def test_a_run_that_never_began_to_train_is_no_hindrance(tmp_path: Path) -> None:
    (tmp_path / CONFIG).write_text("{}")
    (tmp_path / "env.json").write_text("{}")
    refuse_if_used(tmp_path)


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ([FINISHED, CONFIG], "a finished run is there"),
        ([CONFIG, METRICS], "an unfinished run is there"),
        (["holiday.jpg"], "it holds files that are no run's"),
    ],
)
def test_what_is_there_is_not_covered(tmp_path: Path, files: list[str], words: str) -> None:
    for name in files:
        (tmp_path / name).write_text("{}")
    with pytest.raises(OutputError, match=words):
        refuse_if_used(tmp_path)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == sorted(files)


def test_overwrite_removes_a_run_and_nothing_else(tmp_path: Path) -> None:
    start(tmp_path, step=4)
    (tmp_path / FINISHED).write_text("{}")
    (tmp_path / "eval").mkdir()
    (tmp_path / "eval" / "after.json").write_text("{}")
    (tmp_path / "tokenizer.json").write_text("{}")
    open_run_folder(config(tmp_path), None, overwrite=True)
    assert list(tmp_path.iterdir()) == []


def test_overwrite_does_not_remove_what_is_no_run(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("mine")
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(OutputError, match="files that are no run's"):
        open_run_folder(config(tmp_path), None, overwrite=True)
    assert (tmp_path / "README.md").read_text() == "mine"


def test_resume_finds_the_newest_whole_checkpoint_or_the_start(tmp_path: Path) -> None:
    assert open_run_folder(config(tmp_path / "new"), "auto", overwrite=False) is None
    start(tmp_path, step=2)
    start(tmp_path, step=4)
    (tmp_path / "checkpoint-4" / "trainer_state.json").write_text("{")
    assert open_run_folder(config(tmp_path), "auto", overwrite=False) == tmp_path / "checkpoint-2"
    with pytest.raises(TrainingError, match=r"trainer_state.json has 1 bytes instead of 2"):
        open_run_folder(config(tmp_path), str(tmp_path / "checkpoint-4"), overwrite=False)


def test_resume_clears_what_was_half_written(tmp_path: Path) -> None:
    start(tmp_path, step=2)
    (tmp_path / STAGING / "checkpoint-3").mkdir(parents=True)
    (tmp_path / ".final").mkdir()
    open_run_folder(config(tmp_path), "auto", overwrite=False)
    assert {entry.name for entry in tmp_path.iterdir()} == {CONFIG, "checkpoint-2"}


def test_a_resume_with_other_settings_names_all_of_them(tmp_path: Path) -> None:
    start(tmp_path, step=2, seed=1)
    with pytest.raises(ConfigError) as caught:
        open_run_folder(config(tmp_path, seed=2, r=16, learning_rate=1e-3), "auto", overwrite=False)
    for words in (
        "train.seed was 1, is 2",
        "adapter.r was 32, is 16",
        "train.learning_rate was 0.0002, is 0.001",
    ):
        assert words in str(caught.value)


def test_a_resume_may_change_what_no_weight_depends_on(tmp_path: Path) -> None:
    start(tmp_path, step=2)
    other = config(
        tmp_path, save_steps=7, per_device_eval_batch_size=3, tasks="world-sums", save_total_limit=9
    )
    assert open_run_folder(other, "auto", overwrite=False) == tmp_path / "checkpoint-2"


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"Not a directory. Choose an --output_dir"):
        open_run_folder(config(tmp_path / "file" / "run"), None, overwrite=False)


def test_finished_is_said_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    staged = tmp_path / ".final"
    staged.mkdir()
    save_file({"a": torch.ones(2)}, staged / "adapter_model.safetensors")
    publish_final(staged, tmp_path, {"status": "finished"})
    assert is_finished(tmp_path)
    assert (tmp_path / "adapter_model.safetensors").stat().st_mode & 0o777 == 0o666 & ~current_umask()


def current_umask() -> int:
    import os

    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_empty_tensors_are_not_published(tmp_path: Path) -> None:
    """What DeepSpeed ZeRO-3 saves when nobody gathered the weights."""
    save_file({"full": torch.ones(2), "empty": torch.ones(0, 4)}, tmp_path / "adapter_model.safetensors")
    with pytest.raises(AdapterError, match="1 tensors of size zero, the first is empty"):
        check_tensors(tmp_path / "adapter_model.safetensors")
