"""The config of a stream: tasks, orders, seeds, strategies, and the training config of every run in it.

Room: continual. `load_stream` is the door: what passes it is frozen, and every training config that a run
will need has been built once, so that a mistake shows before the first step.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from neurolora.continual.strategies import STRATEGIES, Strategy
from neurolora.errors import ConfigError, explain
from neurolora.training.config import TrainingConfig, load_config
from neurolora.training.names import nearest
from neurolora.yaml_lines import read_yaml

MOST_ORDERS = 120
#: What each metric of a task measures, in percent, larger is better.
METRICS = {
    "accuracy": "the task's own score: accuracy or exact match",
    "answer_probability": "100 exp(-loss) of an answer's token, for models too small to answer",
}
Settings = Annotated[dict[str, Any], BeforeValidator(lambda value: {} if value is None else value)]


class _Section(BaseModel):
    """Frozen, and nothing unknown gets in."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False)


class TaskEntry(_Section):
    """One task of the stream: its name here, and the data section of training."""

    name: str = Field(min_length=1)
    metric: Literal["accuracy", "answer_probability"] = "accuracy"
    data: Settings = {}


class StrategyEntry(_Section):
    """One row of the comparison. adapter, train: over the common ones. settings: the strategy's knobs."""

    strategy: str
    label: str | None = None
    adapter: Settings = {}
    train: Settings = {}
    settings: Settings = {}

    @property
    def row(self) -> Strategy:
        """The strategy."""
        return STRATEGIES[self.strategy]


class StreamEvaluation(_Section):
    """How each task is scored after each task."""

    limit: int | None = Field(None, gt=0, description="test rows of each task")
    split: Literal["validation", "test"] = "test"
    batch_size: int = Field(16, gt=0)
    unseen: bool = Field(True, description="score tasks that are still to come, for forward transfer")


class StreamConfig(_Section):
    """The whole file. model, adapter, data, train: sections of a training config, common to all runs."""

    model: Settings
    tasks: list[TaskEntry] = Field(min_length=1)
    strategies: list[StrategyEntry] = Field(min_length=1)
    orders: list[list[str]] | Literal["all"] | None = None
    seeds: list[Annotated[int, Field(ge=0)]] = Field(default=[0], min_length=1)
    adapter: Settings = {}
    data: Settings = {}
    train: Settings = {}
    output: Settings = {}
    eval: StreamEvaluation = Field(default_factory=lambda: StreamEvaluation.model_validate({}))
    output_dir: str = Field("runs/stream", min_length=1)

    @property
    def task_names(self) -> list[str]:
        """The tasks, in the order of the file."""
        return [task.name for task in self.tasks]

    def task(self, name: str) -> TaskEntry:
        """The task of this name."""
        return next(task for task in self.tasks if task.name == name)

    @property
    def all_orders(self) -> list[list[str]]:
        """Every order to go through; as the file lists the tasks if it says nothing."""
        if self.orders == "all":
            return [list(order) for order in itertools.permutations(self.task_names)]
        return [list(order) for order in self.orders or [self.task_names]]

    def labels(self) -> list[str]:
        """The name of each row of the comparison, in a folder's letters."""
        return [label_of(self, entry) for entry in self.strategies]

    def training(
        self, entry: StrategyEntry, task: str, *, seed: int, place: int, output_dir: Path
    ) -> TrainingConfig:
        """The training config of one task as number `place` of a stream.

        Its seed is the stream's plus 1000 for each task before it, so that a fresh adapter does not start as
        the one before did. A is the same for all tasks of a stream, unless the strategy gives each its own.
        """
        adapter = {"method": entry.row.default_method, **self.adapter, **entry.adapter}
        if adapter["method"] in ("neurolora", "flylora"):
            first = adapter.get("projection_seed", seed)
            adapter["projection_seed"] = first + (1000 * place if entry.row.carry == "frozen" else 0)
        values = {
            "model": self.model,
            "adapter": adapter,
            "data": {**self.data, **self.task(task).data},
            "train": {"eval_strategy": "no", **self.train, **entry.train, "seed": seed + 1000 * place},
            "output": {"save_total_limit": 1, **self.output, "output_dir": str(output_dir)},
        }
        return load_config(None, values)

    def resolved(self) -> dict[str, Any]:
        """Every setting with its value, as plain data."""
        return self.model_dump(mode="json")


def method_of(config: StreamConfig, entry: StrategyEntry) -> str:
    """The adapter method of a row."""
    return str({"method": entry.row.default_method, **config.adapter, **entry.adapter}["method"])


def label_of(config: StreamConfig, entry: StrategyEntry) -> str:
    """A row's own label, or `strategy-method`."""
    return entry.label or f"{entry.strategy}-{method_of(config, entry)}"


def load_stream(path: Path | str, overrides: Mapping[str, Any] | None = None) -> StreamConfig:
    """Read and check a stream's file; `overrides` replace its top-level keys.

    Raises ConfigError with all problems of the file, or the first of a training config that it leads to.
    """
    values, lines = read_yaml(path)
    values = {**values, **(overrides or {})}
    values = {**values, "tasks": _named(values.get("tasks")), "strategies": _rows(values.get("strategies"))}
    try:
        config = StreamConfig.model_validate(values)
    except ValidationError as error:
        raise ConfigError(_message(path, [_tell(item, lines) for item in error.errors()])) from None
    problems = find_problems(config)
    if problems:
        raise ConfigError(_message(path, problems))
    _try_training(config, path)
    return config


def find_problems(config: StreamConfig) -> list[str]:
    """Everything that cannot work, in plain words; empty if there is nothing."""
    return [*_bad_tasks(config), *_bad_orders(config), *_bad_rows(config)]


def _bad_tasks(config: StreamConfig) -> list[str]:
    names = config.task_names
    found = [f"tasks: {name} is there {names.count(name)} times" for name in _twice(names)]
    if len(names) < 2:
        found.append("tasks: one task is no stream; give two or more, or use `neurolora train`")
    data = [repr(sorted({**config.data, **task.data}.items(), key=str)) for task in config.tasks]
    same = [task.name for task, one in zip(config.tasks, data, strict=True) if data.count(one) > 1]
    if same and not _twice(names):
        found.append(f"tasks: {', '.join(same)} are one task under several names: the same data")
    bad = [name for name in names if not _is_folder_name(name)]
    return found + [f"tasks: {name!r} cannot name a folder; use letters, digits, - _ ." for name in bad]


def _bad_orders(config: StreamConfig) -> list[str]:
    if config.orders == "all":
        count = len(config.all_orders) if len(config.tasks) < 6 else MOST_ORDERS + 1
        do = f"orders: all of {len(config.tasks)} tasks are too many; list those you want"
        return [do] if count > MOST_ORDERS else []
    found = []
    for number, order in enumerate(config.orders or []):
        if sorted(order) != sorted(config.task_names):
            wanted = ", ".join(config.task_names)
            found.append(f"orders.{number}: {', '.join(order)}; each of {wanted} is needed once")
    return found


def _bad_rows(config: StreamConfig) -> list[str]:
    found = []
    for number, entry in enumerate(config.strategies):
        where = f"strategies.{number}"
        if entry.strategy not in STRATEGIES:
            text = f"there is no {entry.strategy!r}{nearest(entry.strategy, STRATEGIES)}"
            found.append(f"{where}: {text}; known are {', '.join(STRATEGIES)}")
            continue
        method = method_of(config, entry)
        if method not in entry.row.methods:
            works = ", ".join(entry.row.methods)
            found.append(f"{where}: {entry.strategy} works with {works}, not with {method}")
        try:
            entry.row.knobs.model_validate(entry.settings)
        except ValidationError as error:
            found += [_tell(item, {}, f"{where}.settings") for item in error.errors()]
        if not _is_folder_name(label_of(config, entry)):
            found.append(f"{where}.label: {entry.label!r} cannot name a folder; use letters, digits, - _ . +")
    if not found:
        found += [
            f"strategies: the label {label} is there twice; give labels" for label in _twice(config.labels())
        ]
    return found


def _try_training(config: StreamConfig, path: Path | str) -> None:
    """Build every kind of training config once. Raises ConfigError that tells which."""
    for entry, task in itertools.product(config.strategies, config.task_names):
        try:
            config.training(entry, task, seed=0, place=0, output_dir=Path("unused"))
        except ConfigError as error:
            asked = f"{path}: training {label_of(config, entry)} on {task}"
            raise ConfigError(f"{asked}: {str(error).replace(' (flag)', '')}") from None


def _named(tasks: Any) -> Any:
    """A bare word is a task under its own name; other keys than name and metric are its data's."""
    if not isinstance(tasks, list):
        return tasks
    return [_task(task) if isinstance(task, str | dict) else task for task in tasks]


def _task(entry: str | dict[str, Any]) -> dict[str, Any]:
    values: dict[str, Any] = {"task": entry} if isinstance(entry, str) else dict(entry)
    name = values.pop("name", values.get("task", ""))
    metric = {"metric": values.pop("metric")} if "metric" in values else {}
    own = values.pop("data", {})
    return {"name": name, **metric, "data": {**own, **values} if isinstance(own, dict) else own}


def _rows(strategies: Any) -> Any:
    if not isinstance(strategies, list):
        return strategies
    return [{"strategy": entry} if isinstance(entry, str) else entry for entry in strategies]


def _twice(names: list[str]) -> list[str]:
    return sorted({name for name in names if names.count(name) > 1})


def _is_folder_name(name: str) -> bool:
    return bool(name) and name[0] != "." and all(letter.isalnum() or letter in "-_.+" for letter in name)


def _tell(item: Any, lines: dict[str, int], before: str = "") -> str:
    place = ".".join([*([before] if before else []), *map(str, item["loc"])])
    where = f"{place} (line {lines[place]})" if place in lines else place
    if item["type"] == "missing":
        return f"{where}: needed, but not given"
    if item["type"] == "extra_forbidden":
        return f"{where}: unknown key"
    return f"{where}: {item['msg']}, found {item['input']!r}"


def _message(path: Path | str, problems: list[str]) -> str:
    listed = "".join(f"\n  - {problem}" for problem in problems)
    count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    return explain(f"reading the stream {path}", count + listed, "Correct each of them")
