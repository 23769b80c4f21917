"""The tables of a comparison's page: what each strategy keeps, what it costs, what is not complete.

Room: report. Called by `continual.py`; pure functions of the facts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from neurolora.continual.config import label_of
from neurolora.continual.results import RESULTS, trained_as
from neurolora.evaluation.task_scores import METRICS
from neurolora.report.continual_facts import CellFacts, StreamFacts
from neurolora.report.page import number

MOST_LISTED = 12
STRATEGY_COLUMNS = ("label", "what it does", "passes on to the next task", "grows with tasks",
                    "task identity at test time", "source")  # fmt: skip
CARRIED = {"weights": "the weights, trained on", "frozen": "the adapter, frozen", "nothing": "nothing"}
TASK_COLUMNS = ("task", "score, in percent", "rows", "base model")


def strategy_rows(facts: StreamFacts) -> list[list[str]]:
    """One line a label, in the order of `STRATEGY_COLUMNS`."""
    rows = []
    for label in facts.labels:
        row = facts.entries[label].row
        kept = "" if row.stores.startswith("nothing") else f"; {row.stores}"
        rows.append(
            [
                label,
                f"{row.name} with {facts.method(label)}: {row.about}",
                CARRIED[row.carry] + kept,
                "yes" if row.grows else "no",
                "needed" if row.needs_task else "not needed",
                row.source,
            ]
        )
    return rows


def task_rows(facts: StreamFacts) -> list[list[str]]:
    """One line a task: what is measured, on how many rows, and what the base model has."""
    rows = []
    for task in facts.config.tasks:
        score = facts.summary["before"].get(task.name, {})
        base = f"{number(score.get('value'), 3)} ± {number(score.get('stderr'), 2)}"
        rows.append([task.name, METRICS[task.metric], number(score.get("n")), base])
    return rows


def interval_note(facts: StreamFacts) -> str:
    """What the intervals of the summary mean, and over how many cells."""
    orders, seeds = len(facts.config.all_orders), len(facts.config.seeds)
    cells = orders * seeds
    told = f"{count(orders, 'order')} × {count(seeds, 'seed')} = {count(cells, 'cell')} for each strategy"
    bounds = f" ({count(seeds, 'cell')} for a bound, to which the order means nothing)" if orders > 1 else ""
    if seeds == 1:
        return f"{told}: there is nothing to take an interval over, and a difference may be chance."
    return (
        f"Mean over the complete cells, {told}{bounds}, ± half of the 95% interval over seeds (Student's t): "
        f"the orders of a seed share its rows and starts, so of each seed the mean over its orders counts. "
        f"The rows scored are the same in all cells: that these are a sample is not in the interval. "
        f"{RESULTS} also has percentile bootstrap intervals over seeds, which are too narrow for a handful."
    )


def count(many: int, what: str) -> str:
    """`1 task`, `2 tasks`, `2 strategies`."""
    plural = f"{what[:-1]}ies" if what.endswith("y") else f"{what}s"
    return f"{many} {what if many == 1 else plural}"


def incomplete(facts: StreamFacts) -> list[str]:
    """A line for each cell that is not complete, and for each label with cells to come; not too many."""
    lines = [
        f"{cell.cell.name}: {len(cell.costs)} of {len(cell.cell.stages)} trainings done"
        + ("" if len(cell.costs) < len(cell.cell.stages) else ", not all tasks scored")
        for cell in facts.cells
        if not cell.complete
    ]
    waiting = Counter(label_of(facts.config, cell.entry) for cell in facts.waiting)
    lines += [f"{label}: {count(many, 'cell')} not in the results yet" for label, many in waiting.items()]
    if len(lines) <= MOST_LISTED:
        return lines
    return [*lines[:MOST_LISTED], f"and {len(lines) - MOST_LISTED} more"]


@dataclass(frozen=True)
class Cost:
    """One column of costs: its title, where it is in a task's costs, how tasks add up, how it is spelled."""

    title: str
    key: str
    fold: Callable[[Sequence[float]], float]
    spell: Callable[[float], str]


def spell_bytes(size: float) -> str:
    """1200000 -> `1.2 MB`."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= factor:
            return f"{size / factor:.3g} {unit}"
    return f"{size:.0f} B"


COSTS = (
    Cost("training, s", "train_seconds", sum, lambda value: number(value, 3)),
    Cost("after training, s", "after_seconds", sum, lambda value: number(value, 3)),
    Cost("memory in training", "peak_bytes", max, spell_bytes),
    Cost("kept beside the adapter", "memory_bytes", max, spell_bytes),
    Cost("adapter", "adapter_bytes", lambda values: values[-1], spell_bytes),
    Cost("trainable parameters", "trainable_parameters", lambda values: values[-1], lambda v: f"{v:,.0f}"),
)
COST_COLUMNS = ("strategy", *(cost.title for cost in COSTS))
COST_NOTE = (
    "Means over complete cells. Seconds are summed over the tasks, without scoring, which for every strategy "
    "takes T times as long after T tasks; of a task that was stopped those of its last process count. Memory "
    "is by how much a process has grown at most, for one of the tasks; what is kept beside the adapter is "
    "the most between two tasks; adapter and parameters are those of the last task, for “alone” the adapters "
    "of all tasks together. In brackets: times “sequential” with the same adapter, trained alike."
)


def cost_of(cell: CellFacts, cost: Cost) -> float | None:
    """One cost of a whole cell; None if it was not recorded."""
    values = [one[cost.key] for one in cell.costs if cost.key in one]
    if not values:
        return None
    return sum(values) if (cell.scope, cost.key) == ("alone", "adapter_bytes") else cost.fold(values)


def cost_rows(facts: StreamFacts) -> list[list[str | None]]:
    """One line a label in the order of `COST_COLUMNS`; absent where no cell is complete."""
    costs = {label: _mean_costs(facts.of(label)) for label in facts.labels}
    rows: list[list[str | None]] = []
    for label in facts.labels:
        other = costs.get(_sequential(facts, label) or "", {})
        rows.append(
            [label, *(_spell(cost, costs[label].get(cost.key), other.get(cost.key)) for cost in COSTS)]
        )
    return rows


def _mean_costs(cells: Sequence[CellFacts]) -> Mapping[str, float]:
    means = {}
    for cost in COSTS:
        found = [value for cell in cells if cell.complete and (value := cost_of(cell, cost)) is not None]
        if found:
            means[cost.key] = sum(found) / len(found)
    return means


def _sequential(facts: StreamFacts, label: str) -> str | None:
    """The first label that is `sequential` and trained alike; None for that label itself."""
    own = trained_as(facts.config, facts.entries[label])
    same = [
        one
        for one in facts.labels
        if facts.entries[one].strategy == "sequential" and trained_as(facts.config, facts.entries[one]) == own
    ]
    return same[0] if same and same[0] != label else None


def _spell(cost: Cost, value: float | None, other: float | None) -> str | None:
    if value is None:
        return None
    return cost.spell(value) + (f" ({value / other:.3g}×)" if other else "")
