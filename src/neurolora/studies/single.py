"""Studies of single tasks (Tables 1 and 4, the curves of k and lambda): rows trained on tasks, seed by seed.

Room: studies. `merging.py` and `streams.py` take their adapters and learning rates from here.
"""

from __future__ import annotations

import itertools
from functools import partial
from statistics import mean
from typing import TYPE_CHECKING, Any

from neurolora.studies.book import Book
from neurolora.studies.cells import Cell, Score
from neurolora.studies.search import Grid, Wanted, search_rates
from neurolora.studies.spec import Row, Scale, Study
from neurolora.studies.table import AVERAGE, Table, training_costs

if TYPE_CHECKING:
    from neurolora.training import TrainingConfig

#: Methods whose A follows from a seed of its own; it is the run's, so that seeds differ in A too.
SEEDED = ("flylora", "neurolora", "mole")
Rates = dict[str, Grid]  # task -> the rates that were tried


def run_single(study: Study, scale: Scale, book: Book) -> Table:
    """Every row on every task with every seed, at the learning rates that validation chose."""
    table = Table({task: scale.tasks[task].name for task in study.tasks})
    if len(study.tasks) > 1:
        table.columns[AVERAGE] = AVERAGE
    grids = find_rates(study.rows, study.tasks, scale, book, study.id)
    table.searches = [grid.to_dict() for rates in grids.values() for grid in rates.values()]
    table.base = base_scores(study.tasks, scale, book, study.id)
    plan = {
        (label, task, seed): tested(scale, study.rows[label], task, seed, grids[label][task].best)
        for label, seed, task in itertools.product(study.rows, scale.seeds, study.tasks)
    }
    found = book.run(list(plan.values()), study.id)
    table.records = list(found.values())
    for label, seed in itertools.product(study.rows, scale.seeds):
        values = [value_of(found[plan[label, task, seed].key], task) for task in study.tasks]
        for task, value in zip(study.tasks, values, strict=True):
            table.add(label, task, value)
        if AVERAGE in table.columns:
            table.add(label, AVERAGE, mean(values))
    for label in study.rows:
        records = [found[cell.key] for (row, _, _), cell in plan.items() if row == label]
        table.costs[label] = training_costs(records)
    return table


def base_scores(tasks: list[str], scale: Scale, book: Book, study: str) -> dict[str, float]:
    """What the model scores on the test rows before any training: by task, and on average."""
    cells = {task: _untrained(scale, task) for task in tasks}
    found = book.run(list(cells.values()), f"{study}, before training")
    scores = {task: value_of(found[cell.key], task) for task, cell in cells.items()}
    return {**scores, AVERAGE: mean(scores.values())}


def _untrained(scale: Scale, task: str) -> Cell:
    entry = scale.tasks[task]
    return Cell(
        kind="base",
        name=f"{entry.name}, before training",
        work={"model": scale.model, "data": {**scale.data, **entry.data}, "train": scale.train},
        scores=(score_on(scale, task, "test", scale.eval.limit),),
    )


def find_rates(
    rows: dict[str, Row], tasks: list[str], scale: Scale, book: Book, study: str
) -> dict[str, Rates]:
    """For each row and task the learning rates that were tried on validation rows."""
    pairs = list(itertools.product(rows, tasks))
    wanted = []
    for label, task in pairs:
        row = rows[label]
        name, start = f"{row.name}, {scale.tasks[task].name}", scale.rates[row.adapter["method"]]
        wanted.append(Wanted(name, partial(_validated, scale, row, task), [start]))
    grids = search_rates(book, wanted, scale.search, f"{study}, learning rates")
    found: dict[str, Rates] = {label: {} for label in rows}
    for (label, task), grid in zip(pairs, grids, strict=True):
        found[label][task] = grid
    return found


def _validated(scale: Scale, row: Row, task: str, rate: float, seed: int) -> Cell:
    """The validation score of a run with a seed of the search."""
    run = trained(scale, row, task, seed, rate)
    return _scored(scale, run, task, "validation", scale.search.limit)


def tested(scale: Scale, row: Row, task: str, seed: int, rate: float) -> Cell:
    """The test score of a run that counts."""
    return _scored(scale, trained(scale, row, task, seed, rate), task, "test", scale.eval.limit)


def _scored(scale: Scale, run: Cell, task: str, split: str, limit: int | None) -> Cell:
    return Cell("score", run.name, {}, (score_on(scale, task, split, limit),), (run,))


def trained(scale: Scale, row: Row, task: str, seed: int, rate: float) -> Cell:
    """A training run."""
    return Cell(
        kind="train",
        name=f"{row.name} on {scale.tasks[task].name}, rate {rate:g}, seed {seed}",
        work=_work(scale, row, task, seed, rate),
        processes=scale.processes,
    )


def _work(scale: Scale, row: Row, task: str, seed: int, rate: float) -> dict[str, Any]:
    """The sections of a training config, but for the folder."""
    return {
        "model": scale.model,
        "adapter": adapter_of(row, seed),
        "data": {**scale.data, **scale.tasks[task].data},
        "train": {"eval_strategy": "no", **train_of(scale, row, rate), "seed": seed},
        "output": scale.output,
    }


def any_training(scale: Scale, row: Row, task: str) -> TrainingConfig:
    """The training config of a row on a task, for what depends on neither rate, seed nor folder.

    Raises ConfigError for settings that cannot work.
    """
    from neurolora.training import load_config

    work = _work(scale, row, task, scale.seeds[0], 1e-3)
    return load_config(None, {**work, "output": {**work["output"], "output_dir": "unused"}})


def adapter_of(row: Row, seed: int) -> dict[str, Any]:
    """The adapter section of a run with this seed."""
    seeded = {"projection_seed": seed} if row.adapter["method"] in SEEDED else {}
    return {**seeded, **row.adapter}


def train_of(scale: Scale, row: Row, rate: float) -> dict[str, Any]:
    """The train section at a learning rate; a gate's follows from it, a learned router's is the same."""
    gate_rate = scale.gate_rate if row.gate_rate is None else row.gate_rate
    share = {"neurolora": gate_rate, "mole": 1.0}.get(row.adapter["method"])
    gate = {} if share is None else {"gate_learning_rate": float(f"{rate * share:.6g}")}
    return {**scale.train, **row.train, "learning_rate": rate, **gate}


def score_on(scale: Scale, task: str, split: str, limit: int | None) -> Score:
    """A task's score, under the task's role."""
    entry = scale.tasks[task]
    return Score(task, {**scale.data, **entry.data}, entry.metric, split, limit, scale.eval.batch_size)


def value_of(record: dict[str, Any], column: str) -> float:
    """A score of a record."""
    return float(record["scores"][column]["value"])
