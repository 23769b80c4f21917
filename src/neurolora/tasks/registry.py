"""All tasks by name, and the way from a request to rows and examples.

Room: tasks, its front. Everybody above calls it; it reads data files, the hub, or the embedded world.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Mapping
from pathlib import Path

from neurolora.errors import ConfigError, DataError, explain
from neurolora.tasks import (
    chat,
    completion,
    gsm8k,
    mmlu,
    scienceqa,
    text,
    world_passage,
    world_recall,
    world_sums,
)
from neurolora.tasks.naming import listed, nearest
from neurolora.tasks.records import Record, Row
from neurolora.tasks.request import TaskRequest, check_split
from neurolora.tasks.sources import Source, hub_source, local_source, looks_local, with_columns
from neurolora.tasks.splits import SplitPlan, apply_plan, plan_split
from neurolora.tasks.task import Task
from neurolora.tasks.template import Example, PromptTemplate, make_example

_MODULES = (gsm8k, mmlu, scienceqa, text, completion, chat, world_recall, world_passage, world_sums)
TASKS: Mapping[str, Task] = {module.TASK.name: module.TASK for module in _MODULES}


def task_named(name: str) -> Task:
    """The task of that name. Raises `ConfigError` with the nearest name."""
    if str(name) not in TASKS:
        do = f"{nearest(str(name), TASKS)}The tasks are {listed(TASKS)}"
        raise ConfigError(explain("task", f"unknown task {name!r}", do))
    return TASKS[name]


def template_of(request: TaskRequest) -> PromptTemplate:
    """The request's templates, the task's own where it has none.

    Raises `ConfigError` for a prompt template on a chat task, or a choice template without choices.
    """
    task = task_named(request.task)
    own = task.template
    if task.kind == "chat" and request.prompt_template is not None:
        do = "Leave prompt_template out; set the tokenizer's chat template instead"
        raise ConfigError(explain("prompt_template", "a chat prompt is made by the tokenizer", do))
    if own.choice is None and request.choice_template is not None:
        do = "Leave choice_template out"
        raise ConfigError(explain("choice_template", f"task {task.name} has no choices", do))
    overrides = (request.prompt_template, request.completion_template, request.choice_template)
    chosen = (
        new if new is not None else old for new, old in zip(overrides, dataclasses.astuple(own), strict=True)
    )
    return PromptTemplate(*chosen)


def load_rows(request: TaskRequest, split: str, *, least_labels: int = 2) -> list[Row]:
    """Canonical rows (see `records`) of one split, each with its `source`.

    least_labels: how many a labelled text must have; 1 for those who learn class after class.
    Raises `ConfigError` for an unknown task or split, `DataError` for data that are missing or wrong.
    """
    task = task_named(request.task)
    check_split(split)
    _check_columns(task, request)
    rows = (
        _world_rows(task, request, split) if task.built_in else _file_rows(task, request, split, least_labels)
    )
    return limit_rows(rows, request.limit, request.seed)


def load_examples(request: TaskRequest, split: str) -> list[Example]:
    """Rendered examples of one split: `load_rows` and `template_of` together."""
    template = template_of(request)
    return [make_example(template, row) for row in load_rows(request, split)]


def pin_labels(request: TaskRequest, rows: list[Row]) -> TaskRequest:
    """The request with its labels written down, so that it means the same for any file."""
    if request.labels is not None or not rows or "labels" not in rows[0]:
        return request
    return dataclasses.replace(request, labels=tuple(rows[0]["labels"]))


def limit_rows(rows: list[Row], limit: int | None, seed: int) -> list[Row]:
    """At most `limit` rows, drawn by `seed`, in their old order; a smaller limit's are a larger one's."""
    if limit is None or limit >= len(rows):
        return rows
    order = list(range(len(rows)))
    random.Random(seed).shuffle(order)
    return [rows[index] for index in sorted(order[:limit])]


def _file_rows(task: Task, request: TaskRequest, split: str, least_labels: int) -> list[Row]:
    source = open_source(task, request)
    name = f"{task.name} from {source.name}"
    plan = plan_split(split, list(source.splits), task.splits, request, name)
    records = with_columns(source.splits[plan.raw](), request.columns)
    labels = _labels(task, request, source, plan, records)
    if task.kind == "labelled_text" and len(labels) < least_labels:
        do = "Give data with two labels or more, or name them all in labels"
        raise DataError(explain(f"the labels of {source.name}", f"there is only {listed(labels)}", do))
    rows = [row for record in records if (row := task.reader(record, labels)) is not None]
    if not rows:
        found = f"none of {len(records)} rows can be used (are all with pictures?)"
        raise DataError(explain(f"loading the {split} split of {name}", found, "Give other data"))
    return apply_plan(rows, plan, name)


def open_source(task: Task, request: TaskRequest) -> Source:
    """The request's local file or folder if it exists, else the hub's data set of that name."""
    name = request.dataset_name or task.hub_name
    if name is None:
        do = "Set dataset_name to a local file or folder, or to a name on the hub"
        raise ConfigError(explain(f"task {task.name}", "it has no data of its own", do))
    path = Path(name).expanduser()
    if path.exists() or looks_local(name):
        config = request.dataset_config
        if config is None and task.hub_config is not None and (path / task.hub_config).is_dir():
            config = task.hub_config
        return local_source(path, task.read_file, task.splits, config, task.split_column)
    own = name == task.hub_name
    return hub_source(name, request.dataset_config or (task.hub_config if own else None))


def _labels(
    task: Task, request: TaskRequest, source: Source, plan: SplitPlan, records: list[Record]
) -> tuple[str, ...]:
    """The label names of a labelled text, from the first that knows them: see `text`."""
    if task.kind != "labelled_text":
        return ()
    column = request.columns.get("label", "label")
    names = request.labels or source.labels(column)
    if names is None:
        train = next((name for name in task.splits["train"] if name in source.splits), None)
        if train not in (None, plan.raw):
            records = with_columns(source.splits[train](), request.columns)
        names = text.label_names(records)
    return names


def _world_rows(task: Task, request: TaskRequest, split: str) -> list[Row]:
    from neurolora import world  # lazily: its generator is not needed by the others

    if request.dataset_name is not None:
        do = "Leave dataset_name out, or choose another task"
        raise ConfigError(explain("dataset_name", f"task {task.name} is built in", do))
    config = request.dataset_config or "0"  # which world; the bundled model has read world 0
    if not (config.isascii() and config.isdigit()):
        do = "Leave it out for world 0, or give another world's number"
        raise ConfigError(explain("dataset_config", f"{config!r} is not the number of a world", do))
    raw = world.generate_rows(task.name, split, seed=int(config))
    records = [Record(row, f"{task.name} {split}", f"row {number}") for number, row in enumerate(raw, 1)]
    return [row for record in records if (row := task.reader(record, ())) is not None]


def _check_columns(task: Task, request: TaskRequest) -> None:
    for name in request.columns:
        if name not in task.fields:
            do = f"{nearest(name, task.fields)}The fields of {task.name} are {listed(task.fields)}"
            raise ConfigError(explain("columns", f"unknown field {name!r}", do))
