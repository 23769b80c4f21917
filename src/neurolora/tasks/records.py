"""A raw row with its place, and the checks that turn its fields into canonical rows.

Room: tasks. The task files and the readers call it; it touches nothing outside.

Canonical rows (plain dictionaries, so that they go to JSON Lines unchanged):
- multiple choice: `question` str, `context` str, `choices` [str, ...], `answer` int, `group` str
- generation:      `question` str, `answer` str
- labelled text:   `sentence` str, `label` int, `labels` [str, ...]
- completion:      `prompt` str, `completion` str
- chat:            `messages` [{`role`, `content`}, ...], the last one the assistant's
Each also has `source`: the file's name and line, so that a result can be traced to its row.
"""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from neurolora.errors import DataError, explain
from neurolora.tasks.naming import listed, nearest

Row = dict[str, Any]

LETTERS = string.ascii_uppercase  # a choice is named by one letter, so a row has at most 26 of them


@dataclass(frozen=True)
class Record:
    """One raw row: its fields, the file it came from, and where in that file (`line 3`, `row 7`).

    `columns` translates a canonical field name into the name the user's file has for it.
    """

    values: Mapping[str, Any]
    file: str
    where: str
    columns: Mapping[str, str] | None = None

    @property
    def place(self) -> str:
        """File and line, for a message."""
        return f"{self.file}, {self.where}"

    @property
    def source(self) -> str:
        """File name (a local file's without its folders) and line, for the canonical row."""
        name = self.file.replace("\\", "/").rsplit("/", 1)[-1]
        return f"{name if '.' in name else self.file}, {self.where}"

    def column(self, name: str, *others: str) -> str:
        """The name under which this row holds field `name`: the user's, else the first present one."""
        if self.columns and name in self.columns:
            return self.columns[name]
        return next((one for one in (name, *others) if one in self.values), name)

    def fail(self, field: str, found: str, do: str) -> DataError:
        """The error for one field of this row, to be raised by the caller."""
        return DataError(explain(f"reading field {field!r} of {self.place}", found, do))


def value_of(record: Record, name: str, *others: str) -> tuple[str, Any]:
    """(column, value) of a field that must be there. Raises `DataError` naming file, line and field."""
    column = record.column(name, *others)
    if column not in record.values:
        raise record.fail(
            column,
            f"the row has no such field, only {listed(map(str, record.values))}",
            f"{nearest(column, map(str, record.values))}Add the field, "
            f"or say under which name the file has it: columns: {{{name}: ...}}",
        )
    return column, record.values[column]


def text_of(record: Record, name: str, *others: str, empty_ok: bool = False) -> str:
    """A field that must be a string, and not an empty one unless `empty_ok`."""
    column, value = value_of(record, name, *others)
    if not isinstance(value, str):
        raise record.fail(column, f"it is {kind_of(value)}, not a text", "Write it as a text")
    if not empty_ok and not value.strip():
        raise record.fail(column, "it is empty", "Fill it in, or take the row out")
    return value


def optional_text(record: Record, name: str, *others: str) -> str:
    """A field that may be missing or null, and then is the empty text."""
    column = record.column(name, *others)
    if record.values.get(column) is None:
        return ""
    return text_of(record, name, *others, empty_ok=True)


def texts_of(record: Record, name: str) -> list[str]:
    """A field that must be a list of strings."""
    column, value = value_of(record, name)
    if not isinstance(value, Sequence) or isinstance(value, str | bytes):
        raise record.fail(column, f"it is {kind_of(value)}, not a list", "Write it as a list of texts")
    for position, one in enumerate(value):
        if not isinstance(one, str):
            raise record.fail(f"{column}[{position}]", f"it is {kind_of(one)}, not a text", "Write texts")
    return list(value)


def index_of(record: Record, name: str, size: int) -> int:
    """A field that must be a whole number in 0 .. size - 1."""
    column, value = value_of(record, name)
    if isinstance(value, bool) or not isinstance(value, int):
        raise record.fail(column, f"it is {kind_of(value)}", f"Write a whole number, 0 to {size - 1}")
    if not 0 <= value < size:
        raise record.fail(
            column,
            f"{value} is out of range: there are {size} choices",
            f"Write a number from 0 to {size - 1} (a split with hidden answers cannot be used)",
        )
    return value


def choice_row(
    record: Record, *, question: str, context: str, choices: Sequence[str], answer: int, group: str
) -> Row:
    """The canonical multiple-choice row. Raises `DataError` for fewer than 2 or more than 26 choices."""
    if not 2 <= len(choices) <= len(LETTERS):
        raise record.fail("choices", f"there are {len(choices)}", f"Give 2 to {len(LETTERS)} choices")
    return {
        "question": question,
        "context": context,
        "choices": list(choices),
        "answer": answer,
        "group": group,
        "source": record.source,
    }


def read_choice_row(record: Record) -> Row:
    """A row whose fields already have their canonical names (ours, the world's)."""
    choices = texts_of(record, "choices")
    return choice_row(
        record,
        question=text_of(record, "question"),
        context=optional_text(record, "context"),
        choices=choices,
        answer=index_of(record, "answer", len(choices)),
        group=optional_text(record, "group"),
    )


def read_reasoning_row(record: Record) -> Row:
    """`question` and `answer`, a worked solution whose last line holds the result after `#### `."""
    answer = text_of(record, "answer")
    if "####" not in answer:
        raise record.fail(
            "answer", "it has no final answer after '#### '", "End it with a line '#### RESULT'"
        )
    return {"question": text_of(record, "question"), "answer": answer, "source": record.source}


def kind_of(value: Any) -> str:
    """What a JSON value is, in a reader's words."""
    names = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}
    names |= {list: "a list", dict: "an object", type(None): "null"}
    name = names.get(type(value), type(value).__name__)
    return f"{name} ({value!r})" if isinstance(value, bool | int | float | str) else name
