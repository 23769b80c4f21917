"""What a name or folder holds: an adapter, a model or neither; and what an adapter's folder says of itself.

Room: evaluation. `loading.py` calls it. It reads the folder it is given, or fetches an adapter's folder from
the hub; it loads no weights.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from neurolora.errors import AdapterError, explain
from neurolora.provenance import fingerprint_file

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
_HEAD = re.compile(r"(?:^|\.)(?:classifier|score)(?:\.out_proj)?\.weight$")


class Source(NamedTuple):
    """A folder or hub name, and whether it is an adapter."""

    name: str
    is_adapter: bool


@dataclass(frozen=True)
class AdapterFolder:
    """An adapter as its files describe it. `labels` is the width of a classifier's saved head, if any."""

    path: Path
    config: dict[str, Any]
    base: str
    revision: str | None
    labels: int | None

    @property
    def task_type(self) -> str | None:
        """PEFT's task type, such as `CAUSAL_LM`."""
        return self.config.get("task_type")


def find_source(name: str) -> Source:
    """Say what `name` is. Raises `AdapterError` for a folder that holds neither an adapter nor a model."""
    path = Path(name).expanduser()
    if path.is_dir():
        if (path / CONFIG).is_file():
            return Source(str(path), True)
        if (path / "config.json").is_file():
            return Source(str(path), False)
        raise AdapterError(_explain_stranger(path))
    if path.exists():
        raise AdapterError(explain(f"loading {name}", "it is a file", f"Give the folder that holds {CONFIG}"))
    if path.is_absolute() or name.startswith((".", "~")) or len(path.parts) > 2:
        nearest = next((parent for parent in path.parents if parent.exists()), Path())
        do = f"Check the path; {nearest} is the last part of it that exists"
        raise AdapterError(explain(f"loading {name}", "no such folder", do))
    return _find_on_hub(name) if len(path.parts) == 2 else Source(name, False)


def _explain_stranger(path: Path) -> str:
    checkpoints = sorted(path.glob(f"*/{CONFIG}"))
    if checkpoints:
        inside = ", ".join(found.parent.name for found in checkpoints[:4])
        return explain(f"loading {path}", f"it is no adapter, but holds some: {inside}", "Give one of those")
    names = sorted(entry.name for entry in path.iterdir())[:6]
    found = f"it holds neither {CONFIG} nor config.json, but {', '.join(names) or 'nothing'}"
    return explain(f"loading {path}", found, "Give the folder of an adapter or of a model")


def _find_on_hub(name: str) -> Source:
    """A hub name: an adapter's files are fetched whole, a model is left to transformers."""
    from huggingface_hub import hf_hub_download, snapshot_download, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError

    try:
        hf_hub_download(name, CONFIG)
    except (OSError, ValueError, EntryNotFoundError) as error:
        # The hub has the name but no such file there, or cannot be asked about a model that is here already.
        there = isinstance(error, EntryNotFoundError) and not isinstance(error, FileNotFoundError)
        if there or isinstance(try_to_load_from_cache(name, "config.json"), str):
            return Source(name, False)
        found = f"there is no such folder here, and the hub gave: {reason_of(error)}"
        raise AdapterError(explain(f"loading {name}", found, "Check the name and the connection")) from error
    patterns = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]
    return Source(snapshot_download(name, allow_patterns=patterns), True)


def open_adapter(path: Path, base_model: str | None) -> AdapterFolder:
    """Read an adapter's config. Raises `AdapterError` for what is damaged, unknown or missing."""
    config = _read_config(path)
    _check_method(path, config)
    if not (path / WEIGHTS).is_file():
        old = path / "adapter_model.bin"
        found = f"it has no {WEIGHTS}" + (
            f", only {old.name}, a pickle, which is not loaded" if old.exists() else ""
        )
        raise AdapterError(explain(f"loading {path}", found, "Save the adapter with safetensors"))
    base = base_model or config.get("base_model_name_or_path")
    if not base:
        do = "Give it with --base-model PATH_OR_NAME"
        raise AdapterError(explain(f"loading {path}", f"its {CONFIG} names no base model", do))
    revision = config.get("revision") if base_model is None else None
    return AdapterFolder(path, config, str(base), revision, _head_width(path / WEIGHTS))


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads((path / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        do = "Restore the file, or save the adapter again"
        raise AdapterError(explain(f"reading {path / CONFIG}", reason_of(error), do)) from error
    if not isinstance(config, dict):
        do = "Restore the file, or save the adapter again"
        raise AdapterError(explain(f"reading {path / CONFIG}", "it holds no object", do))
    return config


def _check_method(path: Path, config: dict[str, Any]) -> None:
    from peft import PeftType

    method = config.get("peft_type")
    if method not in PeftType.__members__:
        found = f"its method (peft_type) is {method!r}, which this PEFT does not know"
        do = "Import the package that registers the method, or upgrade peft"
        raise AdapterError(explain(f"loading {path}", found, do))


def _head_width(weights: Path) -> int | None:
    """Rows of the classification head saved with the adapter; None if there is none."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(weights), framework="pt") as file:
            heads = [name for name in file.keys() if _HEAD.search(name)]  # noqa: SIM118  (no mapping)
            return int(file.get_slice(heads[-1]).get_shape()[0]) if heads else None
    except (SafetensorError, OSError) as error:
        do = "The file is damaged or cut short: copy or save the adapter again"
        raise AdapterError(explain(f"reading {weights}", reason_of(error), do)) from error


def describe_adapter(adapter: AdapterFolder) -> dict[str, Any]:
    """Which adapter on which base, for a result file: names and fingerprints, plain JSON values."""
    saved = adapter.config.get("base_fingerprint") or {}
    return {
        "path": str(adapter.path),
        "method": adapter.config.get("peft_type"),
        "base": adapter.base,
        "base_fingerprint": saved.get("digest"),
        "projection_fingerprint": adapter.config.get("projection_fingerprint"),
        "weights_sha256": fingerprint_file(adapter.path / WEIGHTS),
        "config_sha256": fingerprint_file(adapter.path / CONFIG),
    }


def reason_of(error: BaseException) -> str:
    """The first line of an error's message, without quotes that some errors add."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[0].strip() if lines else type(error).__name__
