"""What a task is: a row of data that says how to read its rows and how to ask its questions.

Room: tasks. The task files make one each, `registry` collects them; it touches nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from neurolora.tasks.files import read_records
from neurolora.tasks.records import Record, Row
from neurolora.tasks.splits import USUAL_NAMES
from neurolora.tasks.template import PromptTemplate

Kind = Literal["multiple_choice", "generation", "labelled_text", "completion", "chat"]
Reader = Callable[[Record, tuple[str, ...]], Row | None]


@dataclass(frozen=True)
class Task:
    """One task.

    - `reader(record, labels)`: raw row -> canonical row; None leaves the row out (a picture in it).
    - `sample`: one raw row as the files have it, which `reader` takes.
    - `fields`: the canonical fields that `TaskRequest.columns` may rename.
    - `hub_name`, `hub_config`: where `dataset_name=None` goes; without a name the user must say.
    - `splits`: the names under which each split is known, the first that exists wins.
    - `read_file`: how one local file becomes raw rows; `split_column`: a column that says a row's split.
    - `built_in`: the rows come from `neurolora.world`.
    - `source`, `license`: for the model card.
    """

    name: str
    kind: Kind
    reader: Reader
    template: PromptTemplate
    sample: Row
    fields: tuple[str, ...]
    source: str
    license: str
    hub_name: str | None = None
    hub_config: str | None = None
    splits: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: USUAL_NAMES)
    read_file: Callable[[Path], list[Record]] = read_records
    split_column: str | None = None
    built_in: bool = False
