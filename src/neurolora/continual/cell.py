"""One cell of a comparison: one strategy, one order, one seed; every task learned and scored in turn.

Room: continual; called by `run`. A cell is a chain of training runs, each in a run folder of its own, so that
it resumes as they do. What passes from a task to the next: the published adapter and the strategy's memory,
both as files, and nothing else: no optimizer state, no random state. So it does not matter to a task whether
the one before was learned in this process.

    tasks/0-NAME/run/       the training run
    tasks/0-NAME/adapter/   the adapter for all tasks so far, where the run's own is not that
    tasks/0-NAME/use.json   which ranks each task so far uses then
    memory/after-0/         what the strategy keeps; the newest alone
    state.json              R so far
"""

from __future__ import annotations

import itertools
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from neurolora.continual.config import StrategyEntry, StreamConfig, label_of, method_of
from neurolora.continual.learner import Learner, training_data
from neurolora.continual.memory import Memory
from neurolora.continual.processes import processes
from neurolora.continual.scoring import Scorer, device_of, load_as_trained
from neurolora.continual.state import CellState, load_state
from neurolora.continual.strategies import ROUTED
from neurolora.continual.use import USE, UseRows, measure_use, write_use
from neurolora.continual.weights import go_on_from, put_beside, take_over
from neurolora.errors import DataError, explain
from neurolora.evaluation.loading import placed
from neurolora.files import clear_unfinished
from neurolora.training import setup
from neurolora.training.checkpoints import list_checkpoints
from neurolora.training.config import TrainingConfig
from neurolora.training.peak import PeakMemory
from neurolora.training.run import RunHooks, run_training

Notify = Callable[[str], None]


@dataclass(frozen=True)
class Cell:
    """Which cell, and its folder."""

    config: StreamConfig
    entry: StrategyEntry
    order: list[str]
    seed: int
    folder: Path
    progress: bool = False

    @property
    def name(self) -> str:
        """For messages: the row of the comparison, the order, the seed."""
        return f"{self.folder.parent.name}, {self.folder.name}"

    @property
    def stages(self) -> list[list[str]]:
        """The tasks that are learned at once, one list after another."""
        return [self.order] if self.entry.row.scope == "together" else [[task] for task in self.order]

    def task_folder(self, stage: int) -> Path:
        """Where a stage's run and adapter lie."""
        return self.folder / "tasks" / f"{stage}-{'+'.join(self.stages[stage])[:60]}"

    def training(self, stage: int, task: str | None = None) -> TrainingConfig:
        """The training config of a stage, as the file has it; of all tasks at once with the steps of all."""
        folder, tasks = self.task_folder(stage) / "run", self.stages[stage]
        name = tasks[0] if task is None else task
        found = self.config.training(self.entry, name, seed=self.seed, place=stage, output_dir=folder)
        steps = found.train.max_steps
        if len(tasks) == 1 or steps < 0:
            return found
        train = found.train.model_copy(update={"max_steps": steps * len(tasks)})
        return found.model_copy(update={"train": train})

    def adapter(self, stage: int) -> Path:
        """The published adapter after a stage: the run's own, unless it stands beside earlier ones."""
        is_one_of_many = stage > 0 and self.entry.row.carry == "frozen"
        return self.task_folder(stage) / ("adapter" if is_one_of_many else "run")

    def published(self, stage: int) -> Path:
        """The same, for those who are about to read it. Raises DataError if it is not there, or not whole."""
        folder = self.adapter(stage)
        found = "" if any(folder.glob("*.safetensors")) else f"there are no weights in {folder}"
        for path in folder.glob("*.safetensors"):
            try:
                safe_open(path, "pt")  # reads the table of tensors alone, which must fit the file's length
            except SafetensorError as error:
                found = f"{path} is damaged ({error})"
        if found:
            do = f"Put them back, or remove {self.folder} to run the cell anew"
            raise DataError(explain(f"going on with {self.name}", found, do))
        return folder

    def past(self, stage: int) -> Path | None:
        """The adapter that a stage builds on. Raises DataError if it is not there."""
        return None if stage == 0 or self.entry.row.carry == "nothing" else self.published(stage - 1)

    def memory(self, stage: int) -> Path:
        """What was kept after a stage."""
        return self.folder / "memory" / f"after-{stage}"


def run_cell(cell: Cell, scorer: Scorer, notify: Notify) -> bool:
    """Learn and score what is not done yet; whether there was anything. Raises what training and evaluation
    raise.

    In a distributed run all processes train; the main one alone publishes, scores and writes.
    """
    is_main, worked, rows = processes(cell.config).is_main_process, False, UseRows()
    if is_main:
        cell.folder.mkdir(parents=True, exist_ok=True)
        clear_unfinished(cell.folder)
    for stage, tasks in enumerate(cell.stages):
        processes(cell.config).wait_for_everyone()
        state = load_state(cell.folder, cell.order, _silent if stage else notify)
        if state.learned <= stage:
            worked = True
            notify(f"{cell.name}: learning {', '.join(tasks)} ({stage + 1} of {len(cell.stages)})")
            started, learner = time.perf_counter(), _learner(cell, stage)
            summary = _train(cell, stage, learner)
            if is_main:
                state.add_task(_settle(cell, stage, learner, summary, started))
                state.save(cell.folder)
        if is_main:
            worked = _measure(cell, stage, state, scorer, rows, notify) or worked
            _clean(cell, stage)  # last: until a score is saved, the state before this one needs the memory
    return worked


def _silent(text: str) -> None:
    """Of a damaged state it is enough to hear once."""


def _settle(
    cell: Cell, stage: int, learner: Learner, summary: dict[str, Any], started: float
) -> dict[str, Any]:
    """Publish the adapter, keep what the next stage needs; what the stage has cost.

    peak_bytes: by how much the process has grown at most, while it trained or in what came after.
    """
    trained, peak = time.perf_counter(), PeakMemory()
    _publish(cell, stage, learner)
    memory = _remember(cell, stage, learner)
    memory.save(cell.memory(stage))
    return {
        "train_seconds": summary["seconds"],
        "seconds": round(time.perf_counter() - started, 3),
        "after_seconds": round(time.perf_counter() - trained, 3),
        "memory_bytes": memory.nbytes,
        "adapter_bytes": sum(path.stat().st_size for path in cell.adapter(stage).glob("*.safetensors")),
        "peak_bytes": _greater(summary.get("peak_bytes"), peak.bytes),
        "trainable_parameters": summary["trainable_parameters"],
    }


def _greater(one: int | None, other: int | None) -> int | None:
    """The greater of two, where it is known."""
    known = [value for value in (one, other) if value is not None]
    return max(known) if known else None


def _learner(cell: Cell, stage: int) -> Learner:
    """The strategy with what it kept of the tasks before. Raises DataError if that is damaged or gone."""
    row = cell.entry.row
    memory = Memory.load(cell.memory(stage - 1)) if stage and row.scope == "stream" else Memory()
    return row.learner(row.knobs.model_validate(cell.entry.settings), memory)


def _train(cell: Cell, stage: int, learner: Learner) -> dict[str, Any]:
    """The summary of the stage's run, gone on with where it was stopped; a finished one is not run again."""
    hooks = RunHooks(
        before_training=lambda model, tokenizer: _begin(cell, stage, model),
        extra_losses=learner.losses,
        train_rows=(lambda tokenizer: _all_rows(cell, stage, tokenizer))
        if len(cell.stages[stage]) > 1
        else None,
    )
    config = cell.training(stage)
    return run_training(config, resume="auto", progress=cell.progress, hooks=hooks).summary


def _begin(cell: Cell, stage: int, model: Any) -> None:
    """Bring in what earlier tasks left."""
    past = cell.past(stage)
    if past is None:
        return
    if not hasattr(model, "peft_config"):
        take_over(model, past)
        return
    {"weights": go_on_from, "frozen": put_beside}[cell.entry.row.carry](model, past)


def _publish(cell: Cell, stage: int, learner: Learner) -> None:
    """The adapter for all tasks so far, where the run's own is not that."""
    folder = cell.task_folder(stage)
    learner.publish(folder / "run", cell.past(stage), folder / "adapter")


def _all_rows(cell: Cell, stage: int, tokenizer: Any) -> setup.Rows:
    """The training rows of all tasks of a stage, one after another; the trainer shuffles."""
    parts = [setup.load_rows(cell.training(stage, task), tokenizer, "train") for task in cell.stages[stage]]
    return setup.join_rows(parts)


def _remember(cell: Cell, stage: int, learner: Learner) -> Memory:
    """What the strategy keeps; nothing after the last task, which nothing follows.

    It is measured on the run's files, never on the model that was trained: that one may still round its
    inputs (bf16), and a process that goes on after a kill does not have it.
    """
    if cell.entry.row.scope != "stream" or stage + 1 == len(cell.stages) or _keeps_nothing(learner):
        return Memory()
    config = cell.training(stage)
    model, tokenizer = setup.load_finished(config, is_trainable=True)
    model = placed(model, device_of(config))
    return learner.remember(model, training_data(config, model, tokenizer), stage)


def _keeps_nothing(learner: Learner) -> bool:
    """So that no model is loaded for nothing. An adapter of its own for each task is kept as an adapter."""
    return type(learner).remember is Learner.remember


def _clean(cell: Cell, stage: int) -> None:
    """What nothing needs any more: this stage's checkpoints, the memory of the one before."""
    for checkpoint in list_checkpoints(cell.task_folder(stage) / "run"):
        shutil.rmtree(checkpoint)
    if stage:
        shutil.rmtree(cell.memory(stage - 1), ignore_errors=True)


def _measure(cell: Cell, stage: int, state: CellState, scorer: Scorer, rows: UseRows, notify: Notify) -> bool:
    """What is missing of this row of R, and which ranks each task so far uses; whether anything was missing.

    The adapter is loaded once for both, and only if there is something to do.
    """
    missing = [task for task in _scored_after(cell, stage) if task not in state.scores[stage]]
    wants_use = _has_use(cell) and not (cell.task_folder(stage) / USE).is_file()
    if not missing and not wants_use:
        return False
    if missing:
        notify(f"{cell.name}: scoring {', '.join(missing)}")
    loaded = load_as_trained(cell.published(stage), cell.training(stage))
    for task, score in scorer.score(loaded, missing):
        state.add_score(stage, task, score)
        state.save(cell.folder)
    if wants_use:
        so_far = {task: cell.training(place) for place, task in enumerate(cell.order[: stage + 1])}
        write_use(cell.task_folder(stage), measure_use(loaded, so_far, rows))
    return True


def _scored_after(cell: Cell, stage: int) -> list[str]:
    """The tasks of this row of R."""
    if cell.entry.row.scope == "alone":
        return cell.stages[stage]
    if not cell.config.eval.unseen and cell.entry.row.scope == "stream":
        return cell.order[: stage + 1]
    return cell.order


def _has_use(cell: Cell) -> bool:
    """Whether there are ranks to choose from, and tasks whose choices may drift."""
    return cell.entry.row.scope == "stream" and method_of(cell.config, cell.entry) in ROUTED


def cells(config: StreamConfig, folder: Path, progress: bool = False) -> Iterator[Cell]:
    """All cells; the bounds, to which the order of tasks means nothing, go through the first alone."""
    orders = list(enumerate(config.all_orders))
    for entry in config.strategies:
        own = orders if entry.row.scope == "stream" else orders[:1]
        for (number, order), seed in itertools.product(own, config.seeds):
            place = folder / "cells" / label_of(config, entry) / f"order-{number}-seed-{seed}"
            yield Cell(config, entry, order, seed, place, progress)
