"""Flags of the command line as overrides of the config: any key, flat or dotted, hyphens or underscores.

Room: training; the command line hands over the words that it does not know itself.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Sequence
from typing import Any

import yaml

from neurolora.errors import ConfigError, explain
from neurolora.training.adapter_section import METHODS, config_class
from neurolora.training.config import SECTIONS, full_key

TRUTHS = frozenset({"true", "false", "yes", "no", "on", "off", "1", "0"})
PATTERN_LETTERS = frozenset("()|*+?[]{}^$\\")


def parse_flags(words: Sequence[str]) -> tuple[str | None, dict[str, Any]]:
    """The config file, if one is named, and the overrides.

    `--key value`, `--key=value`; a switch may stand alone (`--bf16`) or be negated (`--no-bf16`); a list is
    `a,b`, `[a, b]` or `a b`. Unknown keys are handed on: `load_config` reports them with all other problems.
    Raises `ConfigError` for a flag without its value and for a second file.
    """
    rest = list(words)
    files: list[str] = []
    overrides: dict[str, Any] = {}
    while rest:
        word = rest.pop(0)
        if not word.startswith("--") or word == "--":
            files.append(word)
            continue
        key, equals, text = word[2:].partition("=")
        key = key.replace("-", "_")
        if full_key(key) is None and key.startswith("no_") and _kinds(key[3:]) & {bool} and not equals:
            overrides[key[3:]] = False
            continue
        overrides[key] = _value(key, [text]) if equals else _value(key, _take(key, rest))
    if len(files) > 1:
        found = f"{files[0]} and then {files[1]}"
        raise ConfigError(
            explain("neurolora train takes one config file", found, "Write each setting as --name value")
        )
    return (files[0] if files else None), overrides


def _take(key: str, rest: list[str]) -> list[str]:
    """The words that belong to this flag, taken from the front of `rest`."""
    kinds = _kinds(key)
    taken: list[str] = []
    while rest and not rest[0].startswith("--"):
        if kinds == {bool} and rest[0].lower() not in TRUTHS:
            break
        if taken and (list not in kinds or rest[0].endswith((".yaml", ".yml"))):
            break
        taken.append(rest.pop(0))
    if not taken and bool not in kinds and full_key(key) is not None:
        raise ConfigError(
            explain(f"--{key.replace('_', '-')}", "it has no value", "Write the value after it")
        )
    return taken


def _value(key: str, words: list[str]) -> Any:
    kinds = _kinds(key)
    if not words:
        return True
    if len(words) > 1:
        return [_parsed(word) for word in words]
    text = words[0]
    if kinds and kinds <= {str}:
        return text
    if list in kinds and "," in text and not PATTERN_LETTERS & set(text):
        return [_parsed(part.strip()) for part in text.split(",") if part.strip()]
    return _parsed(text)


def _parsed(text: str) -> Any:
    """A word as YAML reads it, if that is a number, a switch or a list; else the word."""
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def _kinds(key: str) -> set[Any]:
    """The plain types that a key takes: `{str}`, `{list, str}`, ...; empty for an unknown key."""
    full = full_key(key)
    if full is None:
        return set()
    section, _, name = full.partition(".")
    fields = SECTIONS[section].model_fields
    if name in fields:
        return _plain_types(fields[name].annotation)
    for method in METHODS:
        hints = typing.get_type_hints(config_class(method))
        if name in hints:
            return _plain_types(hints[name])
    return set()


def _plain_types(hint: Any) -> set[Any]:
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return set().union(*(_plain_types(part) for part in typing.get_args(hint)))
    if origin is typing.Annotated:
        return _plain_types(typing.get_args(hint)[0])
    if origin is typing.Literal:
        return {type(value) for value in typing.get_args(hint)}
    return set() if hint is type(None) else {origin or hint}
