"""What a study comes to: a value for each row, column and seed, and what was chosen and spent on the way.

Room: studies. Made by the kinds of studies, written by `results.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import mean
from typing import Any

AVERAGE = "average"
#: What the paper calls the tasks whose places a scale's tasks take.
PAPER_TASKS = {"mmlu": "MMLU", "scienceqa": "ScienceQA", "gsm8k": "GSM8K"}


@dataclass
class Table:
    """columns: id -> what it is called. values[row][column]: one number for each seed, in their order.

    base[column]: what the model scores before any training. costs[row]: parameters, seconds and bytes.
    searches: the grids that were tried. records: of all cells that were counted. parts[row][column][task]:
    the mean over seeds of each task's score, of columns that average over tasks. notes: what merges said.
    """

    columns: dict[str, str]
    values: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    base: dict[str, float] = field(default_factory=dict)
    costs: dict[str, dict[str, Any]] = field(default_factory=dict)
    searches: list[dict[str, Any]] = field(default_factory=list)
    records: list[dict[str, Any]] = field(default_factory=list)
    parts: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def add(self, row: str, column: str, value: float) -> None:
        """One more seed's value."""
        self.values.setdefault(row, {}).setdefault(column, []).append(value)


def training_costs(records: list[dict[str, Any]]) -> dict[str, Any]:
    """Parameters of the row's first run, which are those of all its runs; means of time and memory.

    A run that diverged has none.
    """
    records = [record for record in records if record["size"] is not None]
    if not records:
        return {}
    size = records[0]["size"]
    found = {
        **size,
        "percent": 100 * size["trainable"] / size["base"],
        "seconds": mean(record["costs"]["seconds"] for record in records),
    }
    peaks = [record["costs"].get("peak_bytes") for record in records]
    return found if None in peaks else {**found, "peak_bytes": mean(peaks)}


def mean_costs(records: list[dict[str, Any]]) -> dict[str, float]:
    """The mean of each cost over the cells that have one."""
    costs = [record["costs"] for record in records if record["costs"]]
    return {kind: mean(cost[kind] for cost in costs) for kind in (costs[0] if costs else ())}
