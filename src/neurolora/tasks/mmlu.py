"""MMLU: four-choice questions of 57 subjects.

Room: tasks. `registry` collects `TASK`; `read_mmlu_file` reads the path it is given.
Local: the original folders `dev`, `val`, `test`, `auxiliary_train` of headerless `SUBJECT_SPLIT.csv`
(question, four choices, A-D); the copy of it with a header `question,choice0,...,choice3,answer` and answers
0-3; or files in the hub's layout. Hub: `cais/mmlu`, config `all` or a subject, with the columns `question`,
`subject`, `choices`, `answer`.
Train is `auxiliary_train` where the data have it, else `dev` (the few-shot rows, five a subject).
"""

from __future__ import annotations

from pathlib import Path

from neurolora.errors import DataError, explain
from neurolora.tasks.files import read_csv_cells, read_records
from neurolora.tasks.records import Record, Row, choice_row, index_of, optional_text, text_of, texts_of
from neurolora.tasks.splits import UNNAMED
from neurolora.tasks.task import Task
from neurolora.tasks.template import MULTIPLE_CHOICE

SAMPLE: Row = {
    "question": "Which planet is the largest of the solar system?",
    "subject": "astronomy",
    "choices": ["Mars", "Jupiter", "Venus", "Mercury"],
    "answer": 1,
}
COLUMNS = 6  # question, four choices, answer
SPLIT_WORDS = ("_auxiliary_train", "_train", "_dev", "_val", "_validation", "_test")


def read_mmlu_file(path: Path) -> list[Record]:
    """Rows of a CSV with or without a header, in the hub's fields; other kinds of file as they are."""
    if path.suffix.lower() != ".csv":
        return read_records(path)
    subject = subject_of(path)
    rows = list(read_csv_cells(path))
    if rows and [cell.strip().lower() for cell in (rows[0][1][0], rows[0][1][-1])] == ["question", "answer"]:
        rows = rows[1:]
    if not rows:
        raise DataError(explain(f"reading {path}", "it has a header and no rows", "Give a file with rows"))
    return [_csv_record(path, line, cells, subject) for line, cells in rows]


def subject_of(path: Path) -> str:
    """`anatomy` of `anatomy_test.csv`; `mc_test` of a file in a folder `auxiliary_train` is no subject's."""
    stem = path.stem
    for word in SPLIT_WORDS:
        if stem.endswith(word):
            return stem.removesuffix(word)
    return stem


def read_row(record: Record, labels: tuple[str, ...] = ()) -> Row:
    """`{"question", "subject", "choices", "answer"}` -> the canonical row, the subject as its group."""
    choices = texts_of(record, "choices")
    return choice_row(
        record,
        question=text_of(record, "question"),
        context="",
        choices=choices,
        answer=index_of(record, "answer", len(choices)),
        group=optional_text(record, "subject"),
    )


def _csv_record(path: Path, line: int, cells: list[str], subject: str) -> Record:
    if len(cells) != COLUMNS:
        found = f"line {line} has {len(cells)} columns"
        do = "MMLU's files have 6: question, four choices, answer"
        raise DataError(explain(f"reading {path}", found, do))
    values: Row = {"question": cells[0], "subject": subject, "choices": cells[1:5], "answer": cells[5]}
    record = Record(values, str(path), f"line {line}")
    values["answer"] = _answer_index(record, cells[5].strip())
    return record


def _answer_index(record: Record, answer: str) -> int:
    if answer in ("A", "B", "C", "D"):
        return "ABCD".index(answer)
    if answer in ("0", "1", "2", "3"):
        return int(answer)
    raise record.fail("answer", f"it is {answer!r}", "Write A, B, C or D (or 0 to 3)")


TASK = Task(
    name="mmlu",
    kind="multiple_choice",
    reader=read_row,
    template=MULTIPLE_CHOICE,
    sample=SAMPLE,
    fields=("question", "subject", "choices", "answer"),
    source="Hendrycks et al. 2021, hendrycks/test",
    license="MIT",
    hub_name="cais/mmlu",
    hub_config="all",
    splits={
        "train": ("auxiliary_train", "train", "dev", UNNAMED),
        "validation": ("validation", "val"),
        "test": ("test",),
    },
    read_file=read_mmlu_file,
)
