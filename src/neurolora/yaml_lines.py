"""YAML with line numbers, for messages that point at the place.

Room: the floor, above errors. Anybody may call it; it reads the one file that it is given.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from neurolora.errors import ConfigError, explain


def read_yaml(path: Path | str) -> tuple[dict[str, Any], dict[str, int]]:
    """The mapping in a YAML file, and the line of each key, counted from 1.

    Keys are dotted, with the place in a list as a number: `seed`, `train.seed`, `models.0.parameters.weight`.

    Raises `ConfigError` with file and line for a file that is missing, no UTF-8, no YAML, no mapping, or
    has a key twice.
    """
    asked = f"reading the config {path}"
    text = _text(Path(path), asked)
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        values = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        raise ConfigError(_syntax(path, error)) from None
    except yaml.YAMLError as error:
        raise ConfigError(explain(asked, str(error), "Save it as plain UTF-8 text in YAML")) from None
    if values is None:
        return {}, {}
    if not isinstance(node, yaml.MappingNode) or not isinstance(values, dict):
        found = f"line 1 starts a {type(values).__name__}, not `name: value` lines"
        raise ConfigError(
            explain(asked, found, "Write lines such as `seed: 1`, or sections with keys under them")
        )
    lines: dict[str, int] = {}
    _collect(node, "", lines, asked)
    return values, lines


def _text(path: Path, asked: str) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        found = f"byte {error.start} is not UTF-8"
        raise ConfigError(explain(asked, found, "Save the file as UTF-8")) from None
    except OSError as error:
        found = error.strerror or str(error)
        raise ConfigError(explain(asked, found, "Give the path of a YAML file")) from None


def _syntax(path: Path | str, error: yaml.MarkedYAMLError) -> str:
    mark = error.problem_mark or error.context_mark
    place = f"{path}, line {mark.line + 1}, column {mark.column + 1}" if mark else str(path)
    return explain(f"reading the config {place}", error.problem or "no valid YAML", "Correct this line")


def _collect(node: yaml.MappingNode, prefix: str, lines: dict[str, int], asked: str) -> None:
    for key, value in node.value:
        name = f"{prefix}{key.value}"
        line = key.start_mark.line + 1
        if name in lines:
            found = f"{name} stands on line {lines[name]} and again on line {line}"
            raise ConfigError(explain(asked, found, "Keep one of them"))
        lines[name] = line
        _collect_below(value, name, lines, asked)


def _collect_below(value: yaml.Node, name: str, lines: dict[str, int], asked: str) -> None:
    if isinstance(value, yaml.MappingNode):
        _collect(value, f"{name}.", lines, asked)
    elif isinstance(value, yaml.SequenceNode):
        for index, item in enumerate(value.value):
            lines[f"{name}.{index}"] = item.start_mark.line + 1
            _collect_below(item, f"{name}.{index}", lines, asked)
