"""Checkpoints that are whole or not there.

Room: training. A checkpoint is written into `.saving/`, flushed to disk, sealed with a list of its files
and their sizes, and only then renamed to `checkpoint-N`. A process killed at any moment leaves either the
old state or the new one; `latest_checkpoint` believes only folders whose seal fits.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

from neurolora.errors import TrainingError, explain

SEAL = "checkpoint.json"
STAGING = ".saving"
_NAME = re.compile(r"checkpoint-(\d+)")


def step_of(folder: Path) -> int:
    """The step in a checkpoint's name; -1 if it is not named like one."""
    match = _NAME.fullmatch(folder.name)
    return int(match[1]) if match else -1


def list_checkpoints(run_folder: Path) -> list[Path]:
    """Folders named like checkpoints, oldest first, whole or not."""
    if not run_folder.is_dir():
        return []
    found = [entry for entry in run_folder.iterdir() if entry.is_dir() and step_of(entry) >= 0]
    return sorted(found, key=step_of)


def damage(folder: Path) -> str | None:
    """What is wrong with a checkpoint; None if it is whole."""
    try:
        sealed = json.loads((folder / SEAL).read_text(encoding="utf-8"))
        sizes = {str(name): int(size) for name, size in sealed["files"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return f"it has no readable {SEAL}, so it was not written to the end"
    for name, size in sizes.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != size:
            return f"{name} has {path.stat().st_size} bytes instead of {size}"
    return None


def latest_checkpoint(run_folder: Path) -> Path | None:
    """The newest whole checkpoint; damaged ones are passed over."""
    whole = (folder for folder in reversed(list_checkpoints(run_folder)) if damage(folder) is None)
    return next(whole, None)


def checked(folder: Path) -> Path:
    """`folder`, if it is a whole checkpoint; else `TrainingError` that says why not and what there is."""
    asked = f"resuming from {folder}"
    other = latest_checkpoint(folder.parent)
    do = f"The newest whole checkpoint is {other}" if other else "Start the run anew"
    if not folder.is_dir():
        raise TrainingError(explain(asked, "there is no such folder", do))
    found = damage(folder)
    if found is not None:
        raise TrainingError(explain(asked, found, do))
    return folder


def clear_staging(run_folder: Path) -> None:
    """Remove what a killed process left half-written."""
    shutil.rmtree(run_folder / STAGING, ignore_errors=True)


def publish(staged: Path, run_folder: Path) -> Path:
    """Seal the staged checkpoint, flush it to disk and rename it into the run folder."""
    files = sorted(path for path in staged.rglob("*") if path.is_file())
    open_to_readers(files)
    sizes = {path.relative_to(staged).as_posix(): path.stat().st_size for path in files}
    seal = staged / SEAL
    seal.write_text(json.dumps({"files": sizes, "step": step_of(staged)}, indent=1) + "\n", encoding="utf-8")
    for path in (*files, seal, *(folder for folder in staged.rglob("*") if folder.is_dir()), staged):
        _flush(path)
    target = run_folder / staged.name
    replaced = run_folder / STAGING / f"replaced-{staged.name}"
    if target.exists():
        target.replace(replaced)
    staged.replace(target)
    _flush(run_folder)
    clear_staging(run_folder)
    return target


def open_to_readers(files: list[Path]) -> None:
    """Usual permissions: safetensors writes files that only their owner may read."""
    mask = os.umask(0)
    os.umask(mask)
    for path in files:
        path.chmod(0o666 & ~mask)


def why_not_written(error: BaseException) -> str:
    """The system's own reason where one is in the chain of errors; torch hides it behind its own check."""
    link: BaseException | None = error
    while link is not None:
        if isinstance(link, OSError) and link.strerror:
            return link.strerror
        link = link.__cause__ or link.__context__
    first = str(error).strip().split("\n")[0]
    hidden = "unexpected pos" in first or "PytorchStreamWriter" in first
    return "a file could not be written to its end; is the disk full?" if hidden else first


def rotate(run_folder: Path, keep: int | None, protect: str | None = None) -> None:
    """Remove all but the newest `keep` checkpoints, and the protected one."""
    if keep is None:
        return
    for folder in list_checkpoints(run_folder)[:-keep]:
        if protect is None or folder.name != Path(protect).name:
            (folder / SEAL).unlink(missing_ok=True)
            shutil.rmtree(folder, ignore_errors=True)


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
