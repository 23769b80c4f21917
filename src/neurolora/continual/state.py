"""How far a cell has come: its matrix R so far, on disk after every step, and read back after any kill.

Room: continual. The file carries a checksum of itself, and the one before it stays beside it: a file that was
damaged is not trusted, and the last good one is used.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from neurolora.errors import DataError, explain
from neurolora.files import write_json

STATE, BEFORE = "state.json", "state.before.json"


@dataclass
class CellState:
    """What has been done. Changed by the methods alone; `save` after each.

    order: the tasks. learned: how many are learned, published and remembered. scores[j][task]: the score
    after task j as `{"value", "stderr", "metric", "n"}`. costs[j]: what learning task j took.
    """

    order: list[str]
    learned: int = 0
    scores: list[dict[str, dict[str, Any]]] = field(default_factory=list)
    costs: list[dict[str, Any]] = field(default_factory=list)

    def add_task(self, costs: dict[str, Any]) -> None:
        """One more task is learned."""
        self.learned += 1
        self.costs.append(costs)
        self.scores.append({})

    def add_score(self, after: int, task: str, score: dict[str, Any]) -> None:
        """One more entry of R."""
        self.scores[after][task] = score

    def matrix(self) -> list[list[float]]:
        """R (T, T) with NaN where nothing is measured."""
        rows = [*self.scores, *[{}] * (len(self.order) - len(self.scores))]
        return [[row.get(task, {}).get("value", math.nan) for task in self.order] for row in rows]

    def save(self, folder: Path) -> None:
        """Write the state; the one before stays beside it."""
        current = folder / STATE
        if current.is_file() and _read(current) is not None:
            current.replace(folder / BEFORE)
        values = {
            "order": self.order,
            "learned": self.learned,
            "scores": self.scores,
            "costs": self.costs,
        }
        write_json(current, {"sha256": _digest(values), "state": values})


def load_state(folder: Path, order: list[str], notify: Callable[[str], None]) -> CellState:
    """The newest whole state in `folder`, a new one if there is none. Says so if one is damaged.

    Raises DataError for a state of another order.
    """
    damaged = ""
    for path in (folder / STATE, folder / BEFORE):
        if not path.is_file():
            continue
        values = _read(path)
        if values is None:
            damaged += f"{path} is damaged; "
            continue
        if damaged:
            notify(f"{damaged}going on from the last good state, {path}")
        if values["order"] != order:
            found = f"it is of the order {', '.join(values['order'])}, not {', '.join(order)}"
            raise DataError(explain(f"reading {path}", found, "Use another output folder"))
        return CellState(**values)
    if damaged:
        notify(
            f"{damaged}there is no other state: beginning this cell anew, on the runs that it has finished"
        )
    return CellState(order)


def _read(path: Path) -> dict[str, Any] | None:
    """The state in a file; None for one that is damaged."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        values: dict[str, Any] = document["state"]
        return values if document["sha256"] == _digest(values) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _digest(values: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
