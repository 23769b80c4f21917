"""What a user asks for: a task, where its data is, how much of it, and with which prompt.

Room: tasks. Everybody above makes and passes it; it only checks itself.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from neurolora.errors import ConfigError, explain
from neurolora.tasks.naming import listed, nearest
from neurolora.tasks.records import kind_of

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class TaskRequest:
    """One task's data and prompt.

    - `task`: a name of `TASKS`.
    - `dataset_name`: a local file or folder, or a name on the hub; None = the task's own (built in for
      the world's tasks).
    - `dataset_config`: the hub's configuration; for local MMLU files a subject; for the world's tasks the
      number of a world (0, the default, is the one the bundled model has read).
    - `prompt_template`, `completion_template`, `choice_template`: jinja2 over the canonical row, in place
      of the task's own.
    - `limit`: at most so many rows, drawn by `seed` and kept in file order; a smaller limit's rows are
      among a larger one's.
    - `seed`: which rows `limit` draws. What is held out does not depend on it, so no seed ever trains on
      another's test rows.
    - `columns`: canonical field name -> the name in the file, e.g. `{"sentence": "text"}`.
    - `labels`: names of the labels of a labelled text, in order; None = the file's (see `text.py`).
    - `validation_fraction`, `test_fraction`: what to hold out, by a hash of the row, where the data have
      no such split (see `splits.py`).

    Raises `ConfigError` for values that cannot work.
    """

    task: str
    dataset_name: str | None = None
    dataset_config: str | None = None
    prompt_template: str | None = None
    completion_template: str | None = None
    choice_template: str | None = None
    limit: int | None = None
    seed: int = 0
    columns: Mapping[str, str] = dataclasses.field(default_factory=dict)
    labels: tuple[str, ...] | None = None
    validation_fraction: float = 0.0
    test_fraction: float = 0.0

    def __post_init__(self) -> None:
        columns: Any = self.columns  # from a file, it may be anything
        if not isinstance(columns, Mapping):
            raise ConfigError(explain("columns", f"it is {kind_of(columns)}", "Write {field: column}"))
        if self.limit is not None and self.limit < 1:
            raise ConfigError(
                explain("limit", f"{self.limit}", "Give at least 1, or leave it out for all rows")
            )
        for name in ("validation_fraction", "test_fraction"):
            if not 0.0 <= getattr(self, name) < 1.0:
                found = f"{getattr(self, name)} is not in [0, 1)"
                raise ConfigError(explain(name, found, "Give the part to hold out, e.g. 0.1"))
        if self.validation_fraction + self.test_fraction >= 1.0:
            found = f"{self.validation_fraction} + {self.test_fraction} leave nothing to train on"
            raise ConfigError(explain("validation_fraction and test_fraction", found, "Give smaller parts"))
        if self.labels is not None:
            object.__setattr__(self, "labels", _checked_labels(self.labels))

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        values = dataclasses.asdict(self)
        values["labels"] = list(self.labels) if self.labels is not None else None
        return values

    @classmethod
    def from_dict(cls, values: Any) -> TaskRequest:
        """The inverse of `to_dict`. Raises `ConfigError` for unknown keys."""
        if not isinstance(values, Mapping):
            raise ConfigError(explain("a task request", f"it is {kind_of(values)}", "Write an object"))
        known = [field.name for field in dataclasses.fields(cls)]
        for key in values:
            if key not in known:
                do = f"{nearest(key, known)}The keys are {listed(known)}"
                raise ConfigError(explain("a task request", f"unknown key {key!r}", do))
        try:
            return cls(**values)
        except TypeError as error:
            raise ConfigError(explain("a task request", str(error), "Check its values")) from error


def check_split(split: str) -> None:
    """Raise `ConfigError` unless `split` is train, validation or test."""
    if split not in SPLITS:
        do = f"{nearest(split, SPLITS)}Use one of {listed(SPLITS)}"
        raise ConfigError(explain("split", f"unknown split {split!r}", do))


def _checked_labels(labels: Any) -> tuple[str, ...]:
    names = tuple(labels) if isinstance(labels, list | tuple) else ()
    if len(names) < 2 or len(set(names)) != len(names) or not all(isinstance(name, str) for name in names):
        do = "Give a list of two or more different names"
        raise ConfigError(explain("labels", f"{labels!r} are not names of labels", do))
    return names
