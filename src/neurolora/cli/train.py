"""`neurolora train`: a config and flags in, a run folder out; scores and reports when training is done.

Room: cli. It puts rooms together that do not know each other: training, evaluation, report.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from neurolora.cli.console import messages, print_json, results
from neurolora.errors import NeuroLoraError
from neurolora.files import write_json

if TYPE_CHECKING:
    from neurolora.training import RunResult, TrainingConfig

CONTEXT_SETTINGS = {"allow_extra_args": True, "ignore_unknown_options": True}

ConfigFile = Annotated[
    Path | None, typer.Option("--config", metavar="FILE", help="Config in YAML; may also stand alone.")
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Print settings, parameters, memory and steps; train nothing.")
]
Resume = Annotated[
    bool, typer.Option("--resume", help="Go on from the newest whole checkpoint in the output folder.")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the run that is in the output folder.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
Keys = Annotated[bool, typer.Option("--keys", help="List all settings with their defaults, and stop.")]


def train_command(
    ctx: typer.Context,
    config: ConfigFile = None,
    dry_run: DryRun = False,
    resume: Resume = False,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
    keys: Keys = False,
) -> None:
    """Fine-tune a model with a routed adapter: neurolora train [CONFIG.yaml] [--any-setting VALUE ...].

    Every setting of the config can be given as a flag, which overrides the file: --learning-rate 1e-4,
    --learning_rate=1e-4, --adapter.r 16, --bf16, --no-bf16, --target-modules q_proj v_proj. --keys lists
    them. Exit codes: 0 done; 2 wrong settings; 3 bad data; 5 stopped by a NaN or a damaged checkpoint;
    6 the output could not be written.
    """
    if keys:
        _print_keys(as_json)
        return
    training = _load(config, list(ctx.args))
    if dry_run:
        _print_plan(training, as_json)
        return
    result = train(training, resume, overwrite)
    if result.is_main_process:
        scores = after_training(training, result)
        _print_result(result, scores, as_json)


def _load(config: Path | None, words: list[str]) -> TrainingConfig:
    from neurolora.errors import ConfigError, explain
    from neurolora.training import load_config
    from neurolora.training.flags import parse_flags

    named, overrides = parse_flags(words)
    if config is not None and named is not None:
        raise ConfigError(
            explain("neurolora train takes one config file", f"{named} and {config}", "Keep one")
        )
    return load_config(config or named, overrides)


def train(config: TrainingConfig, resume: bool, overwrite: bool) -> RunResult:
    """Train with messages on stderr, scoring the start where the config asks for it."""
    from neurolora.training import RunHooks, run_training

    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    console = messages()

    def score_before(model: Any, tokenizer: Any) -> None:
        _score(config, "before", model, tokenizer)

    return run_training(
        config,
        resume="auto" if resume else None,
        overwrite=overwrite,
        notify=lambda text: console.print(text, markup=False),
        hooks=RunHooks(before_training=score_before),
    )


def _score(config: TrainingConfig, stage: str, model: Any, tokenizer: Any) -> dict[str, Any] | None:
    """Scores of the eval section's tasks, written to `eval/STAGE.json`; None if none are asked for.

    What is there from before a resume is kept. In a run of several processes the main one alone scores.
    """
    section = config.eval
    path = config.output_dir / "eval" / f"{stage}.json"
    if not section.tasks or (stage == "before" and not section.before) or _is_helper_process():
        return None
    if path.is_file():
        return _read(path)
    from neurolora.evaluation import evaluate
    from neurolora.training.setup import task_request

    requests = [task_request(config) if name == config.data.task else name for name in section.tasks]
    messages().print(f"scoring {', '.join(section.tasks)} ({stage} training)")
    found = evaluate(
        model,
        tokenizer,
        requests,
        batch_size=section.batch_size,
        limit=section.limit,
        num_fewshot=section.num_fewshot,
        log_samples=section.log_samples,
        apply_chat_template=section.apply_chat_template,
        split=section.split,
        progress=False,
    )
    if found.samples:
        found.write(path.parent / stage)
    write_json(path, found.to_dict())
    return _read(path)


def _read(path: Path) -> dict[str, Any]:
    import json

    values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return values


def _is_helper_process() -> bool:
    import os

    return os.environ.get("RANK", "0") != "0"


def after_training(config: TrainingConfig, result: RunResult) -> dict[str, Any]:
    """Scores, model card and report. A page that cannot be made is said, and spoils no finished run."""
    from neurolora.report.model_card import write_model_card
    from neurolora.report.training import write_training_report
    from neurolora.training.setup import load_finished

    model, tokenizer = result.model, result.tokenizer
    if model is None and config.eval.tasks and not (result.output_dir / "eval" / "after.json").is_file():
        model, tokenizer = load_finished(config)
    scores = {stage: _score_or_read(config, stage, model, tokenizer) for stage in ("before", "after")}
    writers = (
        [write_training_report]
        if config.adapter.method == "full"
        else [write_model_card, write_training_report]
    )
    for write in writers:
        try:
            write(result.output_dir)
        except NeuroLoraError as error:
            messages().print(f"the run is complete, but {write.__name__} failed: {error}", markup=False)
    return {stage: found["results"] for stage, found in scores.items() if found}


def _score_or_read(config: TrainingConfig, stage: str, model: Any, tokenizer: Any) -> dict[str, Any] | None:
    path = config.output_dir / "eval" / f"{stage}.json"
    if path.is_file():
        return _read(path)
    return _score(config, stage, model, tokenizer) if stage == "after" else None


def _print_result(result: RunResult, scores: dict[str, Any], as_json: bool) -> None:
    report = result.output_dir / "report.html"
    document = {
        **result.summary,
        "output_dir": str(result.output_dir),
        "report": str(report) if report.is_file() else None,
        "scores": scores,
    }
    if as_json:
        print_json(document)
        return
    from rich.table import Table

    table = Table(show_header=False, box=None)
    for name, value in _rows(document):
        table.add_row(name, value)
    results().print(table)


def _rows(document: dict[str, Any]) -> list[tuple[str, str]]:
    last = document.get("last", {})
    trainable, total = document["trainable_parameters"], document["total_parameters"]
    rows = [
        ("method", f"{document['method']} on {document['task']}"),
        ("trainable parameters", f"{trainable:,} of {total:,} ({100 * trainable / total:.3f}%)"),
        ("steps", f"{document['steps']:,} in {document['seconds']:.1f} s"),
        *((name.replace("_", " "), f"{value:.4f}") for name, value in last.items()),
    ]
    for stage, tasks in document["scores"].items():
        for task, metrics in tasks.items():
            shown = ", ".join(
                f"{name} {value:.4f}" for name, value in metrics.items() if _is_score(name, value)
            )
            rows.append((f"{task} {stage}", shown))
    return [*rows, ("folder", document["output_dir"]), ("report", str(document["report"]))]


def _is_score(name: str, value: Any) -> bool:
    return isinstance(value, float) and "_stderr" not in name


def _print_plan(config: TrainingConfig, as_json: bool) -> None:
    from neurolora.cli.train_plan import plan_text
    from neurolora.training import make_plan

    plan = make_plan(config)
    if as_json:
        print_json(plan)
    else:
        print(plan_text(plan), end="")


def _print_keys(as_json: bool) -> None:
    from neurolora.cli.train_plan import key_rows, keys_text

    rows = key_rows()
    if as_json:
        print_json(rows)
    else:
        print(keys_text(rows), end="")
