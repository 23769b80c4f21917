"""From the states of all cells to the matrices, the metrics with intervals, and their files.

Room: continual; called by `run` and, through `results.json`, read by the report.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import math
from collections.abc import Callable
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np

from neurolora import markdown
from neurolora.continual.config import StrategyEntry, StreamConfig, adapter_of, label_of, method_of
from neurolora.continual.metrics import METRICS, forward_transfer, intransigence
from neurolora.continual.state import load_state
from neurolora.errors import DataError
from neurolora.files import write_json, write_text
from neurolora.intervals import bootstrap_interval, interval, with_half
from neurolora.provenance import fingerprint_json, made_by

RESULTS, CSV, TABLE = "results.json", "R.csv", "table.md"


def read_cells(config: StreamConfig, folder: Path, notify: Callable[[str], None]) -> list[dict[str, Any]]:
    """Every cell that has begun: label, order, seed, R, scores, costs, where it was made, and whether it is
    complete. `notify` is told of damaged states."""
    from neurolora.continual.cell import cells

    found = []
    for cell in cells(config, folder):
        if not cell.folder.is_dir():
            continue
        state = load_state(cell.folder, cell.order, notify)
        R = state.matrix()
        found.append(
            {
                "label": label_of(config, cell.entry),
                "method": method_of(config, cell.entry),
                "trained_as": trained_as(config, cell.entry),
                "scope": cell.entry.row.scope,
                "needs_task": cell.entry.row.needs_task,
                "order": cell.order,
                "order_number": int(cell.folder.name.split("-")[1]),
                "seed": cell.seed,
                "R": R if cell.entry.row.scope == "stream" else _bound(R, cell.entry.row.scope),
                "scores": state.scores,
                "costs": state.costs,
                "environments": _environments(cell.folder),
                "complete": _is_complete(R, cell.entry.row.scope),
            }
        )
    return found


def _environments(cell: Path) -> list[dict[str, Any]]:
    """Where each task's training run was made; a damaged note tells nothing."""
    found = []
    for path in sorted(cell.glob("tasks/*/run/env.json")):
        with contextlib.suppress(OSError, ValueError):
            told = json.loads(path.read_text(encoding="utf-8"))
            if isinstance(told, dict) and {"versions", "device", "cpu_count", "time"} <= set(told):
                found.append(told)
    return found


def trained_as(config: StreamConfig, entry: StrategyEntry) -> str:
    """The fingerprint of a row's adapter and training settings: rows with the same one differ by strategy
    alone."""
    return fingerprint_json([adapter_of(config, entry), {**config.train, **entry.train}])[:16]


def _bound(R: list[list[float]], scope: str) -> list[list[float]]:
    """The scores of a bound stand on the diagonal (alone), or in every row (together)."""
    return [R[0]] * len(R) if scope == "together" else R


def _is_complete(R: list[list[float]], scope: str) -> bool:
    if scope == "together":
        return not any(math.isnan(value) for value in R[0])
    if scope == "alone":
        return not any(math.isnan(R[i][i]) for i in range(len(R)))
    return not any(math.isnan(R[j][i]) for j in range(len(R)) for i in range(j + 1))


def summarise(config: StreamConfig, before: dict[str, Any], found: list[dict[str, Any]]) -> dict[str, Any]:
    """All cells with their metrics, and for each label the means over orders and seeds with intervals."""
    alone = _alone(found)
    environments = [each for cell in found for each in cell["environments"]]
    for cell in found:
        cell["environment"] = made_by(cell.pop("environments"))
        free = alone.get((cell["trained_as"], cell["seed"]))
        cell["metrics"] = _metrics(cell, before, free) if cell["complete"] else {}
    labels = list(dict.fromkeys(cell["label"] for cell in found))
    return {
        "tasks": config.task_names,
        "before": before,
        "rows": [_row(config, label, [c for c in found if c["label"] == label]) for label in labels],
        "cells": found,
        "config": config.resolved(),
        "environment": made_by(environments),
    }


def _alone(found: list[dict[str, Any]]) -> dict[tuple[str, int], dict[str, float]]:
    """(settings of training, seed) -> task -> score, of the row that learns each task by itself so."""
    told: dict[tuple[str, int], dict[str, float]] = {}
    for cell in found:
        if cell["scope"] == "alone" and cell["complete"]:
            scores = {task: cell["R"][i][i] for i, task in enumerate(cell["order"])}
            told.setdefault((cell["trained_as"], cell["seed"]), scores)
    return told


def _metrics(
    cell: dict[str, Any], before: dict[str, Any], alone: dict[str, float] | None
) -> dict[str, float]:
    """What can be said of a finished cell; a bound has its mean accuracy alone."""
    R, order = np.array(cell["R"]), cell["order"]
    if cell["scope"] != "stream":
        return {"average_accuracy": float(R.diagonal().mean())}
    values = {name: measure(R) for name, measure in METRICS.items()}
    with contextlib.suppress(DataError):  # tasks to come were not scored
        if before:
            values["forward_transfer"] = forward_transfer(R, [before[task]["value"] for task in order])
    if alone is not None:
        values["intransigence"] = intransigence(R, [alone[task] for task in order])
    return values


def _row(config: StreamConfig, label: str, mine: list[dict[str, Any]]) -> dict[str, Any]:
    """The means of a label's finished cells: each task's last accuracy, and the metrics."""
    done = [cell for cell in mine if cell["complete"]]
    names = list(dict.fromkeys(name for cell in done for name in cell["metrics"]))
    tasks = config.task_names if done else []
    return {
        "label": label,
        "cells": len(mine),
        "complete": len(done),
        "needs_task": mine[0]["needs_task"],
        "accuracy": {
            task: _over_seeds([(cell["seed"], _last(cell, task)) for cell in done]) for task in tasks
        },
        "metrics": {
            name: _over_seeds([(c["seed"], c["metrics"][name]) for c in done if name in c["metrics"]])
            for name in names
        },
    }


def _over_seeds(values: list[tuple[int, float]]) -> dict[str, Any]:
    """(seed, value) of each cell -> the mean, with Student's interval and a bootstrap's, over seeds.

    The orders of a seed share its rows and starts and are no runs of their own: of each seed the mean over
    its orders counts.
    """
    seeds = dict.fromkeys(seed for seed, _ in values)
    each = [mean(value for one, value in values if one == seed) for seed in seeds]
    return {**interval(each), "bootstrap": bootstrap_interval(each)}


def _last(cell: dict[str, Any], task: str) -> float:
    place = cell["order"].index(task)
    return float(cell["R"][place if cell["scope"] == "alone" else -1][place])


#: The columns of a table, by the metrics' names.
TITLES = {
    "average_accuracy": "average",
    "backward_transfer": "BWT",
    "learning_accuracy": "learning",
    "forgetting": "forgetting",
    "forward_transfer": "FWT",
    "intransigence": "intransigence",
}


def table_rows(summary: dict[str, Any]) -> tuple[list[str], list[list[str | None]]]:
    """Column names and, for each label, `mean ± half an interval` of last accuracies and metrics.

    The column `runs` counts the cells that are complete, of those that have begun. Where a row must be told
    which task an input is of, a last column says so.
    """
    tasks, titles = summary["tasks"], TITLES
    some_need = any(row["needs_task"] for row in summary["rows"])
    rows: list[list[str | None]] = []
    for row in summary["rows"]:
        values = [row["accuracy"].get(task) for task in tasks] + [row["metrics"].get(m) for m in titles]
        runs = (
            str(row["complete"]) if row["complete"] == row["cells"] else f"{row['complete']}/{row['cells']}"
        )
        need = [["no", "yes"][row["needs_task"]]] if some_need else []
        rows.append([row["label"], *map(_shown, values), runs, *need])
    need = ["needs the task"] if some_need else []
    return ["strategy", *tasks, *titles.values(), "runs", *need], rows


def _shown(value: dict[str, Any] | None) -> str | None:
    return None if value is None else with_half(value)


def write_results(folder: Path, summary: dict[str, Any]) -> None:
    """`results.json`, `R.csv` and `table.md`, each whole."""
    write_json(folder / RESULTS, _plain(summary))
    write_text(folder / TABLE, markdown.table(*table_rows(summary)))
    write_text(folder / CSV, to_csv(summary))


def to_csv(summary: dict[str, Any]) -> str:
    """One line for each entry of each R that was measured."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["label", "order", "seed", "after", "task", "value", "stderr", "n", "metric"])
    for cell in summary["cells"]:
        order = " ".join(cell["order"])
        for place, scores in enumerate(cell["scores"]):
            after = order if cell["scope"] == "together" else cell["order"][place]
            for task, score in scores.items():
                values = [score["value"], score["stderr"], score["n"], score["metric"]]
                writer.writerow([cell["label"], order, cell["seed"], after, task, *values])
    return text.getvalue()


def _plain(value: Any) -> Any:
    """JSON knows no NaN: null."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
