"""GSM8K: grade-school word problems; a worked solution, and the result after `#### `.

Room: tasks. `registry` collects `TASK`; it touches nothing.
Local: `train.jsonl` and `test.jsonl`, or one of them. Hub: `openai/gsm8k`, config `main`. There is no
validation split: set `validation_fraction`.
"""

from __future__ import annotations

from neurolora.tasks.records import Record, Row, read_reasoning_row
from neurolora.tasks.task import Task
from neurolora.tasks.template import REASONING

SAMPLE: Row = {
    "question": "A baker sells 12 loaves an hour. How many loaves does she sell in 3 hours?",
    "answer": "She sells 12*3 = <<12*3=36>>36 loaves.\n#### 36",
}


def read_row(record: Record, labels: tuple[str, ...] = ()) -> Row:
    """`{"question", "answer"}` -> the same, checked."""
    return read_reasoning_row(record)


TASK = Task(
    name="gsm8k",
    kind="generation",
    reader=read_row,
    template=REASONING,
    sample=SAMPLE,
    fields=("question", "answer"),
    source="Cobbe et al. 2021, openai/grade-school-math",
    license="MIT",
    hub_name="openai/gsm8k",
    hub_config="main",
)
