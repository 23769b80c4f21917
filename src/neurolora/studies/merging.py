"""Studies of merging (Table 2): the adapters of a seed, one for each task, merged and scored on all tasks.

Room: studies. The scale of each merge is chosen on validation rows, with the adapters of the search's seeds.
"""

from __future__ import annotations

import itertools
from functools import partial
from statistics import mean

from neurolora.studies.book import Book
from neurolora.studies.cells import Cell
from neurolora.studies.search import Grid, Wanted, score_of, search_values
from neurolora.studies.single import Rates, base_scores, find_rates, score_on, tested, value_of
from neurolora.studies.spec import Merge, Row, Scale, Study
from neurolora.studies.table import AVERAGE, Table, mean_costs, training_costs

ALONE, KEPT, GAINED = "alone", "kept", "gained"


def run_merging(study: Study, scale: Scale, book: Book) -> Table:
    """Alone, merged, and what is kept in percent: of the score alone, and of what training had gained."""
    columns = {ALONE: ALONE}
    for merge, way in study.merges.items():
        columns |= {merge: way.name, f"{merge}_{KEPT}": f"{way.name}, % {KEPT}"}
        columns |= {f"{merge}_{GAINED}": f"{way.name}, % of the gain {KEPT}"}
    table = Table(columns)
    base = base_scores(study.tasks, scale, book, study.id)[AVERAGE]
    table.base = {ALONE: base, **dict.fromkeys(study.merges, base)}
    rates = find_rates(study.rows, study.tasks, scale, book, study.id)
    chosen = _search(study, scale, book, rates)
    grids = [grid for found in rates.values() for grid in found.values()]
    table.searches = [grid.to_dict() for grid in [*grids, *chosen.values()]]
    _fill(table, study, scale, book, rates, chosen, base)
    return table


def _fill(
    table: Table,
    study: Study,
    scale: Scale,
    book: Book,
    rates: dict[str, Rates],
    chosen: dict[tuple[str, str], Grid],
    base: float,
) -> None:
    """Every method's adapters and merges with every seed; all at once, so that no job waits for a seed's."""
    places = list(itertools.product(study.rows, scale.seeds))
    alone = {
        (label, seed, task): tested(scale, study.rows[label], task, seed, rates[label][task].best)
        for (label, seed), task in itertools.product(places, study.tasks)
    }
    found = book.run(list(alone.values()), f"{study.id}, adapters")
    merged = {}
    for (label, seed), (merge, way) in itertools.product(places, study.merges.items()):
        parents = [alone[label, seed, task].parents[0] for task in study.tasks]
        numbers = (scale.eval.limit, chosen[label, merge].best)
        merged[label, seed, merge] = _merged(study, scale, study.rows[label], way, parents, "test", *numbers)
    records = book.run(list(merged.values()), study.id)
    table.records = [*found.values(), *records.values()]
    for label, seed in places:
        own = mean(value_of(found[alone[label, seed, task].key], task) for task in study.tasks)
        table.add(label, ALONE, own)
        for merge in study.merges:
            score = score_of(records[merged[label, seed, merge].key])
            table.add(label, merge, score)
            table.add(label, f"{merge}_{KEPT}", _percent(score, own))
            table.add(label, f"{merge}_{GAINED}", _percent(score - base, own - base))
    for label, (merge, way) in itertools.product(study.rows, study.merges.items()):
        mine = [records[merged[label, seed, merge].key] for seed in scale.seeds]
        parts = {task: mean(value_of(record, task) for record in mine) for task in study.tasks}
        table.parts.setdefault(label, {})[merge] = parts
        table.notes += [f"{study.rows[label].name}, {way.name}: {note}" for note in mine[0].get("notes", ())]
    for label in study.rows:
        mine = [found[cell.key] for (row, _, _), cell in alone.items() if row == label]
        merges = [records[cell.key] for (row, _, _), cell in merged.items() if row == label]
        table.costs[label] = training_costs(mine)
        if one := mean_costs(merges):
            table.costs[label]["merge_seconds"] = one["seconds"]


def _percent(part: float, whole: float) -> float:
    """Of nothing, nothing."""
    return 100 * part / whole if whole > 0 else 0.0


def _search(study: Study, scale: Scale, book: Book, rates: dict[str, Rates]) -> dict[tuple[str, str], Grid]:
    """For each method and way to merge, the scale of the merged adapter."""
    pairs = list(itertools.product(study.rows, study.merges))
    wanted = []
    for label, merge in pairs:
        best = [rates[label][task] for task in study.tasks]
        parents = {
            seed: [grid.cells[grid.best][number].parents[0] for grid in best]
            for number, seed in enumerate(scale.search.seeds)
        }
        row, way = study.rows[label], study.merges[merge]
        make = partial(_validated, study, scale, row, way, parents)
        wanted.append(Wanted(f"{row.name}, {way.name}", make, way.lambdas))
    grids = search_values(book, wanted, scale.search, f"{study.id}, scales of merges")
    return dict(zip(pairs, grids, strict=True))


def _validated(
    study: Study,
    scale: Scale,
    row: Row,
    way: Merge,
    parents: dict[int, list[Cell]],
    lambda_: float,
    seed: int,
) -> Cell:
    """The validation score of a merge of the adapters of one of the search's seeds."""
    return _merged(study, scale, row, way, parents[seed], "validation", scale.search.limit, lambda_)


def _merged(
    study: Study,
    scale: Scale,
    row: Row,
    way: Merge,
    parents: list[Cell],
    split: str,
    limit: int | None,
    lambda_: float,
) -> Cell:
    settings = {"method": way.method, "lambda_": lambda_}
    settings |= {"density": way.density} if way.density is not None else {}
    routed = row.adapter["method"] in ("neurolora", "flylora")
    settings |= {"gates": way.gates} if routed and way.gates != "average" else {}
    return Cell(
        kind="merge",
        name=f"{way.name} of {row.name}, scale {lambda_:g}",
        work=settings,
        scores=tuple(score_on(scale, task, split, limit) for task in study.tasks),
        parents=tuple(parents),
    )
