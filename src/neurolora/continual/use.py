"""Which ranks the inputs of each task learned so far use, measured anew after every task: how routing drifts.

Room: continual; called by `cell`. The rows are the same after every task, so what changes is the adapter
alone. Written as `use.json` beside a task's run, and measured again where it is not there.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from neurolora.continual.learner import TaskData, training_data
from neurolora.continual.protect import active_frequencies
from neurolora.errors import DataError, explain
from neurolora.evaluation import Loaded
from neurolora.files import write_json
from neurolora.training import setup
from neurolora.training.config import TrainingConfig

USE = "use.json"
SAMPLES, BATCH = 64, 16
#: Task -> module -> the share of tokens on which each rank is active.
Use = dict[str, dict[str, list[float]]]


@dataclass
class UseRows:
    """The rows of each task of a cell that use is measured on, encoded once a process: after T tasks each has
    been measured T times."""

    chosen: dict[str, list[Any]] = field(default_factory=dict)

    def of(self, task: str, config: TrainingConfig, loaded: Loaded) -> TaskData:
        """Some of a task's training rows, the same ones at every call. Raises DataError."""
        if task not in self.chosen:
            self.chosen[task] = training_data(config, loaded.model, loaded.tokenizer).some(SAMPLES)
        device = next(loaded.model.parameters()).device
        return TaskData(self.chosen[task], setup.collator(loaded.tokenizer, device), config.train.seed)


def measure_use(loaded: Loaded, tasks: dict[str, TrainingConfig], rows: UseRows) -> Use:
    """Of each task on its rows; to six digits."""
    found: Use = {}
    for name, config in tasks.items():
        data = rows.of(name, config, loaded)
        active = active_frequencies(loaded.model, data, SAMPLES, BATCH)
        found[name] = {module: [round(f, 6) for f in share.tolist()] for module, share in active.items()}
    return found


def write_use(folder: Path, use: Use) -> None:
    """Write it into a task's folder, whole."""
    write_json(folder / USE, use)


def read_use(folder: Path) -> Use | None:
    """What a task's folder holds; None if nothing. Raises DataError for a damaged file."""
    path = folder / USE
    if not path.is_file():
        return None
    try:
        found: Any = json.loads(path.read_text(encoding="utf-8"))
        return {
            str(task): {str(name): [float(f) for f in shares] for name, shares in modules.items()}
            for task, modules in found.items()
        }
    except (OSError, ValueError, TypeError, AttributeError) as error:
        do = "Remove it and give the command again: it is measured anew"
        raise DataError(explain(f"reading {path}", type(error).__name__, do)) from None
