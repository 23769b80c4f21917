"""Studies of streams (Table 3): tasks learned one after another by each strategy, seed by seed.

Room: studies. A strategy trains a method at the one learning rate that is best for it on average over the
tasks (`search.search_together`), and its own settings are chosen on validation rows, with the search's seeds.
"""

from __future__ import annotations

import itertools
from functools import partial
from typing import Any

from neurolora.studies.book import Book
from neurolora.studies.cells import Cell
from neurolora.studies.search import Grid, Wanted, search_together, search_values
from neurolora.studies.single import base_scores, find_rates, train_of
from neurolora.studies.spec import Scale, StreamRow, Study
from neurolora.studies.table import AVERAGE, Table, mean_costs
from neurolora.studies.work import DIVERGED

#: Columns of the table that are metrics of the whole stream.
METRICS = {AVERAGE: "average_accuracy", "bwt": "backward_transfer", "learning": "learning_accuracy"}
TITLES = {AVERAGE: AVERAGE, "bwt": "BWT", "learning": "when learned"}


def run_streams(study: Study, scale: Scale, book: Book) -> Table:
    """The last scores, their average, BWT (Eq. 9) and the mean score of a task when it was learned."""
    table = Table({task: scale.tasks[task].name for task in study.tasks} | TITLES)
    grids = find_rates(study.trained, study.tasks, scale, book, study.id)
    families = {f"{study.methods[of].name}, all tasks": list(found.values()) for of, found in grids.items()}
    common = search_together(book, families, scale.search, f"{study.id}, common rates")
    tried = itertools.chain.from_iterable(families.values())
    table.searches = [grid.to_dict() for grid in (*tried, *common)]
    rates = {of: found.best for of, found in zip(grids, common, strict=True)}
    settings = _search(study, scale, book, rates, table)
    plan = {
        (label, seed): _stream(
            study, scale, row, rates[row.of], settings[label], seed, "test", scale.eval.limit
        )
        for (label, row), seed in itertools.product(study.stream_rows.items(), scale.seeds)
    }
    found = book.run(list(plan.values()), study.id)
    table.records = list(found.values())
    table.base = base_scores(study.tasks, scale, book, study.id)
    lost = {label for (label, _), cell in plan.items() if DIVERGED in found[cell.key]}  # no BWT: no row
    for (label, _), cell in plan.items():
        if label in lost:
            continue
        scores = found[cell.key]["scores"]
        for task in study.tasks:
            table.add(label, task, scores[task]["value"])
        for column, metric in METRICS.items():
            table.add(label, column, scores[metric]["value"])
    for label in study.stream_rows:
        records = [found[cell.key] for (row, _), cell in plan.items() if row == label]
        table.costs[label] = mean_costs(records)
    return table


def _search(
    study: Study, scale: Scale, book: Book, rates: dict[str, float], table: Table
) -> dict[str, dict[str, Any]]:
    """Each strategy's settings: those that the study gives, and the searched ones."""
    wanted: list[Wanted] = []
    searched: list[tuple[str, str]] = []
    for label, row in study.stream_rows.items():
        for setting, values in row.search.items():
            make = partial(_tried, study, scale, row, rates[row.of], setting)
            wanted.append(Wanted(f"{row.name}, {setting}", make, values))
            searched.append((label, setting))
    what = f"{study.id}, settings"
    grids: list[Grid] = search_values(book, wanted, scale.search, what, _average) if wanted else []
    table.searches += [grid.to_dict() for grid in grids]
    found = {label: dict(row.settings) for label, row in study.stream_rows.items()}
    for (label, setting), grid in zip(searched, grids, strict=True):
        found[label][setting] = grid.best
    return found


def _average(record: dict[str, Any]) -> float:
    return float(record["scores"][METRICS[AVERAGE]]["value"])


def _tried(
    study: Study, scale: Scale, row: StreamRow, rate: float, setting: str, value: float, seed: int
) -> Cell:
    settings = {**row.settings, setting: value}
    return _stream(study, scale, row, rate, settings, seed, "validation", scale.search.limit)


def _stream(
    study: Study,
    scale: Scale,
    row: StreamRow,
    rate: float,
    settings: dict[str, Any],
    seed: int,
    split: str,
    limit: int | None,
) -> Cell:
    """One strategy, one seed, as `neurolora continual` would be asked for it."""
    method = study.methods[row.of]
    tasks = [
        {"name": task, "metric": scale.tasks[task].metric, "data": scale.tasks[task].data}
        for task in study.tasks
    ]
    return Cell(
        kind="stream",
        name=f"{row.name}, seed {seed}",
        work={
            "model": scale.model,
            "tasks": tasks,
            "data": scale.data,
            "train": train_of(scale, method, rate),
            "output": {"save_strategy": "no", **scale.output},
            "strategies": [
                {"strategy": row.strategy, "label": "row", "adapter": method.adapter, "settings": settings}
            ],
            "seeds": [seed],
            "eval": {
                "limit": limit,
                "batch_size": scale.eval.batch_size,
                "split": split,
                "unseen": False,
                "base": False,
            },
        },
        processes=scale.processes,
    )
