"""What can be known of a stream before its first step: its data, its model, its adapters.

Room: continual; called by `run` and by `--dry-run`. It reads, and writes nothing.

A folder's `inputs.json` tells which data and which model its numbers come from; a stream that goes on must
find the same.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from neurolora.continual.config import StrategyEntry, StreamConfig, label_of
from neurolora.continual.scoring import Scorer
from neurolora.errors import ConfigError, DataError, NeuroLoraError, explain
from neurolora.tasks import load_rows
from neurolora.training import setup
from neurolora.training.config import TrainingConfig
from neurolora.training.identity import data_fingerprint, model_fingerprint

INPUTS = "inputs.json"


def require_ready(config: StreamConfig) -> None:
    """Raises DataError for a task without rows to learn or to be scored on, ConfigError for a model that is
    not there, TargetError for an adapter that finds nothing to adapt or cannot be summed."""
    _require_rows(config)
    task = config.task_names[0]
    first = config.any_training(config.strategies[0], task)
    model_config = setup.load_model_config(first)
    setup.load_tokenizer(first, model_config)
    for entry in config.strategies:
        with _named(label_of(config, entry)):
            _require_fitting(entry, config.any_training(entry, task), model_config)


def _require_rows(config: StreamConfig) -> None:
    scorer = Scorer(config)
    for task in config.tasks:
        request = dataclasses.replace(scorer.request(task), limit=1)
        for split in ("train", config.eval.split):
            load_rows(request, split)


@contextlib.contextmanager
def _named(label: str) -> Iterator[None]:
    try:
        yield
    except NeuroLoraError as error:
        raise type(error)(f"{label}: {error}") from error


def _require_fitting(entry: StrategyEntry, training: TrainingConfig, model_config: Any) -> None:
    """The adapter on the model's shapes alone."""
    from neurolora.training.plan import meta_model

    try:
        model = meta_model(training, model_config)
    except (RuntimeError, NotImplementedError):  # a start that needs weights: the first run will tell
        return
    if entry.row.carry == "frozen" and any("lora_embedding" in name for name, _ in model.named_parameters()):
        found = "it targets an embedding, and adapters of embeddings have no sum"
        raise ConfigError(explain(f"{entry.strategy}", found, "Leave the embedding out of target_modules"))


def read_inputs(config: StreamConfig) -> dict[str, Any]:
    """The fingerprints of the model and of each task's rows, by split."""
    scorer = Scorer(config)
    tasks = {
        task.name: {
            split: data_fingerprint(scorer.request(task), split) for split in ("train", config.eval.split)
        }
        for task in config.tasks
    }
    return {"model": model_fingerprint(config.model), "tasks": tasks}


def require_same_inputs(folder: Path, now: dict[str, Any]) -> None:
    """Raises DataError where a stream's folder comes from other rows or another model, with all of them.

    A damaged file, or one that an older version did not write, says nothing.
    """
    try:
        before = json.loads((folder / INPUTS).read_text(encoding="utf-8"))
        then = {**_flat(before["tasks"]), "the model": before["model"]}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return
    current = {**_flat(now["tasks"]), "the model": now["model"]}
    changed = [what for what, value in current.items() if then.get(what, value) != value]
    if changed:
        found = f"{', '.join(changed)} changed since it was begun"
        do = "Bring back what was there, choose another output_dir, or replace the run with --overwrite"
        raise DataError(explain(f"going on with the stream in {folder}", found, do))


def _flat(tasks: dict[str, Any]) -> dict[str, str]:
    return {
        f"the {split} rows of {name}": value for name, own in tasks.items() for split, value in own.items()
    }
