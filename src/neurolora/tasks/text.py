"""Labelled text: a sentence and its label, from any JSON list, JSON Lines, CSV or Parquet file.

Room: tasks. `registry` collects `TASK` and calls `label_names`; it touches nothing.
`label` is a name or a number. The names, in order, are: those of the request; else `labels.json` beside the
file, or the class-label column's own; else the labels of train (numbers up to the largest, names sorted).
Other column names: `columns: {sentence: text, label: category}`.
"""

from __future__ import annotations

from collections.abc import Iterable

from neurolora.tasks.naming import listed, nearest
from neurolora.tasks.records import Record, Row, kind_of, text_of, value_of
from neurolora.tasks.task import Task
from neurolora.tasks.template import PromptTemplate

SAMPLE: Row = {"sentence": "The trains run on time again.", "label": "good news"}

TEMPLATE = PromptTemplate(
    prompt="{{ sentence }}\nOptions: {{ labels | join(', ') }}\nAnswer:",
    completion=" {{ labels[label] }}",
    choice=" {{ labels[index] }}",
)


def read_row(record: Record, labels: tuple[str, ...]) -> Row:
    """`{"sentence", "label"}` -> the sentence, the label's index, and all labels."""
    sentence = text_of(record, "sentence", "text")
    return {
        "sentence": sentence,
        "label": label_index(record, labels),
        "labels": list(labels),
        "source": record.source,
    }


def label_index(record: Record, labels: tuple[str, ...]) -> int:
    """The label's place among `labels`: by name, else by number (CSV writes numbers as texts)."""
    column, value = value_of(record, "label")
    if isinstance(value, str) and value in labels:
        return labels.index(value)
    number = _number(record, column, value)
    if number is None:
        do = f"{nearest(str(value), labels)}Use one of {listed(labels)}"
        raise record.fail(column, f"{value!r} is not among the labels", do)
    if not 0 <= number < len(labels):
        do = f"Write 0 to {len(labels) - 1}: {listed(labels)} (-1 often marks a split with hidden labels)"
        raise record.fail(column, f"{number} is out of range", do)
    return number


def label_names(records: Iterable[Record]) -> tuple[str, ...]:
    """Labels as the rows have them: `0 .. largest` when all are numbers, else the names, sorted."""
    seen: set[str] = set()
    numbers: list[int | None] = []
    for record in records:
        column, value = value_of(record, "label")
        numbers.append(_number(record, column, value))
        seen.add(str(value))
    whole = [number for number in numbers if number is not None]
    if len(whole) == len(numbers):
        return tuple(str(number) for number in range(max(whole, default=-1) + 1))
    return tuple(sorted(seen))


def _number(record: Record, column: str, value: object) -> int | None:
    """The label as a number, None if it is a name. Raises `DataError` for any other kind of value."""
    if isinstance(value, str):
        return int(value) if value.isascii() and value.removeprefix("-").isdigit() else None
    if isinstance(value, bool) or not isinstance(value, int):
        raise record.fail(column, f"it is {kind_of(value)}", "Write a label's name or number")
    return value


TASK = Task(
    name="text",
    kind="labelled_text",
    reader=read_row,
    template=TEMPLATE,
    sample=SAMPLE,
    fields=("sentence", "label"),
    source="the user's data",
    license="the user's data",
)
