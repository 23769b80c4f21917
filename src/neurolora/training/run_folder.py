"""The run folder: who may start in it, what belongs to it, and the marks that say how far a run came.

Room: training; used by `run`. Touches only the run folder.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import yaml

from neurolora.adapter_file import is_without_ranks
from neurolora.errors import AdapterError, ConfigError, OutputError, explain
from neurolora.files import write_json
from neurolora.training.checkpoints import (
    STAGING,
    checked,
    clear_staging,
    latest_checkpoint,
    list_checkpoints,
    open_to_readers,
)
from neurolora.training.config import TrainingConfig
from neurolora.training.metrics import METRICS

CONFIG = "config.yaml"
FINISHED = "run.json"
FINAL = ".final"
#: What a run said that became NaN or infinite, for whoever launched it; gone when it is begun again.
DIVERGED = "diverged.json"
#: What `--overwrite` removes, beside checkpoints; anything else in the folder is left alone.
OURS = (
    DIVERGED,
    CONFIG,
    FINISHED,
    METRICS,
    "env.json",
    "data.json",
    "neurolora_task.json",
    "routing.json",
    "adapter_config.json",
    "adapter_model.safetensors",
    "model.safetensors",
    "config.json",
    "generation_config.json",
    "README.md",
    "report.html",
    "eval",
    STAGING,
    FINAL,
)
#: Settings that may change between a run and its resume, because no weight depends on them.
MAY_CHANGE = frozenset(
    {"use_cpu", "dataloader_num_workers", "dataloader_pin_memory", "per_device_eval_batch_size"}
)


def open_run_folder(config: TrainingConfig, resume: str | None, overwrite: bool) -> Path | None:
    """Check that this run may use its folder, and give the checkpoint to go on from (None: from the start).

    `resume` is None, `"auto"` (the newest whole checkpoint, or the start if there is none) or a checkpoint.
    Raises `OutputError` for a folder that cannot be written or holds something else, `ConfigError` for a
    resume with other settings, `TrainingError` for a checkpoint that is not whole.
    """
    folder = config.output_dir
    _check_writable(folder)
    if resume is not None:
        return _resume(config, folder, resume)
    if overwrite:
        _remove_run(folder)
    refuse_if_used(folder)
    return None


def refuse_if_used(folder: Path) -> None:
    """Raise `OutputError` if something is in the folder that a new run would cover.

    A run that ended before it measured anything (a wrong setting, an interrupt while loading) covers nothing.
    """
    asked = f"starting a run in {folder}"
    if is_finished(folder):
        do = "Choose another --output_dir, or replace it with --overwrite"
        raise OutputError(explain(asked, "a finished run is there", do))
    if (folder / METRICS).exists() or list_checkpoints(folder):
        do = "Go on with it by --resume, or replace it with --overwrite"
        raise OutputError(explain(asked, "an unfinished run is there", do))
    if folder.is_dir() and any(entry.name not in OURS for entry in folder.iterdir()):
        raise OutputError(explain(asked, "it holds files that are no run's", "Choose another --output_dir"))


def is_finished(folder: Path) -> bool:
    """Whether a run in this folder came to its end."""
    return (folder / FINISHED).is_file()


def read_finished(folder: Path) -> dict[str, Any]:
    """The summary of a finished run."""
    values: dict[str, Any] = json.loads((folder / FINISHED).read_text(encoding="utf-8"))
    return values


def _resume(config: TrainingConfig, folder: Path, resume: str) -> Path | None:
    clear_staging(folder)
    shutil.rmtree(folder / FINAL, ignore_errors=True)
    _check_same_settings(config, folder)
    return latest_checkpoint(folder) if resume == "auto" else checked(Path(resume))


def _check_same_settings(config: TrainingConfig, folder: Path) -> None:
    """A resumed run is the same run: settings that the weights depend on must be those it began with."""
    if not (folder / CONFIG).is_file():
        return
    before = yaml.safe_load((folder / CONFIG).read_text(encoding="utf-8"))
    now = config.resolved()
    changed = [
        f"{section}.{name} was {before[section].get(name)!r}, is {value!r}"
        for section in ("model", "adapter", "data", "train")
        for name, value in now[section].items()
        if name not in MAY_CHANGE and before.get(section, {}).get(name) != value
    ]
    if changed:
        do = f"Give the settings of {folder / CONFIG}, or start a new run in another --output_dir"
        raise ConfigError(explain(f"resuming the run in {folder}", "; ".join(changed), do))


def _check_writable(folder: Path) -> None:
    probe = folder / ".probe"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        do = "Choose an --output_dir that can be written"
        raise OutputError(
            explain(f"opening the run folder {folder}", error.strerror or str(error), do)
        ) from None


def _remove_run(folder: Path) -> None:
    """Remove a former run's files. The mark that it was finished goes first, so no half of it looks whole."""
    if not is_finished(folder) and not (folder / CONFIG).exists() and not list_checkpoints(folder):
        return
    (folder / FINISHED).unlink(missing_ok=True)
    for path in (*(folder / name for name in OURS), *list_checkpoints(folder)):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    for path in folder.glob("tokenizer*"):
        path.unlink()


def publish_final(staged: Path, folder: Path, summary: dict[str, Any]) -> None:
    """Move the finished files into place, each by one rename, and then write the mark that all are there."""
    for path in sorted(staged.rglob("*.safetensors")):
        check_tensors(path)
    open_to_readers([path for path in staged.rglob("*") if path.is_file()])
    for path in sorted(staged.iterdir()):
        target = folder / path.name
        if target.is_dir():
            shutil.rmtree(target)
        path.replace(target)
    shutil.rmtree(staged, ignore_errors=True)
    write_json(folder / FINISHED, summary)


def check_tensors(path: Path) -> None:
    """Raise `AdapterError` if a tensor in the file is empty, as sharded training saves those not gathered.

    A module from which AdaLoRA took all ranks has empty tensors by right.
    """
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
    empty = [name for name, shape in shapes.items() if 0 in shape and not is_without_ranks(name, shape)]
    if empty:
        found = f"{len(empty)} tensors of size zero, the first is {empty[0]}"
        do = "With DeepSpeed ZeRO-3 set stage3_gather_16bit_weights_on_model_save"
        raise AdapterError(explain(f"saving {path.name}", found, do))
