"""The stream's file: read, checked, frozen.

Room: continual. `load_stream` is the door: what passes it is frozen, and every training config that a run
will need has been built once, so that a mistake shows before the first step.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from neurolora.continual.checks import find_problems, tell
from neurolora.continual.config import StreamConfig, label_of
from neurolora.errors import ConfigError, explain, itemised
from neurolora.yaml_lines import read_yaml


def load_stream(path: Path | str, overrides: Mapping[str, Any] | None = None) -> StreamConfig:
    """Read and check a stream's file; `overrides` replace its top-level keys.

    Raises ConfigError with all problems of the file, or the first of a training config that it leads to.
    """
    values, lines = read_yaml(path)
    values = {**values, **(overrides or {})}
    values = {**values, "tasks": _named(values.get("tasks")), "strategies": _rows(values.get("strategies"))}
    try:
        config = StreamConfig.model_validate(values)
    except ValidationError as error:
        raise ConfigError(_message(path, [tell(item, lines) for item in error.errors()])) from None
    problems = find_problems(config)
    if problems:
        raise ConfigError(_message(path, problems))
    _try_training(config, path)
    return config


def _try_training(config: StreamConfig, path: Path | str) -> None:
    """Build every kind of training config once. Raises ConfigError that tells which."""
    for entry, task in itertools.product(config.strategies, config.task_names):
        try:
            config.any_training(entry, task)
        except ConfigError as error:
            asked = f"{path}: training {label_of(config, entry)} on {task}"
            raise ConfigError(f"{asked}: {str(error).replace(' (flag)', '')}") from None


def _named(tasks: Any) -> Any:
    """A bare word is a task under its own name; other keys than name and metric are its data's."""
    if not isinstance(tasks, list):
        return tasks
    return [_task(task) if isinstance(task, str | dict) else task for task in tasks]


def _task(entry: str | dict[str, Any]) -> dict[str, Any]:
    values: dict[str, Any] = {"task": entry} if isinstance(entry, str) else dict(entry)
    name = values.pop("name", values.get("task", ""))
    metric = {"metric": values.pop("metric")} if "metric" in values else {}
    own = values.pop("data", {})
    return {"name": name, **metric, "data": {**own, **values} if isinstance(own, dict) else own}


def _rows(strategies: Any) -> Any:
    if not isinstance(strategies, list):
        return strategies
    return [{"strategy": entry} if isinstance(entry, str) else entry for entry in strategies]


def _message(path: Path | str, problems: list[str]) -> str:
    return explain(f"reading the stream {path}", itemised(problems), "Correct each of them")
