"""Rows of a file without answers, as canonical rows: what a model can be run on but not scored.

Room: tasks. The estimation of accuracy calls it. The fields that ask are read and checked as ever; a field
that answers gets a stand-in, and one that is there is overwritten, so that no answer can leak.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from neurolora.errors import ConfigError, explain
from neurolora.tasks.records import Record, Row
from neurolora.tasks.registry import task_named
from neurolora.tasks.request import TaskRequest
from neurolora.tasks.sources import with_columns

#: Kind of task -> the field that answers.
ANSWERS = {
    "multiple_choice": "answer",
    "generation": "answer",
    "labelled_text": "label",
    "completion": "completion",
}


def load_unlabelled(request: TaskRequest, path: Path | str) -> list[Row]:
    """All rows of one file (.jsonl, .json, .csv, .parquet) as the request's task reads them, without answers.

    Their answer is 0, the first label, or a stand-in text. Raises DataError for a file or row that cannot be
    read, ConfigError for a chat (it has no question apart from its turns) or a labelled text whose labels
    are not known.
    """
    task = task_named(request.task)
    if task.kind == "chat":
        do = "Use a task with questions, texts or prompts"
        raise ConfigError(explain(f"unlabelled data for {task.name}", "a chat has no single answer", do))
    labels = request.labels or ()
    if task.kind == "labelled_text" and not labels:
        do = "Give the request's labels, in the order of the model's"
        raise ConfigError(explain(f"unlabelled data for {task.name}", "the labels are not known", do))
    field = ANSWERS[task.kind]
    if task.kind == "multiple_choice":
        value: Any = 0
    else:
        value = labels[0] if task.kind == "labelled_text" else task.sample[field]
    records = with_columns(task.read_file(Path(path)), request.columns)
    filled = [_with(record, field, value) for record in records]
    rows = [row for record in filled if (row := task.reader(record, labels)) is not None]
    if request.limit is not None:
        rows = rows[: request.limit]
    return rows


def _with(record: Record, field: str, value: Any) -> Record:
    return dataclasses.replace(record, values={**record.values, record.column(field): value})
