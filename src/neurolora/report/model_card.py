"""The model card: `README.md` of an adapter folder, in the layout that the Hub reads.

Room: report. The command `train` calls `write_model_card` when a run is done.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from neurolora.files import write_text
from neurolora.markdown import markdown_templates
from neurolora.report.inspection import AdapterFacts, inspect_adapter
from neurolora.report.page import ABSENT, TEMPLATES, flatten, spell
from neurolora.report.run_folder import RunFolder, read_run
from neurolora.report.training import describe_adapter, fingerprint_rows, parameter_rows, result_table
from neurolora.world import MODEL_IN_WORDS, is_bundled_model

CARD = "README.md"


def write_model_card(run_folder: Path | str) -> Path:
    """Write the card of a run's adapter into its folder. Raises AdapterError, OutputError."""
    target = Path(run_folder) / CARD
    write_text(target, model_card(run_folder))
    return target


def model_card(run_folder: Path | str) -> str:
    """The card's text, from the adapter's files and what the run left beside them.

    The license is left to the person who publishes. Raises AdapterError if the folder holds no whole adapter.
    """
    run = read_run(run_folder)
    adapter = inspect_adapter(run.path)
    values = {
        "front": front_matter(run, adapter),
        "name": run.path.resolve().name,
        "method": adapter.method,
        "routed": adapter.config["peft_type"] == "NEUROLORA",
        "base": public_base(adapter),
        "bundled": is_bundled_model(adapter.base_model),
        "data": _data(run),
        "adapter": describe_adapter(adapter.config),
        "counts": parameter_rows(adapter),
        "results": result_table(run.evaluations),
        "prompt": _templates(run.task),
        "training": [row for row in flatten((run.config or {}).get("train") or {}) if row[1] != ABSENT],
        "fingerprints": fingerprint_rows(adapter),
        "versions": _versions(run),
    }
    text: str = markdown_templates(TEMPLATES).get_template("model_card.md.j2").render(**values)
    return text


def front_matter(run: RunFolder, adapter: AdapterFacts) -> str:
    """The YAML block on top, without its `---` lines."""
    tags = ["neurolora", "peft"]
    if adapter.method == "FlyLoRA":
        tags.insert(0, "flylora")
    values: dict[str, Any] = {"library_name": "peft", "tags": tags}
    base = public_base(adapter)
    if base and base == adapter.base_model:
        values["base_model"] = base
    if datasets := _hub_datasets(run):
        values["datasets"] = datasets
    return yaml.safe_dump(values, sort_keys=True, allow_unicode=True).rstrip()


def public_base(adapter: AdapterFacts) -> str | None:
    """The base's name as others can use it: of a path on this machine only the last part."""
    base = adapter.base_model
    if is_bundled_model(base):
        return MODEL_IN_WORDS
    return Path(base).name if base and Path(base).is_absolute() else base


def _hub_datasets(run: RunFolder) -> list[str]:
    """The data set's name if it is one of the Hub's, `owner/name` or `name`; a path on a disk is none."""
    name = ((run.config or {}).get("data") or {}).get("dataset_name")
    if not isinstance(name, str) or not re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", name):
        return []
    return [] if Path(name).exists() or Path(name).suffix else [name]


def _data(run: RunFolder) -> list[tuple[str, str]]:
    section = (run.config or {}).get("data") or {}
    names = ("task", "dataset_name", "dataset_config", "max_length", "overlong", "max_train_samples")
    return [(name, spell(section[name])) for name in names if section.get(name) is not None]


def _templates(task: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    """The prompt's parts as they were saved with the adapter."""
    template = (task or {}).get("template")
    if not isinstance(template, Mapping):
        return []
    return [(str(name), text) for name, text in template.items() if isinstance(text, str)]


def _versions(run: RunFolder) -> list[tuple[str, str]]:
    versions = (run.environment or {}).get("versions")
    if not isinstance(versions, Mapping):
        return []
    return flatten({name: version for name, version in versions.items() if name not in ("neurolora", "peft")})
