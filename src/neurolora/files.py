"""Writing files so that a reader never sees half of one.

Room: the floor, above errors. Anybody may call it. It touches only the paths it is given, and names of
its own beside them that start with a dot.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from neurolora.errors import OutputError, explain

#: Ends of the names beside a folder that is written: the new one, and the old one that stepped aside for it.
NEW, OLD = ".part", ".replaced"


@contextlib.contextmanager
def atomic_path(target: Path | str) -> Iterator[Path]:
    """Give a temporary path beside `target`; on success flush it to disk and rename it over `target`.

    Whatever fails inside the block, `target` stays as it was and the temporary file is removed.
    Raises `OutputError` if the folder cannot be written or the disk is full.
    """
    target = Path(target)
    temporary: Path | None = None
    try:
        with _as_output_error(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".part")
            temporary = Path(name)
            os.close(handle)
            yield temporary
            _flush_to_disk(temporary)
            temporary.chmod(0o666 & ~_umask())
            temporary.replace(target)
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def _as_output_error(target: Path) -> Iterator[None]:
    """What the system says against writing `target`, as `OutputError`."""
    try:
        yield
    except OSError as error:
        if isinstance(error, OutputError):
            raise
        reason = error.strerror or str(error)
        raise OutputError(
            explain(f"writing {target}", reason, "Free some space or choose another folder")
        ) from error


@contextlib.contextmanager
def atomic_folder(target: Path | str, *, overwrite: bool = False) -> Iterator[Path]:
    """Give a temporary folder beside `target`; on success flush its files to disk and rename it to `target`.

    Whatever fails inside the block, `target` stays as it was and the temporary folder is removed (a killed
    process leaves it, as `.NAME.<letters>.part`). With `overwrite` a folder that is there steps aside first,
    as `.NAME.<letters>.replaced`, and is removed last: at every moment one of the two names holds a whole
    folder, and whoever writes `target` next puts things right (`restore_folder`). A link is followed. Raises
    `OutputError` if the folder cannot be written, or if something is in it and `overwrite` is off, before
    the block is entered.
    """
    target = _followed(Path(target))
    temporary: Path | None = None
    try:
        with _as_output_error(target):
            restore_folder(target)
            refuse_full_folder(target, overwrite=overwrite)
            target.parent.mkdir(parents=True, exist_ok=True)
            temporary = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.", suffix=NEW))
            yield temporary
            for path in temporary.rglob("*"):
                if path.is_file():
                    _flush_to_disk(path)
            temporary.chmod(0o777 & ~_umask())
            _put_in_place(temporary, target, overwrite)
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def refuse_full_folder(target: Path | str, *, overwrite: bool = False) -> None:
    """Raises `OutputError` if `target` is no folder, or one with something in it that may not be replaced."""
    target = Path(target)
    if target.exists() and not target.is_dir():
        raise OutputError(explain(f"writing {target}", "it is a file", "Give the name of a folder"))
    if not overwrite and _is_full(target):
        found = "the folder is there already and not empty"
        raise OutputError(explain(f"writing {target}", found, "Give another name, or ask to overwrite it"))


def restore_folder(target: Path | str) -> None:
    """Put right what a process left that was killed while it replaced the folder `target`.

    If nothing is there, the old folder comes back and the new one, which had not got its place, goes; if the
    new one is there, the old one goes. Otherwise nothing happens. Raises `OutputError`.
    """
    target = _followed(Path(target))
    if target.exists() and not target.is_dir():
        return  # somebody's file: not ours to judge
    with _as_output_error(target):
        for aside in _stepped_aside(target):
            shutil.rmtree(aside.with_suffix(NEW), ignore_errors=True)
            if _is_full(target):
                _remove_aside(aside)
            else:
                aside.replace(target)


def clear_unfinished(folder: Path | str) -> None:
    """Remove what killed processes left anywhere in `folder`: new files and folders that got no name.

    Only for a folder in which nobody writes. What stepped aside for a new folder is not touched: it may be
    the only whole one (`restore_folder`).
    """
    for path in sorted(Path(folder).rglob(f".*{NEW}")):
        if path.with_suffix(OLD).exists():
            continue
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


def _put_in_place(temporary: Path, target: Path, overwrite: bool) -> None:
    """Rename, with what was there out of the way; if the rename fails, it is brought back."""
    refuse_full_folder(target, overwrite=overwrite)  # somebody may have come first
    if not _is_full(target):
        temporary.replace(target)
        return
    aside = temporary.with_suffix(OLD)
    target.replace(aside)
    try:
        temporary.replace(target)
    except BaseException:  # an interrupt too: what is removed next is the new folder
        aside.replace(target)
        raise
    with contextlib.suppress(OSError):  # the new folder is in place; the next writer tries again
        _remove_aside(aside)


def _remove_aside(aside: Path) -> None:
    """Remove an old folder. It loses its name first: half of one must never be taken for a whole one."""
    trash = aside.with_suffix(NEW)
    aside.replace(trash)
    shutil.rmtree(trash, ignore_errors=True)


def _stepped_aside(target: Path) -> list[Path]:
    """What was in the way of `target`, the newest first; a folder `NAME.x` beside it has other names."""
    if not target.parent.is_dir():
        return []
    ours = re.compile(rf"\.{re.escape(target.name)}\.[a-z0-9_]+{re.escape(OLD)}")
    found = [path for path in target.parent.iterdir() if ours.fullmatch(path.name)]
    return sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)


def _followed(target: Path) -> Path:
    """Where a link leads; renaming would put a folder in the link's own place."""
    return target.resolve() if target.is_symlink() else target


def _is_full(folder: Path) -> bool:
    return folder.is_dir() and any(folder.iterdir())


def _flush_to_disk(path: Path) -> None:
    with path.open("rb") as handle:
        os.fsync(handle.fileno())


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_text(target: Path | str, text: str) -> None:
    """Write `text` as UTF-8, whole or not at all."""
    with atomic_path(target) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(target: Path | str, value: Any) -> None:
    """Write `value` as indented JSON with sorted keys, whole or not at all."""
    write_text(target, json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n")
