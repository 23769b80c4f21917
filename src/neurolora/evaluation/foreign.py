"""Tasks that are not ours: found by lm-eval's task manager, in a folder of the user's or in its registry.

Room: evaluation. Only `harness.py` imports this file, and only for such tasks: reading lm-eval's registry
of some ten thousand configs takes seconds.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

from lm_eval.tasks import TaskManager

from neurolora.errors import ConfigError, DataError, explain
from neurolora.tasks import TASKS


def load_foreign(
    names: list[str], include_path: Path | str | None, num_fewshot: int | None, seed: int
) -> dict[str, Any]:
    """lm-eval's task objects, with the number and seed of worked examples set.

    The folder of the user comes first and alone; the registry is read only for names that it lacks.
    Raises `ConfigError` for a folder that is not there and for a name that nobody knows, `DataError` for data
    that cannot be had.
    """
    manager = _manager(names, include_path)
    try:
        loaded: dict[str, Any] = manager.load(names)
    except (OSError, ValueError) as error:  # datasets' and the hub's are kinds of these
        first = str(error).strip().split("\n", 1)[0] or type(error).__name__
        do = "Look at the network, or at what is cached (HF_HOME), and at the task's YAML"
        raise DataError(explain(f"loading the tasks {', '.join(names)} of lm-eval", first, do)) from error
    for task in loaded["tasks"].values():
        _set_shots(task, num_fewshot)
        task.set_fewshot_seed(seed=seed)
    return loaded


def names_in(include_path: Path | str) -> frozenset[str]:
    """The tasks and groups of a folder of the user's. Raises `ConfigError` if it is not there."""
    return frozenset(_own_manager(include_path).task_index)


def _own_manager(include_path: Path | str) -> TaskManager:
    if not Path(include_path).is_dir():
        raise ConfigError(explain(f"include_path {include_path}", "no such folder", "Give a folder of YAML"))
    return TaskManager(include_path=str(include_path), include_defaults=False)


def _manager(names: list[str], include_path: Path | str | None) -> TaskManager:
    if include_path is not None:
        manager = _own_manager(include_path)
        if all(name in manager.task_index for name in names):
            return manager
    manager = TaskManager(include_path=None if include_path is None else str(include_path))
    missing = [name for name in names if name not in manager.task_index]
    if missing:
        known = [*TASKS, *manager.all_tasks]
        raise ConfigError(explain(f"tasks {', '.join(missing)}", "no such task", _advice(missing[0], known)))
    return manager


def _advice(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.6)
    meant = f"Did you mean {' or '.join(near)}? " if near else ""
    return f"{meant}Ours are {', '.join(TASKS)}; lm-eval's are listed by `lm-eval ls tasks`"


def _set_shots(task: Any, num_fewshot: int | None) -> None:
    """lm-eval's rule: a task that fixes 0 in its config keeps it; one that says nothing gets 0."""
    fixed = task.get_config("num_fewshot")
    if num_fewshot is not None and fixed != 0:
        task.set_config(key="num_fewshot", value=num_fewshot)
    elif fixed is None:
        task.set_config(key="num_fewshot", value=0)
