"""One cell of a study: what is asked for, what it builds on, and its key.

Room: studies. Made by the kinds of studies (`single.py`, `merging.py`, `streams.py`), run by `work.py`, kept
by `book.py`. A cell's key is the fingerprint of what was asked for and of the data and the model behind it,
not of where these lie or where it is written; two studies that ask for the same thing share the cell.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from neurolora.provenance import fingerprint_file, fingerprint_json
from neurolora.tasks import TaskRequest
from neurolora.training.identity import data_fingerprint, model_fingerprint

#: Settings of training that name a file: what is in it counts, not its place.
FILES = ("deepspeed", "silence_data")


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
        return task_request(self.data)


@dataclass(frozen=True)
class Cell:
    """What is asked for. kind: `base`, `train`, `score`, `merge` or `stream`.

    name: for people. work: the config of a run, without the model's and the run's folders; of a merge, its
    settings. parents: the cells whose adapters are scored or merged. scores: what is measured (a stream's
    config says it). processes: above 1, the run is launched on so many.
    """

    kind: str
    name: str
    work: dict[str, Any]
    scores: tuple[Score, ...] = ()
    parents: tuple[Cell, ...] = ()
    processes: int = 1

    @cached_property
    def key(self) -> str:
        """The fingerprint of what was asked for, 16 letters; taken once, as it reads the data."""
        asked = {
            "kind": self.kind,
            "work": placeless(self.work),
            "scores": [_score(score) for score in self.scores],
            "parents": [parent.key for parent in self.parents],
            "data": [_rows(json.dumps(data, sort_keys=True), split) for data, split in self._sources()],
            "model": _model(json.dumps(self.work["model"])) if "model" in self.work else None,
            "processes": self.processes,
        }
        return fingerprint_json(asked)[:16]

    def _sources(self) -> list[tuple[dict[str, Any], str]]:
        """Everything that rows are read from: data section, split."""
        if self.kind == "stream":
            sections = [{**self.work["data"], **task["data"]} for task in self.work["tasks"]]
            return [(data, split) for data in sections for split in ("train", self.work["eval"]["split"])]
        trained = [(self.work["data"], "train")] if self.kind == "train" else []
        return trained + [(score.data, score.split) for score in self.scores]


def task_request(data: dict[str, Any]) -> TaskRequest:
    """A data section as the tasks room takes it, without a limit."""
    names = {field.name for field in dataclasses.fields(TaskRequest)} - {"limit"}
    return TaskRequest(**{name: value for name, value in data.items() if name in names})


def _score(score: Score) -> dict[str, Any]:
    """What the score depends on: not on how many rows are scored at once."""
    values = {**dataclasses.asdict(score), "data": _without_place(score.data)}
    del values["batch_size"]
    return values


def placeless(work: dict[str, Any]) -> dict[str, Any]:
    """The config without folders, and with the contents of files in place of their names."""
    found = {name: value for name, value in work.items() if name not in ("output", "model")}
    found["model"] = {k: v for k, v in work.get("model", {}).items() if k != "model_name_or_path"}
    if "data" in work:
        found["data"] = _without_place(work["data"])
    if "eval" in work:  # how many rows are scored at once changes no score
        found["eval"] = {name: value for name, value in work["eval"].items() if name != "batch_size"}
    if "tasks" in work:
        found["tasks"] = [{**task, "data": _without_place(task["data"])} for task in work["tasks"]]
    if "train" in work:
        train = dict(work["train"])
        for name in FILES:
            if Path(str(train.get(name) or "")).is_file():
                train[name] = fingerprint_file(train[name])
        found["train"] = train
    return found


def _without_place(data: dict[str, Any]) -> dict[str, Any]:
    """A data section without the name of a local file or folder, whose rows count by themselves."""
    is_local = Path(str(data.get("dataset_name") or "")).exists()
    return {name: value for name, value in data.items() if not (is_local and name == "dataset_name")}


@cache
def _rows(data: str, split: str) -> str:
    return data_fingerprint(task_request(json.loads(data)), split)


@cache
def _model(section: str) -> str:
    return model_fingerprint(json.loads(section))
