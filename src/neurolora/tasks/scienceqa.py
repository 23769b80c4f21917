"""ScienceQA, text only: school questions with two to five choices, some with a passage; no pictures.

Room: tasks. `registry` collects `TASK`; `read_scienceqa_file` reads the path it is given, and
`pid_splits.json` beside it.
Local: the official `problems.json` (pid -> problem) with `pid_splits.json`; JSON Lines with `split` and
`has_image`; or files in the hub's layout. Hub: `derek-thomas/ScienceQA`, where `image` is null for text-only
rows. The passage is `hint` in the official files and on the hub, `context` in others. Rows with a picture are
left out.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from neurolora.errors import DataError, explain
from neurolora.tasks.files import read_json, read_records
from neurolora.tasks.records import (
    Record,
    Row,
    choice_row,
    index_of,
    kind_of,
    optional_text,
    text_of,
    texts_of,
)
from neurolora.tasks.task import Task
from neurolora.tasks.template import MULTIPLE_CHOICE

SAMPLE: Row = {
    "question": "Is a wool scarf a good or a bad conductor of heat?",
    "choices": ["good", "bad"],
    "answer": 1,
    "hint": "A conductor lets heat pass easily.",
    "image": None,
    "subject": "natural science",
    "split": "train",
}
OFFICIAL_SPLITS = ("train", "val", "test")  # pid_splits.json has others, which overlap these


def read_scienceqa_file(path: Path) -> list[Record]:
    """Rows of the official `problems.json`, each with its split; other files as they are."""
    if path.name != "problems.json":
        return read_records(path)
    problems = read_json(path)
    if not isinstance(problems, dict) or not problems:
        found = f"it holds {kind_of(problems)}"
        raise DataError(explain(f"reading {path}", found, 'Write {"pid": {...}, ...}, as the official file'))
    splits = _pid_splits(path.parent / "pid_splits.json")
    return [_problem(path, pid, problem, splits) for pid, problem in problems.items()]


def read_row(record: Record, labels: tuple[str, ...] = ()) -> Row | None:
    """One problem -> the canonical row, or None if it needs a picture."""
    values = record.values
    if values.get("has_image") or values.get("image") is not None:
        return None
    choices = texts_of(record, "choices")
    return choice_row(
        record,
        question=text_of(record, "question"),
        context=optional_text(record, "context", "hint"),
        choices=choices,
        answer=index_of(record, "answer", len(choices)),
        group=optional_text(record, "subject"),
    )


def _problem(path: Path, pid: str, problem: Any, splits: dict[str, str]) -> Record:
    if not isinstance(problem, dict):
        found = f"it is {kind_of(problem)}, not an object"
        raise DataError(explain(f"reading {path}, problem {pid}", found, "Restore the official file"))
    split = splits.get(pid, problem.get("split"))
    record = Record({**problem, "split": split}, str(path), f"problem {pid}")
    if split is None:
        raise record.fail("split", "the problem is in no split", "Put the official pid_splits.json beside it")
    return record


def _pid_splits(path: Path) -> dict[str, str]:
    """pid -> split; empty when the file is absent."""
    if not path.exists():
        return {}
    named = read_json(path)
    if not isinstance(named, dict) or not all(isinstance(named.get(name), list) for name in OFFICIAL_SPLITS):
        do = "Restore the official file"
        raise DataError(explain(f"reading {path}", "it lacks the lists train, val, test", do))
    return {str(pid): name for name in OFFICIAL_SPLITS for pid in named[name]}


TASK = Task(
    name="scienceqa",
    kind="multiple_choice",
    reader=read_row,
    template=MULTIPLE_CHOICE,
    sample=SAMPLE,
    fields=("question", "context", "choices", "answer", "subject"),
    source="Lu et al. 2022, lupantech/ScienceQA",
    license="CC BY-NC-SA 4.0",
    hub_name="derek-thomas/ScienceQA",
    read_file=read_scienceqa_file,
    split_column="split",
)
