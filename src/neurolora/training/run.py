"""One training run, from a config to a finished run folder.

Room: training. `run_training` is what `neurolora train` calls; reports and scores of tasks are made by the
command line afterwards, from the folder that this leaves.
"""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from neurolora.errors import DataError, DivergedError, NeuroLoraError, OutputError, explain
from neurolora.files import write_json
from neurolora.provenance import environment
from neurolora.tasks import CompletionCollator, save_task
from neurolora.training import setup
from neurolora.training.checkpoints import why_not_written
from neurolora.training.config import TrainingConfig
from neurolora.training.metrics import METRICS, MetricsFile, read_metrics
from neurolora.training.peak import PeakMemory
from neurolora.training.run_folder import (
    CONFIG,
    DIVERGED,
    FINAL,
    is_finished,
    open_run_folder,
    publish_final,
    read_finished,
    refuse_if_used,
)
from neurolora.world import resolve_model_name

if TYPE_CHECKING:
    from neurolora.training.extra_loss import ExtraLoss

Notify = Callable[[str], None]
ROUTING_BATCHES = 8


@dataclasses.dataclass(frozen=True)
class RunResult:
    """What a run left: its folder, its summary (`run.json`), and the model while it is still in memory."""

    output_dir: Path
    summary: dict[str, Any]
    model: Any = None
    tokenizer: Any = None
    is_main_process: bool = True


@dataclasses.dataclass(frozen=True)
class RunHooks:
    """Where others take part in a run; what they do must follow from the config alone, as a resume redoes it.

    before_training: called with the adapted model and the tokenizer before the first step: for other weights
    to start from, or scores of the start; what it does to the random state changes nothing. extra_losses:
    made from the model as it starts, on its device. train_rows: from the tokenizer, in place of the config's.
    """

    before_training: Callable[[Any, Any], None] | None = None
    extra_losses: Callable[[Any], Sequence[ExtraLoss]] | None = None
    train_rows: Callable[[Any], setup.Rows] | None = None


@dataclasses.dataclass(frozen=True)
class _Prepared:
    """All that training needs, before the first step."""

    config: TrainingConfig
    tokenizer: Any
    train: setup.Rows
    validation: setup.Rows | None


def _silent(message: str) -> None:
    """No messages."""


def run_training(
    config: TrainingConfig,
    *,
    resume: str | None = None,
    overwrite: bool = False,
    progress: bool = True,
    notify: Notify = _silent,
    hooks: RunHooks | None = None,
) -> RunResult:
    """Train as `config` says and fill its run folder.

    resume: `"auto"` goes on from the newest whole checkpoint (from the start if there is none; nothing is
    done if the run is finished), a path from that checkpoint. overwrite: replace a run that is there.

    Raises `ConfigError`, `DataError`, `OutputError`, or `TrainingError` (a NaN; a damaged checkpoint).
    """
    from transformers import set_seed

    resume = resume or config.output.resume_from_checkpoint
    folder = config.output_dir
    if resume is not None and is_finished(folder):
        notify(f"the run in {folder} is finished already; nothing to do")
        return RunResult(folder, read_finished(folder), is_main_process=os.environ.get("RANK", "0") == "0")
    if resume is None and not overwrite:
        refuse_if_used(folder)
    set_seed(config.train.seed)
    arguments = setup.training_arguments(config, evaluate=True)  # finds the processes of a distributed run
    hooks = hooks or RunHooks()
    prepared = _prepare(config, hooks, notify)
    config = prepared.config
    checkpoint = _start_folder(prepared, arguments, resume, overwrite)
    if resume is not None:
        notify(f"going on from {checkpoint}" if checkpoint else "no whole checkpoint: starting at step 0")
    if checkpoint and config.adapter.method == "adalora":
        from neurolora.training.adalora import refuse_to_go_on

        refuse_to_go_on(checkpoint)
    model = setup.load_base_model(config)
    set_seed(config.train.seed)  # the adapter must not depend on what was drawn while loading
    model = setup.add_adapter(model, config)
    if hooks.before_training is not None:
        hooks.before_training(model, prepared.tokenizer)
    trainer = _make_trainer(prepared, model, progress)
    if hooks.extra_losses is not None:  # now that the model is on its device
        # first, as silence has a forward, and with it the routing of the task's own is forgotten
        trainer.extra_losses = (*hooks.extra_losses(model), *trainer.extra_losses)
    started, memory = time.perf_counter(), PeakMemory()
    try:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    except DivergedError as error:
        if trainer.args.should_save:
            write_json(folder / DIVERGED, {"error": str(error)})
        raise
    summary = _summary(trainer, prepared, time.perf_counter() - started, checkpoint)
    summary["peak_bytes"] = memory.bytes
    _finish(trainer, prepared, summary)
    return RunResult(folder, summary, model, prepared.tokenizer, bool(trainer.args.should_save))


def _prepare(config: TrainingConfig, hooks: RunHooks, notify: Notify) -> _Prepared:
    """Tokenizer and data; without a validation split there is no `eval_loss`, unless it was asked for."""
    tokenizer, notes = setup.load_tokenizer(config, setup.load_model_config(config))
    train = hooks.train_rows(tokenizer) if hooks.train_rows else setup.load_rows(config, tokenizer, "train")
    notes += _encoding_notes(train)
    validation = None
    if config.train.eval_strategy != "no":
        try:
            validation = setup.load_rows(config, tokenizer, config.data.dataset_test_split)
        except DataError as error:
            if "eval_strategy" in config.train.model_fields_set:
                raise
            notes += (f"no eval_loss: {error}",)
            config = _without_evaluation(config)
    for note in notes:
        notify(note)
    return _Prepared(config, tokenizer, train, validation)


def _encoding_notes(rows: setup.Rows) -> tuple[str, ...]:
    report = rows.report
    if not (report.shortened or report.dropped):
        return ()
    return (
        f"of {report.total} training rows {report.shortened} were shortened and {report.dropped} dropped "
        "to fit max_length",
    )


def _without_evaluation(config: TrainingConfig) -> TrainingConfig:
    train = config.train.model_copy(update={"eval_strategy": "no"})
    return config.model_copy(update={"train": train})


def _start_folder(prepared: _Prepared, arguments: Any, resume: str | None, overwrite: bool) -> Path | None:
    """Open the run folder in the main process, then let the others look for the same checkpoint."""
    config = prepared.config
    with arguments.main_process_first(local=False, desc="opening the run folder"):
        if not arguments.should_save:
            return open_run_folder(config, resume, overwrite=False) if resume is not None else None
        checkpoint = open_run_folder(config, resume, overwrite)
        (config.output_dir / DIVERGED).unlink(missing_ok=True)
        config.save(config.output_dir / CONFIG)
        write_json(config.output_dir / "env.json", environment())
        splits = {"train": prepared.train, config.data.dataset_test_split: prepared.validation}
        write_json(
            config.output_dir / "data.json", {name: rows.describe() for name, rows in splits.items() if rows}
        )
        save_task(config.output_dir, prepared.train.request)
    return checkpoint


def _make_trainer(prepared: _Prepared, model: Any, progress: bool) -> Any:
    from transformers import PrinterCallback

    from neurolora.training.adalora import AdaLoraCallback
    from neurolora.training.progress import ProgressBar
    from neurolora.training.trainer import NeuroLoraTrainer

    config = prepared.config
    trainer = NeuroLoraTrainer(
        model=model,
        args=setup.training_arguments(config, evaluate=prepared.validation is not None),
        train_dataset=prepared.train.rows,
        eval_dataset=prepared.validation.rows if prepared.validation else None,
        data_collator=CompletionCollator(prepared.tokenizer),
        processing_class=prepared.tokenizer,
        gate_learning_rate=config.train.gate_learning_rate,
        extra_losses=_silence(config, prepared.tokenizer),
        callbacks=[MetricsFile(config.output_dir / METRICS)],
    )
    if config.adapter.method == "adalora":
        trainer.add_callback(AdaLoraCallback())
    trainer.remove_callback(PrinterCallback)  # it prints to stdout, which is for results
    if progress:
        trainer.add_callback(ProgressBar())
    return trainer


def _silence(config: TrainingConfig, tokenizer: Any) -> list[ExtraLoss]:
    from neurolora.training.silence import silence_of

    train = config.train
    if train.silence_data is None:
        return []
    rows = train.silence_batch_size or max(1, train.per_device_train_batch_size // 2)
    data = (train.silence_weight, train.silence_data, rows, train.silence_every)
    return [silence_of(*data, tokenizer, config.data.max_length)]


def _summary(trainer: Any, prepared: _Prepared, seconds: float, checkpoint: Path | None) -> dict[str, Any]:
    """What `run.json` says; seconds are those of this process, from the checkpoint if there was one."""
    parameters = {id(p): p for p in trainer.model.parameters()}.values()
    lines = read_metrics(prepared.config.output_dir / METRICS) if trainer.args.should_save else []
    last = {
        name: line[name]
        for line in lines
        for name in ("loss", "orthogonality_loss", "eval_loss")
        if name in line
    }
    return {
        "status": "finished",
        "method": prepared.config.adapter.method,
        "task": prepared.config.data.task,
        "model": prepared.config.model.model_name_or_path,
        "steps": trainer.state.global_step,
        "epochs": trainer.state.epoch,
        "seconds": round(seconds, 3),
        "resumed_from": checkpoint.name if checkpoint else None,
        "processes": trainer.args.world_size,
        "trainable_parameters": sum(p.numel() for p in parameters if p.requires_grad),
        "total_parameters": sum(p.numel() for p in parameters),
        "train_examples": prepared.train.report.kept,
        "train_tokens": prepared.train.report.tokens,
        "last": last,
    }


def _finish(trainer: Any, prepared: _Prepared, summary: dict[str, Any]) -> None:
    """Write the adapter, the tokenizer and the routing figures aside, then put all in place at once."""
    folder = prepared.config.output_dir
    staged = folder / FINAL
    try:
        trainer.save_model(str(staged))
        trainer.accelerator.wait_for_everyone()
        if trainer.args.should_save:
            _name_base_as_asked(staged / "adapter_config.json", prepared.config)
            routing = _routing(trainer, prepared)
            if routing is not None:
                write_json(staged / "routing.json", routing)
            publish_final(staged, folder, summary)
        trainer.accelerator.wait_for_everyone()
    except (OSError, RuntimeError, SafetensorError) as error:
        if isinstance(error, NeuroLoraError):
            raise
        do = "The last checkpoint is whole: free some space and go on with --resume"
        raise OutputError(explain(f"saving the result in {folder}", why_not_written(error), do)) from error


def _name_base_as_asked(path: Path, config: TrainingConfig) -> None:
    """An adapter of the built-in model names it by its alias, which is right on any machine."""
    name = config.model.model_name_or_path
    if path.is_file() and resolve_model_name(name) != name:
        values = json.loads(path.read_text(encoding="utf-8"))
        write_json(path, {**values, "base_model_name_or_path": name})


def _routing(trainer: Any, prepared: _Prepared) -> dict[str, Any] | None:
    """How the finished adapter routes some held-out rows (training rows where none are held out)."""
    import torch

    from neurolora.tuner import adapter_layers, routing_statistics

    model = trainer.accelerator.unwrap_model(trainer.model)
    if next(adapter_layers(model), None) is None:
        return None
    size = prepared.config.train.per_device_eval_batch_size
    rows = (prepared.validation or prepared.train).rows[: size * ROUTING_BATCHES]
    collate = CompletionCollator(prepared.tokenizer)
    model.eval()
    with torch.no_grad(), routing_statistics(model) as statistics:
        for start in range(0, len(rows), size):
            batch = {
                name: value.to(model.device) for name, value in collate(rows[start : start + size]).items()
            }
            model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
    found: dict[str, Any] = statistics.summary()
    return found
