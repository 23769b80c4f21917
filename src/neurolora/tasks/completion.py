"""Prompt and completion: any text to be continued, from JSON Lines, JSON, CSV or Parquet.

Room: tasks. `registry` collects `TASK`; it touches nothing.
The texts are used as they are: begin the completion with a space or a new line where one belongs.
"""

from __future__ import annotations

from neurolora.tasks.records import Record, Row, text_of
from neurolora.tasks.task import Task
from neurolora.tasks.template import PromptTemplate

SAMPLE: Row = {"prompt": "Translate to French: good morning\n", "completion": "bonjour"}


def read_row(record: Record, labels: tuple[str, ...] = ()) -> Row:
    """`{"prompt", "completion"}` -> the same, checked; the prompt may be empty, the completion not."""
    return {
        "prompt": text_of(record, "prompt", empty_ok=True),
        "completion": text_of(record, "completion"),
        "source": record.source,
    }


TASK = Task(
    name="completion",
    kind="completion",
    reader=read_row,
    template=PromptTemplate(prompt="{{ prompt }}", completion="{{ completion }}"),
    sample=SAMPLE,
    fields=("prompt", "completion"),
    source="the user's data",
    license="the user's data",
)
