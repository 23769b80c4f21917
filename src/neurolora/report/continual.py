"""The page of `neurolora continual`: strategies on a stream of tasks, from the comparison's folder alone.

Room: report. Called by the command `continual`. `continual_facts.py` reads, `continual_tables.py` and
`continual_pictures.py` show, `continual_adapters.py` looks into the adapters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from neurolora.intervals import middle_and_ends
from neurolora.report.continual_adapters import column_pictures, drift_pictures, routing_section
from neurolora.report.continual_facts import CellFacts, Matrix, StreamFacts, mean_of, read_stream
from neurolora.report.continual_pictures import (
    Interval,
    LineStyle,
    accuracy_bars,
    course_picture,
    forgetting_course,
    forgetting_picture,
    line_styles,
    matrix_picture,
    numbered,
    transfer_bars,
)
from neurolora.report.continual_tables import (
    COST_COLUMNS,
    COST_NOTE,
    STRATEGY_COLUMNS,
    TASK_COLUMNS,
    cost_rows,
    count,
    incomplete,
    interval_note,
    strategy_rows,
    task_rows,
)
from neurolora.report.drawing import Picture
from neurolora.report.heatmaps import shorten
from neurolora.report.page import flatten, number, spell, write_page

PAGE = "report.html"
#: Orders of a label that are drawn; R.csv has all of them.
MOST_ORDERS = 12


def write_stream_report(folder: Path | str) -> Path:
    """Write `report.html` into the folder of a comparison, made from its files alone; its path.

    Raises DataError for a folder without readable results, OutputError if it cannot be written.
    """
    facts = read_stream(folder)
    problems = incomplete(facts)
    first, others = matrix_pictures(facts)
    environment = facts.summary.get("environment")
    environment = environment if isinstance(environment, dict) else {}
    size = f"{count(len(facts.labels), 'strategy')} on {count(len(facts.tasks), 'task')}"
    values = {
        "title": f"{size}, one after another",
        "subtitle": f"Base model {spell(facts.config.model.get('model_name_or_path'))}",
        "facts": fact_rows(facts),
        "summary": {"columns": summary_columns(facts), "rows": facts.table[1], "note": interval_note(facts)},
        "tasks": {"columns": TASK_COLUMNS, "rows": task_rows(facts)},
        "bars": bar_pictures(facts),
        "orders": order_rows(facts),
        "matrices": first,
        "more_matrices": others,
        "courses": course_section(facts),
        "forgetting": forgetting_section(facts),
        "routing": routing_section(facts, problems),
        "drift": drift_pictures(facts, problems),
        "columns_of_B": column_pictures(facts, problems),
        "strategies": {"columns": STRATEGY_COLUMNS, "rows": strategy_rows(facts)},
        "costs": {"columns": COST_COLUMNS, "rows": cost_rows(facts), "note": COST_NOTE},
        "environment": flatten(environment),
        "config": flatten(facts.config.resolved()),
    }
    return write_page("continual.html.j2", facts.folder / PAGE, {**values, "problems": problems})


def fact_rows(facts: StreamFacts) -> list[tuple[str, str]]:
    """The size of the comparison in a few numbers."""
    done = sum(cell.complete for cell in facts.cells)
    return [
        ("Tasks", number(len(facts.tasks))),
        ("Strategies", number(len(facts.labels))),
        ("Orders", number(len(facts.config.all_orders))),
        ("Seeds", f"{len(facts.config.seeds)}: {spell(facts.config.seeds)}"),
        ("Cells complete", f"{done} of {len(facts.cells) + len(facts.waiting)}"),
        ("Scored on", f"the {facts.config.eval.split} split"),
    ]


def summary_columns(facts: StreamFacts) -> list[str]:
    """The columns of the summary with tasks' names cut."""
    names = _short_names(facts.tasks)
    return [names.get(column, column) for column in facts.table[0]]


def order_rows(facts: StreamFacts) -> list[tuple[str, str]]:
    """The orders that are drawn, by number."""
    found: dict[int, tuple[str, ...]] = {}
    for label in facts.labels:
        found |= facts.orders(label)
    names = _short_names(facts.tasks)
    drawn = sorted(found.items())[:MOST_ORDERS]
    return [(f"Order\xa0{which + 1}", " → ".join(names[task] for task in order)) for which, order in drawn]


def _short_names(tasks: Sequence[str]) -> dict[str, str]:
    """Tasks' names without the start of long ones, if they stay apart without it."""
    names = {task: shorten(task) for task in tasks}
    return names if len(set(names.values())) == len(names) else {task: task for task in tasks}


def _top(facts: StreamFacts) -> float:
    """The end of all scales of scores: the next full ten above the greatest."""
    greatest = max([*facts.before.values(), *(float(np.nanmax(cell.R, initial=0.0)) for cell in facts.cells)])
    return max(10.0, 10.0 * float(np.ceil(greatest / 10)))


def matrix_pictures(facts: StreamFacts) -> tuple[list[Picture], list[Picture]]:
    """R, mean over seeds, of each label: in its first order, and in its other ones."""
    top = _top(facts)
    first: list[Picture] = []
    others: list[Picture] = []
    for label in facts.labels:
        for place, (which, order) in enumerate(list(facts.orders(label).items())[:MOST_ORDERS]):
            mine = facts.of(label, which)
            title = label if len(facts.config.all_orders) == 1 else f"{label}, order {which + 1}"
            R = mean_of([cell.R for cell in mine])
            rows = _named_rows(mine[0], R)
            drawn = matrix_picture(title, order, facts.base_scores(order), rows, top, _tell(mine[0], R))
            (others if place else first).append(drawn)
    return first, others


def _named_rows(cell: CellFacts, R: Matrix) -> dict[str, Sequence[float]]:
    """The rows of R by what they come after; learned together there is one."""
    if cell.scope == "together":
        return {"all at once": R[0].tolist()}
    return dict(zip(numbered(cell.order), R.tolist(), strict=True))


def _tell(cell: CellFacts, R: Matrix) -> str:
    """The mean of what is left in the end."""
    end, what = (R.diagonal(), "diagonal") if cell.scope == "alone" else (R[-1], "last row")
    return (
        f"Mean of the {what}: {end.mean():.1f}" if np.isfinite(end).all() else "Not all tasks are learned yet"
    )


def legend(styles: Mapping[str, LineStyle]) -> list[tuple[str, str, str]]:
    """For the template: dash, colour, name."""
    return [(style.dash, style.paint, name) for name, style in styles.items()]


def course_section(facts: StreamFacts) -> dict[str, Any]:
    """A panel for each label: its first order, mean over seeds; one scale, one legend."""
    styles, top, panels = line_styles(facts.tasks), _top(facts), []
    for label in facts.streams:
        which, order = next(iter(facts.orders(label).items()))
        R = mean_of([cell.R for cell in facts.of(label, which)])
        panels.append(course_picture(label, order, facts.base_scores(order), R, styles, top))
    return {"legend": legend(styles), "panels": panels}


def forgetting_section(facts: StreamFacts) -> dict[str, Any]:
    """The curves of all labels: mean over the complete cells, or over all where none is complete."""
    courses = {}
    for label in facts.streams:
        mine = facts.of(label)
        done = [cell for cell in mine if cell.complete] or mine
        courses[label] = mean_of([forgetting_course(cell.R) for cell in done]).tolist()
    styles = line_styles(list(courses))
    drawn = forgetting_picture(courses, styles)
    return {"legend": legend(styles), "pictures": [drawn] if drawn else []}


def bar_pictures(facts: StreamFacts) -> list[Picture]:
    """Average beside learning accuracy, and backward transfer."""
    metrics = {row["label"]: row["metrics"] for row in facts.summary["rows"]}

    def interval(label: str, name: str) -> Interval | None:
        value = metrics[label].get(name)
        return None if value is None else middle_and_ends(value)

    pairs = {
        label: (interval(label, "average_accuracy"), interval(label, "learning_accuracy"))
        for label in metrics
    }
    drawn = [
        accuracy_bars(pairs),
        transfer_bars({label: interval(label, "backward_transfer") for label in metrics}),
    ]
    return [picture for picture in drawn if picture is not None]
