"""What a study would be, without running it: cells, parameters, steps and memory of each row.

Room: studies; `neurolora reproduce --dry-run` prints it. The base is built on the meta device; where neither
the model nor the data are at hand, the scale's own figures stand in for them, and the plan says so.
"""

from __future__ import annotations

from typing import Any

from neurolora.errors import ConfigError, DataError
from neurolora.studies.checks import require_fitting
from neurolora.studies.single import any_training
from neurolora.studies.spec import Row, Scale, Study


def plan_study(study: Study, scale: Scale) -> dict[str, Any]:
    """`cells`, how many of each kind; `rows`, one for each method and task; `notes`.

    A row: method, task, trainable, percent, examples, steps, rows_per_step, memory. Searches that go on
    beyond their first rates are not foreseen. Raises ConfigError for settings that cannot work.
    """
    require_fitting([study], scale)
    notes: list[str] = []
    methods = study.trained
    first = next(iter(methods.values()))
    configs = {task: any_training(scale, first, task) for task in study.tasks}
    model_config = _model_config(configs[study.tasks[0]], scale, notes)
    examples = {task: _examples(configs[task], scale, task, notes) for task in study.tasks}
    rows = [
        _row(scale, row, task, model_config, examples[task])
        for row in methods.values()
        for task in study.tasks
    ]
    if scale.train.get("deepspeed"):
        notes.append("memory is counted as if nothing were divided among the processes, as DeepSpeed does")
    return {
        "study": study.id,
        "scale": scale.id,
        "processes": scale.processes,
        "cells": _count(study, scale),
        "rows": rows,
        "notes": notes,
    }


def _count(study: Study, scale: Scale) -> dict[str, int]:
    """Training runs, merges and streams, each once for every seed; searches as they begin."""
    seeds, tasks = len(scale.seeds), len(study.tasks)
    tried = 0 if scale.search.most == 1 else 3
    searched = len(scale.search.seeds)
    found = {"searches of learning rates": len(study.trained) * tasks * tried * searched}
    if study.kind != "streams":
        found["training runs"] = len(study.rows) * tasks * seeds
    if study.kind == "merging":
        merges = sum(len(way.lambdas) for way in study.merges.values())
        found["merges"] = len(study.rows) * (merges * searched + len(study.merges) * seeds)
    if study.kind == "streams":
        values = sum(len(each) for row in study.stream_rows.values() for each in row.search.values())
        found["streams"] = len(study.stream_rows) * seeds + values * searched
    return found


def _row(scale: Scale, row: Row, task: str, model_config: Any, examples: int) -> dict[str, Any]:
    from neurolora.training.memory import estimate_memory
    from neurolora.training.plan import count_parameters, count_steps, meta_model

    config = any_training(scale, row, task)
    model = meta_model(config, model_config)
    parameters = count_parameters(model, config)
    steps = count_steps(config, examples, scale.processes)
    return {
        "method": row.name,
        "task": scale.tasks[task].name,
        "trainable": parameters["trainable"],
        "percent": parameters["percent_of_base"],
        "examples": examples,
        "steps": steps["total"],
        "rows_per_step": steps["rows_per_step"],
        "memory": estimate_memory(model, config, model_config, config.data.max_length),
    }


def _model_config(config: Any, scale: Scale, notes: list[str]) -> Any:
    from neurolora.training import setup

    try:
        return setup.load_model_config(config)
    except ConfigError as error:
        if scale.dimensions is None:
            raise
        from transformers import AutoConfig

        notes.append(f"the model is not here, so the scale's own dimensions are counted: {error}")
        dimensions = dict(scale.dimensions)
        return AutoConfig.for_model(dimensions.pop("model_type"), **dimensions)


def _examples(config: Any, scale: Scale, task: str, notes: list[str]) -> int:
    """Training rows, at most as many as the scale takes."""
    from neurolora.tasks import load_rows
    from neurolora.training import setup

    limit, told = config.data.max_train_samples, scale.tasks[task].rows
    try:
        return len(load_rows(setup.task_request(config, limit), "train"))
    except (DataError, ConfigError) as error:
        if told is None:
            raise
        notes.append(f"{scale.tasks[task].name} is counted as {told:,} rows, for it is not here: {error}")
        return min(told, limit or told)
