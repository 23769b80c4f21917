"""What a run depends on beside its settings, as fingerprints: the rows of its data, the files of its model.

Room: training; called by those who keep work and must know whether it is still the same work.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from neurolora.provenance import fingerprint_file, fingerprint_json, fingerprint_rows
from neurolora.tasks import TaskRequest, load_rows
from neurolora.world import resolve_model_name


def data_fingerprint(request: TaskRequest, split: str) -> str:
    """Of the rows of a split as they are read, wherever they lie. Raises DataError."""
    return fingerprint_rows(load_rows(request, split))


def model_fingerprint(section: Mapping[str, Any]) -> str:
    """Of the files of the model that a config's `model` section names; one on the hub counts by its name and
    `model_revision`, so that nothing is fetched."""
    name = section["model_name_or_path"]
    folder = Path(resolve_model_name(name))
    if not folder.is_dir():
        return f"{name}@{section.get('model_revision')}"
    files = sorted(path for path in folder.iterdir() if path.is_file())
    return fingerprint_json({path.name: fingerprint_file(path) for path in files})
