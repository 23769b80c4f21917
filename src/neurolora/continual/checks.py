"""What cannot work in a stream's file, each in a sentence; all of it is said at once.

Room: continual; called by `stream_file`. Looks at the config alone: no data, no model.
"""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import ValidationError

from neurolora.continual.config import StreamConfig, label_of, method_of
from neurolora.continual.strategies import STRATEGIES
from neurolora.training.names import nearest

MOST_ORDERS = 120
T = TypeVar("T")


def find_problems(config: StreamConfig) -> list[str]:
    """Everything that cannot work, in plain words; empty if there is nothing."""
    seeds = [f"seeds: {seed} is there {config.seeds.count(seed)} times" for seed in _twice(config.seeds)]
    return [*_bad_tasks(config), *_bad_orders(config), *seeds, *_bad_rows(config)]


def _bad_tasks(config: StreamConfig) -> list[str]:
    names = config.task_names
    found = [f"tasks: {name} is there {names.count(name)} times" for name in _twice(names)]
    if len(names) < 2:
        found.append("tasks: one task is no stream; give two or more, or use `neurolora train`")
    data = [repr(sorted({**config.data, **task.data}.items(), key=str)) for task in config.tasks]
    same = [task.name for task, one in zip(config.tasks, data, strict=True) if data.count(one) > 1]
    if same and not _twice(names):
        found.append(f"tasks: {', '.join(same)} are one task under several names: the same data")
    bad = [name for name in names if not _is_folder_name(name)]
    return found + [f"tasks: {name!r} cannot name a folder; use letters, digits, - _ ." for name in bad]


def _bad_orders(config: StreamConfig) -> list[str]:
    if config.orders == "all":
        count = len(config.all_orders) if len(config.tasks) < 6 else MOST_ORDERS + 1
        do = f"orders: all of {len(config.tasks)} tasks are too many; list those you want"
        return [do] if count > MOST_ORDERS else []
    lines = [", ".join(order) for order in config.orders or []]
    found = [f"orders: {line} is there {lines.count(line)} times" for line in _twice(lines)]
    for number, order in enumerate(config.orders or []):
        if sorted(order) != sorted(config.task_names):
            wanted = ", ".join(config.task_names)
            found.append(f"orders.{number}: {', '.join(order)}; each of {wanted} is needed once")
    return found


def _bad_rows(config: StreamConfig) -> list[str]:
    found = []
    for number, entry in enumerate(config.strategies):
        where = f"strategies.{number}"
        if entry.strategy not in STRATEGIES:
            text = f"there is no {entry.strategy!r}{nearest(entry.strategy, STRATEGIES)}"
            found.append(f"{where}: {text}; known are {', '.join(STRATEGIES)}")
            continue
        method = method_of(config, entry)
        if method not in entry.row.methods:
            works = ", ".join(entry.row.methods)
            found.append(f"{where}: {entry.strategy} works with {works}, not with {method}")
        try:
            entry.row.knobs.model_validate(entry.settings)
        except ValidationError as error:
            found += [tell(item, {}, f"{where}.settings") for item in error.errors()]
        if not _is_folder_name(label_of(config, entry)):
            found.append(f"{where}.label: {entry.label!r} cannot name a folder; use letters, digits, - _ . +")
    if not found:
        found += [
            f"strategies: the label {label} is there twice; give labels" for label in _twice(config.labels())
        ]
    return found


def _twice(names: list[T]) -> list[T]:
    return [name for name in dict.fromkeys(names) if names.count(name) > 1]


def _is_folder_name(name: str) -> bool:
    return bool(name) and name[0] != "." and all(letter.isalnum() or letter in "-_.+" for letter in name)


def tell(item: Any, lines: dict[str, int], before: str = "") -> str:
    """One of pydantic's problems, with the line of the file; before: the key that it is under."""
    place = ".".join([*([before] if before else []), *map(str, item["loc"])])
    where = f"{place} (line {lines[place]})" if place in lines else place
    if item["type"] == "missing":
        return f"{where}: needed, but not given"
    if item["type"] == "extra_forbidden":
        return f"{where}: unknown key"
    return f"{where}: {item['msg']}, found {item['input']!r}"
