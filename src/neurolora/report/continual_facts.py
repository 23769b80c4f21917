"""A comparison of `neurolora continual` as facts: what its folder says, checked, for the page.

Room: report. Called by `continual.py`. Reads `results.json` alone; which folders belong to a cell,
`continual` says.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from neurolora.continual.cell import Cell, cells
from neurolora.continual.config import StrategyEntry, StreamConfig, label_of, method_of
from neurolora.continual.results import RESULTS, TITLES, table_rows
from neurolora.errors import DataError, explain

Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class CellFacts:
    """One strategy, order and seed. R (T, T): row j after task j, NaN where nothing is measured.

    costs: what each task that is learned took. cell: where its folders are.
    """

    label: str
    order: tuple[str, ...]
    order_number: int
    R: Matrix
    costs: list[dict[str, float]]
    complete: bool
    cell: Cell

    @property
    def scope(self) -> str:
        """`stream`, or a bound: `alone`, `together`."""
        return self.cell.entry.row.scope


@dataclass(frozen=True)
class StreamFacts:
    """The whole comparison.

    before: the base model's score of each task. waiting: cells not in the results. table: the summary.
    """

    folder: Path
    config: StreamConfig
    summary: dict[str, Any]
    before: dict[str, float]
    cells: list[CellFacts]
    waiting: list[Cell]
    table: tuple[list[str], list[list[str | None]]]

    @property
    def tasks(self) -> list[str]:
        """The tasks, in the order of the config."""
        return self.config.task_names

    @cached_property
    def labels(self) -> list[str]:
        """The rows of the comparison that have begun."""
        return list(dict.fromkeys(cell.label for cell in self.cells))

    @cached_property
    def streams(self) -> list[str]:
        """Of these, those that learn task after task: all but the bounds."""
        return [label for label in self.labels if self.of(label)[0].scope == "stream"]

    @cached_property
    def entries(self) -> dict[str, StrategyEntry]:
        """The row of the config of each label."""
        return {label_of(self.config, entry): entry for entry in self.config.strategies}

    def method(self, label: str) -> str:
        """The adapter that a label trains."""
        return method_of(self.config, self.entries[label])

    def of(self, label: str, order_number: int | None = None) -> list[CellFacts]:
        """A label's cells, of one order or of all."""
        mine = [cell for cell in self.cells if cell.label == label]
        return [cell for cell in mine if order_number in (None, cell.order_number)]

    def orders(self, label: str) -> dict[int, tuple[str, ...]]:
        """The orders that a label has begun, by number."""
        return {cell.order_number: cell.order for cell in self.of(label)}

    def base_scores(self, order: Iterable[str]) -> list[float]:
        """The base model's scores in an order of tasks."""
        return [self.before.get(task, np.nan) for task in order]


def read_stream(folder: Path | str) -> StreamFacts:
    """The facts of a comparison's folder. Raises DataError for one without readable results."""
    folder = Path(folder)
    asked = f"reading the comparison {folder}"
    do = "Give the same `neurolora continual` command again; it writes the file anew from its cells"
    path = folder / RESULTS
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        do = "Give the folder of `neurolora continual`; the file is there once its first cell is complete"
        raise DataError(explain(asked, f"there is no {RESULTS} in it", do)) from None
    except (OSError, ValueError) as error:
        raise DataError(explain(asked, f"{RESULTS} is no JSON ({error})", do)) from None
    try:
        return _facts(folder, summary)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        first = (str(error).splitlines() or [""])[0]
        found = f"{RESULTS} is no comparison's, or damaged ({type(error).__name__}: {first})"
        raise DataError(explain(asked, found, do)) from None


def _facts(folder: Path, summary: dict[str, Any]) -> StreamFacts:
    """All of it at once, so that damage shows here and not in a picture."""
    config = StreamConfig.model_validate(summary["config"])
    planned = {(label_of(config, cell.entry), cell.folder.name): cell for cell in cells(config, folder)}
    found = [_cell(one, planned.pop(_name(one))) for one in summary["cells"]]
    if not found:
        raise ValueError("it has no cells")
    _check_rows(summary)
    before = {task: float(score["value"]) for task, score in summary["before"].items()}
    return StreamFacts(folder, config, summary, before, found, list(planned.values()), table_rows(summary))


def _name(cell: dict[str, Any]) -> tuple[str, str]:
    return cell["label"], f"order-{cell['order_number']}-seed-{cell['seed']}"


def _cell(values: dict[str, Any], planned: Cell) -> CellFacts:
    R = np.array(values["R"], dtype=np.float64)  # null becomes NaN
    tasks = len(planned.order)
    if R.shape != (tasks, tasks):
        raise ValueError(f"R has the shape {R.shape}, not {(tasks, tasks)}")
    costs = [
        {name: float(value) for name, value in one.items() if value is not None} for one in values["costs"]
    ]
    return CellFacts(
        str(values["label"]),
        tuple(planned.order),
        int(values["order_number"]),
        R,
        costs,
        bool(values["complete"]),
        planned,
    )


def _check_rows(summary: dict[str, Any]) -> None:
    """Every mean has its interval, in numbers, if it is of two seeds or more."""
    for row in summary["rows"]:
        for value in (*row["accuracy"].values(), *(row["metrics"].get(name) for name in TITLES)):
            if value is not None:
                _ = [float(value[name]) for name in ("mean", "low", "high")[: 1 if value["n"] == 1 else 3]]


def mean_of(matrices: Iterable[ArrayLike]) -> Matrix:
    """Entry by entry the mean of those that are measured; NaN where none is. All have one shape."""
    stack = np.array(list(matrices), dtype=np.float64)
    count = np.isfinite(stack).sum(axis=0)
    total: Matrix = np.where(np.isfinite(stack), stack, 0.0).sum(axis=0)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)
