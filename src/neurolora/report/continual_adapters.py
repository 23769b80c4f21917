"""The sections of a comparison's page that look into the adapters: ranks in use, columns of B.

Room: report. Called by `continual.py`; `continual_drift.py` reads and measures. Of each label the first cell
is shown. What is not there is left out; what is damaged is named on the page.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from neurolora.continual.strategies import ADAPTERS
from neurolora.errors import AdapterError, DataError
from neurolora.report.continual_drift import (
    Matrix,
    compare_stages,
    correlation,
    frequency_table,
    overlap,
    read_column_cosines,
    read_drift,
    read_routing,
)
from neurolora.report.continual_facts import CellFacts, StreamFacts, mean_of
from neurolora.report.continual_pictures import numbered, numbered_columns, routing_picture
from neurolora.report.drawing import Picture
from neurolora.report.heatmaps import square_heatmap


def routing_section(facts: StreamFacts, problems: list[str]) -> dict[str, Any] | None:
    """Which ranks the tasks use, of each label's first cell; None where nothing was recorded."""
    found = {}
    for label in facts.labels:
        cell = facts.of(label)[0]
        stages = [] if cell.scope == "together" else _tried(read_routing, cell, problems)
        if stages:
            found[label] = (cell, stages, frequency_table(stages))
    if not found:
        return None
    top = max(float(np.nanmax(table, initial=0.0)) for _, _, table in found.values()) or 1.0
    pictures, rows = [], []
    for label, (cell, stages, table) in found.items():
        pictures.append(routing_picture(label, cell.order, table, top))
        if len(stages) > 1:
            alike = compare_stages(stages, correlation)
            pictures.append(
                _square(f"{label}: correlation", "Pearson's over ranks, mean over modules", cell, alike)
            )
            rows.append([label, *_with_earlier(alike, compare_stages(stages, overlap), len(cell.order))])
    columns = ["strategy", *(f"task {place}" for place in range(2, len(facts.tasks) + 1))]
    return {"pictures": pictures, "columns": columns, "rows": rows}


def drift_pictures(facts: StreamFacts, problems: list[str]) -> list[Picture]:
    """Of each routed label's first cell: how far the ranks that a task uses are still those of its day."""
    drawn = []
    for label in facts.streams:
        cell = facts.of(label)[0]
        table = _tried(read_drift, cell, problems)
        if len(table) > 1:
            drawn.append(_square(label, "rows: after this task; overlap, mean over modules", cell, table))
    return drawn


def _with_earlier(alike: Matrix, shared: Matrix, tasks: int) -> list[str | None]:
    """For each task from the second on `overlap / correlation`, mean over the earlier tasks."""
    told: list[str | None] = [
        f"{np.mean(shared[place, :place]):.2f} / {float(mean_of(alike[place, :place])):.2f}"
        for place in range(1, len(alike))
    ]
    return told + [None] * (tasks - 1 - len(told))


def _square(title: str, meaning: str, cell: CellFacts, table: Matrix) -> Picture:
    names = numbered(cell.order[: len(table)])
    values = [[value if np.isfinite(value) else None for value in row] for row in table.tolist()]
    columns = numbered_columns(cell.order[: len(table)])
    return square_heatmap(title, meaning, names, values, columns, "tasks")


def column_pictures(facts: StreamFacts, problems: list[str]) -> list[Picture]:
    """Of each label whose adapter keeps its columns: how far these have turned, in its first cell."""
    drawn = []
    for label in facts.streams:
        if facts.entries[label].row.carry != "weights" or facts.method(label) not in ADAPTERS:
            continue
        cell = facts.of(label)[0]
        table = _tried(read_column_cosines, cell, problems)
        if len(table) > 1:
            drawn.append(_square(label, "cosine, mean over columns and modules", cell, table))
    return drawn


def _tried(read: Callable[[CellFacts], Any], cell: CellFacts, problems: list[str]) -> Any:
    """What a cell's folder holds; nothing, and a line in `problems`, if it is damaged."""
    try:
        return read(cell)
    except (AdapterError, DataError) as error:
        problems.append(str(error))
        return []
