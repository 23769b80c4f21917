"""What a run would be, without running it: settings, parameters counted, memory estimated, steps.

Room: training. `neurolora train --dry-run` prints it. The base is built on the meta device from its config
alone, so shapes of any size need neither weights nor memory. Writes nothing.
"""

from __future__ import annotations

import math
import os
from typing import Any

import torch

from neurolora.errors import ConfigError
from neurolora.tasks import load_rows as read_rows
from neurolora.training import setup
from neurolora.training.config import TrainingConfig
from neurolora.training.memory import estimate_memory
from neurolora.training.optim import create_optimizer_groups

SCHEDULE_POINTS = (0.0, 0.25, 0.5, 0.75, 1.0)


def make_plan(config: TrainingConfig) -> dict[str, Any]:
    """The plan as plain values: `config`, `parameters`, `data`, `steps`, `schedule`, `memory`, `notes`.

    Parameters are counted, memory is an estimate. Raises what the run itself would raise for a bad config,
    model name or data; a base that has no tokenizer yet leaves the token counts open and says so in `notes`.
    """
    model_config = setup.load_model_config(config)
    model = meta_model(config, model_config)
    notes: list[str] = []
    data = _describe_data(config, model_config, notes)
    steps = count_steps(config, data["train_examples"])
    return {
        "config": config.resolved(),
        "parameters": count_parameters(model, config),
        "data": data,
        "steps": steps,
        "schedule": schedule(config, steps["total"], steps["warmup"]),
        "memory": estimate_memory(model, config, model_config, data["longest"] or config.data.max_length),
        "notes": notes,
    }


def meta_model(config: TrainingConfig, model_config: Any) -> Any:
    """The adapted model with shapes and no values."""
    from transformers import AutoModelForCausalLM

    try:
        with torch.device("meta"):
            base = AutoModelForCausalLM.from_config(model_config)
    except (ValueError, KeyError) as error:
        raise ConfigError(f"building {config.model.model_name_or_path} from its config: {error}") from error
    return setup.add_adapter(base.requires_grad_(False), config)


def count_parameters(model: Any, config: TrainingConfig) -> dict[str, Any]:
    """Trainable and total parameters, each tensor once, and the trainable ones by optimizer group."""
    total = sum(parameter.numel() for parameter in model.parameters())
    rates = (config.train.learning_rate, config.train.gate_learning_rate, config.train.weight_decay)
    groups = create_optimizer_groups(model, *rates)
    sizes = {group["name"]: sum(p.numel() for p in group["params"]) for group in groups}
    trainable = sum(sizes.values())
    base = total if config.adapter.method == "full" else total - trainable
    return {
        "trainable": trainable,
        "base": base,
        "total": total,
        "percent_of_base": 100 * trainable / base,
        "by_group": sizes,
    }


def _describe_data(config: TrainingConfig, model_config: Any, notes: list[str]) -> dict[str, Any]:
    try:
        tokenizer, made = setup.load_tokenizer(config, model_config)
    except ConfigError as error:
        notes.append(f"rows are counted but not encoded: {error}")
        raw = read_rows(setup.task_request(config, config.data.max_train_samples), "train")
        return {"train_examples": len(raw), "train_tokens": None, "longest": None}
    notes.extend(made)
    report = setup.load_rows(config, tokenizer, "train").report
    if report.shortened or report.dropped:
        notes.append(f"{report.shortened} rows are shortened and {report.dropped} dropped to fit max_length")
    return {
        "train_examples": report.kept,
        "train_tokens": report.tokens,
        "learned_tokens": report.completion_tokens,
        "longest": report.longest,
    }


def count_steps(config: TrainingConfig, examples: int, processes: int | None = None) -> dict[str, Any]:
    """Optimizer steps as the Trainer counts them; `processes` is that of the launcher, else 1."""
    train = config.train
    processes = processes or int(os.environ.get("WORLD_SIZE", "1"))
    batches = examples / (train.per_device_train_batch_size * processes)
    per_process = math.floor(batches) if train.dataloader_drop_last else math.ceil(batches)
    per_epoch = max(math.ceil(per_process / train.gradient_accumulation_steps), 1)
    total = train.max_steps if train.max_steps > 0 else math.ceil(train.num_train_epochs * per_epoch)
    warmup = train.warmup_steps
    size = train.per_device_train_batch_size * train.gradient_accumulation_steps * processes
    return {
        "per_epoch": per_epoch,
        "total": total,
        "epochs": total / per_epoch,
        "warmup": int(warmup) if warmup >= 1 else math.ceil(total * warmup),
        "rows_per_step": size,
        "processes": processes,
    }


def schedule(config: TrainingConfig, total: int, warmup: int) -> list[dict[str, float]]:
    """Both learning rates at a few moments of the run, from transformers' own scheduler."""
    from transformers import get_scheduler

    train = config.train
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    try:
        made = get_scheduler(
            train.lr_scheduler_type,
            optimizer,
            num_warmup_steps=warmup,
            num_training_steps=total,
            scheduler_specific_kwargs=train.lr_scheduler_kwargs,
        )
    except (ValueError, TypeError) as error:
        raise ConfigError(f"lr_scheduler_type {train.lr_scheduler_type}: {error}") from error
    if not hasattr(made, "lr_lambdas"):
        return []
    factor = made.lr_lambdas[0]
    moments = sorted({min(round(part * total), total - 1) for part in SCHEDULE_POINTS} | {warmup})
    return [
        {
            "step": step,
            "learning_rate": train.learning_rate * factor(step),
            "gate_learning_rate": train.gate_learning_rate * factor(step),
        }
        for step in moments
        if 0 <= step < total
    ]
