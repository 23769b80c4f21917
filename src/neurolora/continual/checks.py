"""What cannot work in a stream's file, each in a sentence; all of it is said at once.

Room: continual; called by `stream_file`. Looks at the config alone: no data, no model.
"""

from __future__ import annotations

import itertools
from typing import Any

from pydantic import ValidationError

from neurolora.checks import twice
from neurolora.continual.config import (
    SEED_STEP,
    StrategyEntry,
    StreamConfig,
    adapter_of,
    label_of,
    method_of,
)
from neurolora.continual.strategies import STRATEGIES
from neurolora.training.names import nearest
from neurolora.training.sections import DataSection

MOST_ORDERS = 120
LONGEST_NAME = 255  # bytes that a file system gives a name
NO_FOLDER = f"cannot name a folder; use letters, digits, - _ . +, at most {LONGEST_NAME} bytes"
#: Settings of a training config that a stream gives itself, and what to do instead.
DECIDED = {
    ("train", "seed"): "every run's seed follows from the stream's; give `seeds`",
    ("output", "output_dir"): "every run has a folder of its own; give `output_dir` of the stream",
    ("output", "resume_from_checkpoint"): "a stream goes on by itself; leave it out",
}
#: With these an adapter does more than add to a module's output, so those of several tasks have no sum.
NOT_SUMMED = ("use_dora", "modules_to_save", "bias", "lora_bias", "trainable_token_indices")
#: Starts of a LoRA that leave the base as it is; others (olora, pissa, corda, ...) change it for their task.
SUMMED_STARTS = (None, True, False, "gaussian", "orthogonal", "eva")
MOST_SEED = 2**32  # numpy takes no larger one


def find_problems(config: StreamConfig) -> list[str]:
    """Everything that cannot work, in plain words; empty if there is nothing."""
    return [
        *_bad_tasks(config),
        *_bad_orders(config),
        *_bad_seeds(config),
        *_decided(config),
        *_bad_rows(config),
    ]


def _bad_tasks(config: StreamConfig) -> list[str]:
    names = config.task_names
    found = [f"tasks: {name} is there {names.count(name)} times" for name in twice(names)]
    if len(names) < 2:
        found.append("tasks: one task is no stream; give two or more, or use `neurolora train`")
    data = [_data({**config.data, **task.data}) for task in config.tasks]
    same = [task.name for task, one in zip(config.tasks, data, strict=True) if data.count(one) > 1]
    if same and not twice(names):
        found.append(f"tasks: {', '.join(same)} are one task under several names: the same data")
    bad = [name for name in names if not _is_folder_name(name)]
    return found + [
        f"tasks: {name!r} cannot name a folder; use at most 255 letters, digits, - _ ." for name in bad
    ]


def _data(section: dict[str, Any]) -> str:
    """A data section with its defaults, so that a default which is spelled out makes no other task."""
    try:
        values = DataSection.model_validate(section).model_dump()
    except ValidationError:  # refused elsewhere, with its reason
        values = section
    return repr(sorted(values.items(), key=str))


def _bad_seeds(config: StreamConfig) -> list[str]:
    """Seeds that are there twice, too large, or those of another's later tasks."""
    seeds = sorted(set(config.seeds))
    found = [f"seeds: {seed} is there {config.seeds.count(seed)} times" for seed in twice(config.seeds)]
    span = SEED_STEP * (len(config.tasks) - 1)
    found += [f"seeds: {seed} is too large; at most {MOST_SEED - 1 - span}" for seed in seeds
              if seed + span >= MOST_SEED]  # fmt: skip
    for low, high in itertools.combinations(seeds, 2):
        if (high - low) % SEED_STEP == 0 and high - low <= span:
            found.append(
                f"seeds: {low} and {high} are no two runs: task {(high - low) // SEED_STEP + 1} of the one "
                f"has the seed of task 1 of the other, as each task's is {SEED_STEP} more; use another seed"
            )
    return found


def _bad_orders(config: StreamConfig) -> list[str]:
    if config.orders == "all":
        count = len(config.all_orders) if len(config.tasks) < 6 else MOST_ORDERS + 1
        do = f"orders: all of {len(config.tasks)} tasks are too many; list those you want"
        return [do] if count > MOST_ORDERS else []
    lines = [", ".join(order) for order in config.orders or []]
    found = [f"orders: {line} is there {lines.count(line)} times" for line in twice(lines)]
    for number, order in enumerate(config.orders or []):
        if sorted(order) != sorted(config.task_names):
            wanted = ", ".join(config.task_names)
            found.append(f"orders.{number}: {', '.join(order)}; each of {wanted} is needed once")
    return found


def _decided(config: StreamConfig) -> list[str]:
    """Settings that would be passed over in silence."""
    sections = {"train": config.train, "output": config.output}
    sections |= {f"strategies.{number}.train": entry.train for number, entry in enumerate(config.strategies)}
    return [
        f"{where}.{name}: {do}"
        for where, section in sections.items()
        for (kind, name), do in DECIDED.items()
        if where.endswith(kind) and name in section
    ]


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
        found += _not_summed(config, entry, where)
        try:
            entry.row.knobs.model_validate(entry.settings)
        except ValidationError as error:
            found += [tell(item, {}, f"{where}.settings") for item in error.errors()]
        if not _is_folder_name(label_of(config, entry)):
            found.append(f"{where}.label: {entry.label!r} {NO_FOLDER}")
    if not found:
        found += [
            f"strategies: the label {label} is there twice; give labels" for label in twice(config.labels())
        ]
    return found


def _not_summed(config: StreamConfig, entry: StrategyEntry, where: str) -> list[str]:
    """Settings with which the adapters of several tasks cannot stand side by side."""
    adapter = adapter_of(config, entry) if entry.row.carry == "frozen" else {}
    refused = [name for name in NOT_SUMMED if adapter.get(name) not in (None, False, "none")]
    if adapter.get("init_lora_weights") not in SUMMED_STARTS:
        refused.append("init_lora_weights")
    does_not = "sums an adapter for each task, which"
    return [
        f"{where}: {entry.strategy} {does_not} {name}: {adapter[name]} does not allow; leave it out"
        for name in refused
    ]


def _is_folder_name(name: str) -> bool:
    fits = 0 < len(name.encode()) <= LONGEST_NAME and name[0] != "."
    return fits and all(letter.isalnum() or letter in "-_.+" for letter in name)


def tell(item: Any, lines: dict[str, int], before: str = "") -> str:
    """One of pydantic's problems, with the line of the file; before: the key that it is under."""
    place = ".".join([*([before] if before else []), *map(str, item["loc"])])
    where = f"{place} (line {lines[place]})" if place in lines else place
    if item["type"] == "missing":
        return f"{where}: needed, but not given"
    if item["type"] == "extra_forbidden":
        return f"{where}: unknown key"
    return f"{where}: {item['msg']}, found {item['input']!r}"
