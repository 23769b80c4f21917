"""`neurolora eval`: score an adapter or a model on tasks, with standard errors.

Room: cli. It reads options, loads, calls `neurolora.evaluation.evaluate`, prints and writes.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from neurolora.cli.console import messages, print_json, results
from neurolora.errors import ConfigError, explain

if TYPE_CHECKING:
    from rich.table import Table

    from neurolora.evaluation.results import EvaluationResult
    from neurolora.tasks import SavedTask, TaskRequest

Adapter = Annotated[
    str | None,
    typer.Argument(metavar="[ADAPTER]", help="Folder or hub name of an adapter, or of a plain model."),
]
Model = Annotated[
    str | None, typer.Option("--model", help="A plain model in place of an adapter; `world` is bundled.")
]
Tasks = Annotated[
    list[str] | None,
    typer.Option(
        "--tasks", help="Names, comma-separated: ours or lm-eval's. Default: the adapter's own task."
    ),
]
DatasetName = Annotated[
    str | None, typer.Option("--dataset-name", help="Local file or folder, or hub name, of the one task.")
]
DatasetConfig = Annotated[
    str | None, typer.Option("--dataset-config", help="Configuration of the data set; a subject for MMLU.")
]
Split = Annotated[str, typer.Option("--split", help="train, validation or test.")]
Limit = Annotated[float | None, typer.Option("--limit", help="Rows a task; below 1, a part of them.")]
Fewshot = Annotated[int | None, typer.Option("--num-fewshot", help="Worked examples in the prompt.")]
BatchSize = Annotated[str, typer.Option("--batch-size", help="Rows a forward pass, or auto.")]
Seed = Annotated[int, typer.Option("--seed", help="Draws the worked examples.")]
Device = Annotated[str | None, typer.Option("--device", help="cpu, cuda, cuda:1, ...")]
Dtype = Annotated[str | None, typer.Option("--dtype", help="Of the base: auto, float32, bfloat16, float16.")]
BaseModel = Annotated[str | None, typer.Option("--base-model", help="In place of the adapter's own base.")]
Mismatch = Annotated[
    bool,
    typer.Option(
        "--allow-base-mismatch/--refuse-base-mismatch",
        "--allow-other-base",
        help="Use the adapter on a base with other weights than it was trained on.",
    ),
]
OutputPath = Annotated[
    Path | None, typer.Option("--output-path", metavar="FOLDER", help="Write results and samples here.")
]
LogSamples = Annotated[
    bool, typer.Option("--log-samples/--no-log-samples", help="Write one JSON line a row too.")
]
IncludePath = Annotated[
    Path | None, typer.Option("--include-path", metavar="FOLDER", help="lm-eval YAML tasks of your own.")
]
ChatTemplate = Annotated[
    bool, typer.Option("--apply-chat-template", help="Put prompts into the tokenizer's chat template.")
]
NewTokens = Annotated[
    int | None, typer.Option("--max-new-tokens", min=1, help="Of generation tasks; by default from the data.")
]
AgainstParents = Annotated[
    bool,
    typer.Option(
        "--against-parents", help="Of a merged adapter: each parent alone on its task, then the merged one."
    ),
]
Html = Annotated[
    Path | None, typer.Option("--html", metavar="FILE", help="With --against-parents: a page with bars.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]


def evaluate_command(
    adapter: Adapter = None,
    model: Model = None,
    tasks: Tasks = None,
    dataset_name: DatasetName = None,
    dataset_config: DatasetConfig = None,
    split: Split = "test",
    limit: Limit = None,
    num_fewshot: Fewshot = None,
    batch_size: BatchSize = "16",
    seed: Seed = 0,
    device: Device = None,
    dtype: Dtype = None,
    base_model: BaseModel = None,
    allow_base_mismatch: Mismatch = False,
    output_path: OutputPath = None,
    log_samples: LogSamples = True,
    include_path: IncludePath = None,
    apply_chat_template: ChatTemplate = False,
    max_new_tokens: NewTokens = None,
    against_parents: AgainstParents = False,
    html: Html = None,
    as_json: AsJson = False,
) -> None:
    """Score an adapter (unmerged, on its base) or a plain model on tasks, by lm-eval.

    Prompts are those that the adapter was trained with, where the task is its own. Scores have standard
    errors and do not depend on the batch size beyond rounding.
    """
    source = _one_source(adapter, model)
    size = parse_batch_size(batch_size)
    named = split_names(tasks)
    load: dict[str, Any] = {
        "base_model": base_model, "dtype": dtype, "device": device,
        "allow_base_mismatch": allow_base_mismatch,
    }  # fmt: skip
    options: dict[str, Any] = {
        "batch_size": size, "limit": limit, "num_fewshot": num_fewshot, "split": split, "seed": seed,
        "apply_chat_template": apply_chat_template, "max_new_tokens": max_new_tokens,
    }  # fmt: skip
    if against_parents:
        from neurolora.cli.evaluate_parents import evaluate_against_parents

        refuse_with_parents(named, dataset_name, include_path)
        pages: dict[str, Any] = {"html": html, "output_path": output_path, "as_json": as_json}
        return evaluate_against_parents(source, load=load, **pages, **options)
    if html is not None:
        raise ConfigError(explain("eval --html", "it draws a comparison", "Add --against-parents"))
    from neurolora.evaluation import evaluate, load_for_inference

    loaded = load_for_inference(source, **load)
    requests = requests_for(named, loaded.task, dataset_name, dataset_config)
    wants_samples = log_samples and output_path is not None
    found = evaluate(
        loaded.model,
        loaded.tokenizer,
        requests,
        log_samples=wants_samples,
        include_path=include_path,
        **options,
    )
    document = {**found.to_dict(), "source": describe_source(source, base_model)}
    return _report(found, document, output_path, as_json)


def refuse_with_parents(named: list[str], dataset_name: str | None, include_path: Path | None) -> None:
    """`--against-parents` takes tasks and data from the parents. Raises ConfigError for others."""
    if named or dataset_name is not None or include_path is not None:
        found, do = "each parent brings its own task and data", "Leave out --tasks and --dataset-name"
        raise ConfigError(explain("eval --against-parents", found, do))


def _one_source(adapter: str | None, model: str | None) -> str:
    if (adapter is None) == (model is None):
        found = "neither is given" if adapter is None else "both are given"
        raise ConfigError(explain("eval ADAPTER or --model", found, "Give one of them"))
    return str(adapter or model)


def parse_batch_size(text: str) -> int | str:
    """`auto` or a whole number of at least 1."""
    if text == "auto":
        return text
    if not text.isdigit() or int(text) < 1:
        raise ConfigError(explain("--batch-size", f"{text!r}", "Give a whole number of at least 1, or auto"))
    return int(text)


def split_names(tasks: list[str] | None) -> list[str]:
    """Names from repeated and comma-separated options, each once, in order."""
    names = [name.strip() for one in tasks or [] for name in one.split(",")]
    return list(dict.fromkeys(name for name in names if name))


def requests_for(
    names: list[str], saved: SavedTask | None, dataset_name: str | None, dataset_config: str | None
) -> list[TaskRequest | str]:
    """What to evaluate. The adapter's own task keeps the data and prompts that it was trained with.

    Raises `ConfigError` without a task, or with a data set for several.
    """
    import dataclasses

    from neurolora.tasks import TASKS, TaskRequest

    if not names:
        if saved is None:
            do = f"Name it with --tasks: {', '.join(TASKS)}, or one of lm-eval's"
            raise ConfigError(explain("eval", "no task is given, and none is saved with the model", do))
        names = [saved.request.task]
    if dataset_name is not None and (len(names) > 1 or names[0] not in TASKS):
        do = "Evaluate them one at a time, or leave out --dataset-name"
        raise ConfigError(explain("--dataset-name", f"it belongs to one of our tasks, not {names}", do))
    data = {"dataset_name": dataset_name, "dataset_config": dataset_config}
    given: dict[str, Any] = {name: value for name, value in data.items() if value is not None}
    requests: list[TaskRequest | str] = []
    for name in names:
        if saved is not None and name == saved.request.task:
            requests.append(dataclasses.replace(saved.request, limit=None, **given))
        else:
            requests.append(TaskRequest(task=name, **given) if name in TASKS else name)
    return requests


def describe_source(source: str, base_model: str | None) -> dict[str, Any]:
    """Where the model came from, with fingerprints of an adapter's files."""
    from neurolora.evaluation.adapter_folder import describe_adapter, find_source, open_adapter
    from neurolora.world import resolve_model_name

    found = find_source(resolve_model_name(source))
    if not found.is_adapter:
        return {"model": source}
    return {"adapter": describe_adapter(open_adapter(Path(found.name), base_model))}


def _report(
    found: EvaluationResult, document: dict[str, Any], output_path: Path | None, as_json: bool
) -> None:
    for warning in found.warnings:
        messages().print(f"warning: {warning}", markup=False)
    if output_path is not None:
        for path in found.write(output_path, document):
            messages().print(f"wrote {path}", markup=False)
    if as_json:
        print_json(document)
    else:
        results().print(score_table(found))


def score_table(found: EvaluationResult) -> Table:
    """Task, rows, metric, value, standard error: shares in percent, losses as they are."""
    from rich.table import Table

    from neurolora.evaluation.results import metric_names, stderr_name

    table = Table("task", "n", "metric", "value", "std. error", "seconds")
    for column in (1, 3, 4, 5):
        table.columns[column].justify = "right"
    for task, scores in found.results.items():
        lead = [task, str(found.n_samples.get(task, "")), f"{found.seconds.get(task, math.nan):.1f}"]
        for metric in metric_names(scores):
            error = scores.get(stderr_name(metric), math.nan)
            table.add_row(
                lead[0], lead[1], metric, _shown(metric, scores[metric]), _shown(metric, error), lead[2]
            )
            lead = ["", "", ""]
    return table


def _shown(metric: str, value: float) -> str:
    from neurolora.evaluation.results import LOWER_IS_BETTER

    if math.isnan(value):
        return "-"
    return f"{value:.4f}" if metric.partition(",")[0] in LOWER_IS_BETTER else f"{100 * value:.2f} %"
