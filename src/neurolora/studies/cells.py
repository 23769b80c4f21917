"""One cell of a study: a training run, a merge or a stream, with what it is scored on; and its key.

Room: studies. Made by the kinds of studies (`single.py`, `merging.py`, `streams.py`), run by `work.py`, kept
by `book.py`. A cell's key is the fingerprint of all that was asked for and of the data and the model behind
it, not of where it is written; two studies that ask for the same thing share the cell.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from neurolora.provenance import fingerprint_file, fingerprint_json, fingerprint_rows
from neurolora.tasks import TaskRequest, load_rows
from neurolora.world import resolve_model_name


@dataclass(frozen=True)
class Score:
    """One thing that is measured: a task's score on so many rows of a split."""

    column: str
    data: dict[str, Any]
    metric: str
    split: str
    limit: int | None
    batch_size: int

    def request(self) -> TaskRequest:
        """The task's data as evaluation takes it."""
        names = {field.name for field in dataclasses.fields(TaskRequest)}
        return TaskRequest(**{name: value for name, value in self.data.items() if name in names})


@dataclass(frozen=True)
class Cell:
    """What is asked for. kind: `train`, `merge` or `stream`.

    name: for people. work: the config of the run, without output folders; of a merge, its settings. parents:
    the cells whose adapters are merged. scores: what is measured at the end (a stream's config says it).
    processes: above 1, training is launched on so many.
    """

    kind: str
    name: str
    work: dict[str, Any]
    scores: tuple[Score, ...] = ()
    parents: tuple[Cell, ...] = ()
    processes: int = 1

    @property
    def key(self) -> str:
        """The fingerprint of what was asked for, 16 letters."""
        asked = {
            "kind": self.kind,
            "work": self.work,
            "scores": [dataclasses.asdict(score) for score in self.scores],
            "parents": [parent.key for parent in self.parents],
            "data": [_data(json.dumps(one, sort_keys=True)) for one in self._sources()],
            "model": _model(self._model()),
        }
        return fingerprint_json(asked)[:16]

    def _sources(self) -> list[dict[str, Any]]:
        """Everything that rows are read from: (data section, split)."""
        if self.kind == "stream":
            tasks = [{**self.work["data"], **task["data"]} for task in self.work["tasks"]]
            splits = ("train", self.work["eval"]["split"])
            return [{"data": data, "split": split} for data in tasks for split in splits]
        trained = [{"data": self.work["data"], "split": "train"}] if self.kind == "train" else []
        return trained + [{"data": score.data, "split": score.split} for score in self.scores]

    def _model(self) -> str:
        cell = self.parents[0] if self.parents else self
        return str(cell.work["model"]["model_name_or_path"])


@cache
def _data(source: str) -> str:
    """The fingerprint of a split's rows."""
    asked = json.loads(source)
    score = Score("", asked["data"], "accuracy", asked["split"], None, 1)
    return fingerprint_rows(load_rows(score.request(), asked["split"]))


@cache
def _model(name: str) -> str:
    """The fingerprint of a local model's files; of one on the hub its name, which its config pins."""
    folder = Path(resolve_model_name(name))
    if not folder.is_dir():
        return name
    files = sorted([*folder.glob("*.json"), *folder.glob("*.safetensors")])
    return fingerprint_json({path.name: fingerprint_file(path) for path in files})
