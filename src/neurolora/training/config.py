"""The whole training config: sections put together, read from YAML and flags, checked at once.

Room: training. `load_config` is the door: whatever passes it is frozen and valid, and every problem that
it finds is in one `ConfigError`, with the line of the file where there is one.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from neurolora.errors import ConfigError, itemised
from neurolora.files import write_text
from neurolora.training.adapter_section import AdapterSection, all_setting_names, setting_names
from neurolora.training.names import nearest
from neurolora.training.sections import (
    ALIASES,
    DataSection,
    EvalSection,
    ModelSection,
    OutputSection,
    TrainSection,
)
from neurolora.yaml_lines import read_yaml

SECTIONS: dict[str, type[BaseModel]] = {
    "model": ModelSection,
    "adapter": AdapterSection,
    "data": DataSection,
    "train": TrainSection,
    "eval": EvalSection,
    "output": OutputSection,
}


class TrainingConfig(BaseModel):
    """Everything that decides a run; frozen. Built by `load_config`, or directly from nested dicts."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    model: ModelSection
    adapter: AdapterSection = Field(default_factory=lambda: AdapterSection.model_validate({}))
    data: DataSection
    train: TrainSection = Field(default_factory=lambda: TrainSection.model_validate({}))
    eval: EvalSection = Field(default_factory=lambda: EvalSection.model_validate({}))
    output: OutputSection = Field(default_factory=lambda: OutputSection.model_validate({}))

    @model_validator(mode="before")
    @classmethod
    def _required_sections(cls, values: Any) -> Any:
        """So that a missing key is reported by its own name rather than as a missing section."""
        return {"model": {}, "data": {}, **values} if isinstance(values, dict) else values

    @property
    def output_dir(self) -> Path:
        """The run folder."""
        named = self.output.output_dir
        return Path(named) if named else Path("runs") / f"{self.data.task}-{self.adapter.method}"

    def build_adapter(self) -> Any | None:
        """The PEFT config of the adapter; None for full fine-tuning."""
        return self.adapter.build(self.train.seed)

    def resolved(self) -> dict[str, Any]:
        """Every setting with its value, as plain data."""
        values = self.model_dump(mode="json", exclude={"adapter"})
        values["adapter"] = self.adapter.resolved(self.train.seed)
        values["output"]["output_dir"] = str(self.output_dir)
        return {name: values[name] for name in SECTIONS}

    def save(self, path: Path) -> None:
        """Write the resolved config as YAML."""
        write_text(path, to_yaml(self.resolved()))


def to_yaml(value: dict[str, Any]) -> str:
    """Plain data as YAML in the given order."""
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True, default_flow_style=False)


def load_config(path: Path | str | None = None, overrides: Mapping[str, Any] | None = None) -> TrainingConfig:
    """Read a config file (if any), lay `overrides` over it, check all of it.

    A key of `overrides` is flat (`learning_rate`) or dotted (`train.learning_rate`), with hyphens or
    underscores, or a section with keys in it. Keys of the file stand in sections, or flat as TRL writes them.
    Raises `ConfigError` with all problems at once.
    """
    values, lines = read_yaml(path) if path is not None else ({}, {})
    problems: list[str] = []
    tree: dict[str, Any] = {}
    for key, value in _flatten(values, problems):
        _place(tree, key, value, _at(lines, key), problems)
    for key, value in _flatten(dict(overrides or {}), problems):
        _place(tree, key.replace("-", "_"), value, " (flag)", problems, replace=True)
    problems += _check(tree, lines)
    if problems:
        raise ConfigError(_message(path, problems))
    return TrainingConfig(**tree)


def known_keys(method: str | None = None) -> list[str]:
    """Every dotted key; the adapter's are those of `method`, or of all methods."""
    keys: list[str] = []
    for section, model in SECTIONS.items():
        names = list(model.model_fields)
        if section == "adapter":
            names += setting_names(method) if method else all_setting_names()
        keys += [f"{section}.{name}" for name in names]
    return keys


def full_key(key: str) -> str | None:
    """The dotted form of a flat, dotted or alias key; None if there is none."""
    section, _, name = key.rpartition(".")
    name = dict(ALIASES).get(name, name)
    candidates = [known for known in _keys() if known.rpartition(".")[2] == name]
    return next((known for known in candidates if section in ("", known.partition(".")[0])), None)


_known: list[str] = []


def _keys() -> list[str]:
    if not _known:
        _known.extend(known_keys())
    return _known


def _flatten(values: dict[str, Any], problems: list[str]) -> list[tuple[str, Any]]:
    """`{train: {seed: 1}, max_length: 9}` -> `[("train.seed", 1), ("max_length", 9)]`."""
    flat: list[tuple[str, Any]] = []
    for key, value in values.items():
        if key not in SECTIONS:
            flat.append((str(key), value))
        elif isinstance(value, dict):
            flat += [(f"{key}.{name}", item) for name, item in value.items()]
        elif value is not None:
            problems.append(f"{key}: a section of `name: value` lines is needed, found {value!r}")
    return flat


def _place(
    tree: dict[str, Any], key: str, value: Any, where: str, problems: list[str], *, replace: bool = False
) -> None:
    """Put `value` into its section, or say that the key is unknown or given twice."""
    full = full_key(key)
    if full is None and key.startswith("adapter."):
        full = key  # the section knows its method, and says which names that method has
    if full is None:
        problems.append(f"{key}{where}: unknown key{nearest(key, _keys())}")
        return
    section, _, name = full.partition(".")
    if name in tree.setdefault(section, {}) and not replace:
        problems.append(f"{key}{where}: {full} is given twice; keep one")
        return
    tree[section][name] = value


def _at(lines: dict[str, int], key: str) -> str:
    return f" (line {lines[key]})" if key in lines else ""


def _check(tree: dict[str, Any], lines: dict[str, int]) -> list[str]:
    try:
        TrainingConfig(**tree)
    except ValidationError as error:
        return [problem for item in error.errors() for problem in _problems(item, lines)]
    return []


def _problems(item: Any, lines: dict[str, int]) -> list[str]:
    """One of pydantic's problems in our words, with the line of the file."""
    location = [str(part) for part in item["loc"]]
    if item["type"] == "adapter_settings":
        named = item["ctx"]["problems"].items()
        return [_say(f"adapter.{name}" if name else "adapter", text, lines) for name, text in named]
    key = ".".join(location[:2])
    full = full_key(key) or key
    if item["type"] == "missing":
        field = SECTIONS[location[0]].model_fields[location[1]]
        return [_say(full, f"needed, but not given ({field.description})", lines)]
    found = "" if len(location) == 1 or isinstance(item["input"], dict) else f", found {item['input']!r}"
    return [_say(full, item["msg"].removeprefix("Value error, ") + found, lines)]


def _say(full: str, text: str, lines: dict[str, int]) -> str:
    where = _at(lines, full) or _at(lines, full.rpartition(".")[2])
    return f"{full}{where}: {text}"


def _message(path: Path | str | None, problems: list[str]) -> str:
    asked = f"reading the training config {path}" if path is not None else "reading the training config"
    do = "Correct the file or the flags; `neurolora train --keys` lists all keys."
    return f"{asked}: {itemised(problems)}\n{do}"
