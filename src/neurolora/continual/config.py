"""The config of a stream: tasks, orders, seeds, strategies, and the training config of every run in it.

Room: continual. Frozen; built by `stream_file.load_stream`, which reads and checks it.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from neurolora.continual.strategies import ROUTED, STRATEGIES, Strategy
from neurolora.training.config import TrainingConfig, load_config

SEED_STEP = 1000  # between the seeds of a stream's tasks
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
    base: bool = Field(True, description="score the model that has learned nothing, for forward transfer")


class StreamConfig(_Section):
    """The whole file. model, adapter, data, train: sections of a training config, common to all runs."""

    model: Settings
    tasks: list[TaskEntry] = Field(min_length=1)
    strategies: list[StrategyEntry] = Field(min_length=1)
    orders: Annotated[list[list[str]], Field(min_length=1)] | Literal["all"] | None = None
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
        adapter = adapter_of(self, entry)
        first = adapter.get("projection_seed", seed)
        if adapter["method"] in ROUTED and isinstance(first, int):  # what is no number, its section refuses
            adapter["projection_seed"] = first + (SEED_STEP * place if entry.row.carry == "frozen" else 0)
        values = {
            "model": self.model,
            "adapter": adapter,
            "data": {**self.data, **self.task(task).data},
            "train": {"eval_strategy": "no", **self.train, **entry.train, "seed": seed + SEED_STEP * place},
            "output": {"save_total_limit": 1, **self.output, "output_dir": str(output_dir)},
        }
        return load_config(None, values)

    def any_training(self, entry: StrategyEntry, task: str) -> TrainingConfig:
        """The training config of a row on a task, for what depends on no seed, place or folder."""
        return self.training(entry, task, seed=self.seeds[0], place=0, output_dir=Path("unused"))

    def resolved(self) -> dict[str, Any]:
        """Every setting with its value, as plain data."""
        return self.model_dump(mode="json")


def adapter_of(config: StreamConfig, entry: StrategyEntry) -> dict[str, Any]:
    """The adapter section of a row: its own settings over the common ones."""
    return {"method": entry.row.default_method, **config.adapter, **entry.adapter}


def method_of(config: StreamConfig, entry: StrategyEntry) -> str:
    """The adapter method of a row."""
    return str(adapter_of(config, entry)["method"])


def label_of(config: StreamConfig, entry: StrategyEntry) -> str:
    """A row's own label, or `strategy-method`."""
    return entry.label or f"{entry.strategy}-{method_of(config, entry)}"
