"""Where a number came from: package versions, machine, code state, and fingerprints of files and data.

Room: the floor, above files. Anybody may call it. It reads package metadata, the files it is given and
the git state of the checkout it lies in; it opens no network connection and initialises no device
(`torch.cuda.is_available()` at most).
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from neurolora.errors import DataError, explain

PACKAGES = (
    "neurolora",
    "torch",
    "transformers",
    "peft",
    "accelerate",
    "safetensors",
    "tokenizers",
    "datasets",
    "lm-eval",
    "numpy",
    "numba",
    "triton",
)
_BLOCK = 1 << 20
_GIT_SECONDS = 10


def environment() -> dict[str, Any]:
    """Everything that a result file says about where it was made, as plain JSON values.

    Keys: `versions` (python and each of `PACKAGES`, None where absent), `platform`, `cpu_count` (usable by
    this process), `threads` (torch's), `device`, `git` (`{"commit", "dirty"}` of the checkout that contains
    this package, None elsewhere), `time` (UTC, ISO 8601).
    """
    return {
        "versions": package_versions(),
        "platform": platform.platform(),
        "cpu_count": _usable_cpus(),
        "threads": _torch_threads(),
        "device": _device(),
        "git": git_state(Path(__file__).resolve().parent),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def made_by(environments: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Where a result comes from whose parts were made in several `environment()`s, as plain JSON values.

    Keys: `commits` and `dirty` of all that tell, `devices`, `versions` (each with all that were found; a
    package that is nowhere is left out), `first` and `last` in time; of no environments all are empty.
    """
    gits = [environment.get("git") or {} for environment in environments]
    times = sorted(environment["time"] for environment in environments)
    versions = {
        name: sorted({str(made["versions"][name]) for made in environments if made["versions"].get(name)})
        for name in ("python", *PACKAGES)
    }
    return {
        "commits": sorted({git["commit"] for git in gits if "commit" in git}),
        "dirty": any(git.get("dirty") for git in gits),
        "devices": sorted({f"{made['device']}, {made['cpu_count']} cores" for made in environments}),
        "versions": {name: found for name, found in versions.items() if found},
        "first": times[0] if times else None,
        "last": times[-1] if times else None,
    }


@cache
def _version_of(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def package_versions() -> dict[str, str | None]:
    """The versions of Python and of each package in `PACKAGES`; None for one that is not installed."""
    return {"python": platform.python_version(), **{name: _version_of(name) for name in PACKAGES}}


def _usable_cpus() -> int:
    """The cores this process may run on, which in a container are fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _torch_threads() -> int:
    import torch

    return torch.get_num_threads()


def _device() -> str:
    """The kind of device that would be used; names no card, since asking for one initialises it."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def git_state(folder: Path, *, only_folder: bool = False) -> dict[str, Any] | None:
    """Commit and dirty flag of the checkout that tracks `folder`; None outside one or without git.

    only_folder: what is changed elsewhere in the checkout does not make it dirty.

    A package installed under somebody else's checkout (a virtual environment inside a project) is not that
    project's code: a folder that git does not track gives None.
    """
    if not _git(folder, "ls-files", "--", "."):
        return None
    commit = _git(folder, "rev-parse", "HEAD")
    if commit is None:
        return None
    where = ["--", "."] if only_folder else []
    return {"commit": commit, "dirty": bool(_git(folder, "status", "--porcelain", *where))}


def _git(folder: Path, *arguments: str) -> str | None:
    """Standard output of one git command, stripped; None if git is absent or refuses."""
    command = ["git", "--no-optional-locks", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_GIT_SECONDS, check=False)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def fingerprint_file(path: Path | str) -> str:
    """SHA-256 of a file's bytes, in hex, read in blocks. Raises `DataError` if it cannot be read."""
    digest = hashlib.sha256()
    try:
        with Path(path).open("rb") as handle:
            while block := handle.read(_BLOCK):
                digest.update(block)
    except OSError as error:
        reason = error.strerror or str(error)
        raise DataError(explain(f"fingerprint of {path}", reason, "Give a readable file")) from error
    return digest.hexdigest()


def fingerprint_json(value: Any) -> str:
    """SHA-256 of a JSON value in one canonical spelling (sorted keys, no spaces), in hex.

    Equal values have equal fingerprints whatever the order of their keys; tuples count as lists.
    """
    return hashlib.sha256(_canonical(value)).hexdigest()


def fingerprint_rows(rows: Iterable[Mapping[str, Any]]) -> str:
    """SHA-256 of a sequence of JSON rows, one after the other; the order of the rows counts."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(_canonical(row) + b"\n")
    return digest.hexdigest()


def _canonical(value: Any) -> bytes:
    plain = dict(value) if isinstance(value, Mapping) else value
    return json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
