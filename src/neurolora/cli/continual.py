"""`neurolora continual`: a stream of tasks learned one after another, by one strategy or many.

Room: cli. Calls `continual.run_continual`, and the report for the page.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from neurolora.cli.console import messages, print_json, results
from neurolora.errors import NeuroLoraError

if TYPE_CHECKING:
    from neurolora.continual import StreamConfig
    from neurolora.continual.run import StreamResult

ConfigFile = Annotated[Path | None, typer.Argument(metavar="CONFIG.yaml", help="The stream, in YAML.")]
OutputDir = Annotated[str | None, typer.Option("--output-dir", help="In place of the file's output_dir.")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Check file, data, model and folder; list the cells.")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the comparison in the folder.")]
Report = Annotated[bool, typer.Option("--report", help="Results and page of what is there; run nothing.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print results.json on stdout.")]
Strategies = Annotated[bool, typer.Option("--strategies", help="List the strategies, and stop.")]

MAIN = ("average", "BWT", "learning")
EXAMPLE = """\
model: {model_name_or_path: world}
tasks: [world-recall, world-passage, world-sums]
train: {learning_rate: 6e-3, gate_learning_rate: 2e-3, per_device_train_batch_size: 32,
        gradient_accumulation_steps: 1}
strategies:
  - sequential                                        # NeuroLoRA
  - {strategy: sequential, adapter: {method: lora}, train: {learning_rate: 3e-3}}
  - {strategy: ewc, train: {learning_rate: 3e-3}, settings: {weight: 1000}}
orders: [[world-recall, world-passage, world-sums], [world-sums, world-passage, world-recall]]
seeds: [0, 1, 2]
eval: {limit: 600}
output_dir: runs/stream
"""


def continual_command(
    config: ConfigFile = None,
    output_dir: OutputDir = None,
    dry_run: DryRun = False,
    overwrite: Overwrite = False,
    report: Report = False,
    as_json: AsJson = False,
    strategies: Strategies = False,
) -> None:
    """Learn task after task, score every task after each, and compare strategies.

    A task is a name (world-recall, gsm8k, ...) or the keys of training's data section with a `name`. Each
    strategy goes through every order with every seed. Given again, the command goes on where it was stopped.
    --strategies lists the strategies with an example file. Exit codes: 0 done; 2 wrong settings; 3 bad data;
    5 stopped by a NaN; 6 the output could not be written.
    """
    if strategies:
        _print_strategies(as_json)
        return
    stream = _load(config, output_dir)
    if dry_run:
        from neurolora.continual.run import check

        check(stream, overwrite)
        _print_cells(stream, as_json)
        return
    _show(_gathered(stream) if report else _run(stream, overwrite), as_json)


def _load(config: Path | None, output_dir: str | None) -> StreamConfig:
    from neurolora.continual import load_stream
    from neurolora.errors import ConfigError, explain

    if config is None:
        do = "Give a YAML file; `neurolora continual --strategies` shows one"
        raise ConfigError(explain("neurolora continual", "there is no config", do))
    return load_stream(config, {"output_dir": output_dir} if output_dir else None)


def _run(stream: StreamConfig, overwrite: bool) -> StreamResult:
    from neurolora.continual import run_continual

    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    console = messages()
    return run_continual(stream, overwrite=overwrite, notify=lambda text: console.print(text, markup=False))


def _gathered(stream: StreamConfig) -> StreamResult:
    from neurolora.continual.run import gather

    console = messages()
    return gather(stream, lambda text: console.print(text, markup=False))


def _show(found: StreamResult, as_json: bool) -> None:
    """Write the page, print the table."""
    from neurolora.continual.results import TABLE
    from neurolora.report.continual import write_stream_report

    if not found.is_main_process:
        return
    try:
        page = write_stream_report(found.output_dir)
    except NeuroLoraError as error:
        messages().print(f"the results are written, but their page failed: {error}", markup=False)
        page = None
    if as_json:
        print_json(found.summary)
        return
    results().print(summary_table(found.summary))
    folder = found.output_dir
    results().print(f"folder  {folder}\ntable   {folder / TABLE}\nreport  {page}", markup=False)


def summary_table(summary: dict[str, Any]) -> Any:
    """A line for each row of the comparison: last accuracies, and the main metrics with their intervals.

    The whole table, in Markdown, is `table.md` in the folder.
    """
    from neurolora.cli.tables import plain_table
    from neurolora.continual import table_rows

    columns, rows = table_rows(summary)
    tasks = range(1, 1 + len(summary["tasks"]))
    rest = range(columns.index("runs"), len(columns))
    kept = [*range(1 + len(tasks)), *(columns.index(name) for name in MAIN), *rest]
    shown = [[_mean_alone(row[i]) if i in tasks else row[i] for i in kept] for row in rows]
    title = "After the last task, in percent (mean; of metrics ± half of the 95% interval over seeds)"
    return plain_table(title, [columns[i] for i in kept], shown)


def _mean_alone(cell: str | None) -> str | None:
    return None if cell is None else cell.partition(" ")[0]


def _print_cells(stream: StreamConfig, as_json: bool) -> None:
    from neurolora.continual import cells

    planned = list(cells(stream, Path(stream.output_dir)))
    listed: list[dict[str, Any]] = [
        {"label": cell.folder.parent.name, "order": cell.order, "seed": cell.seed, "folder": str(cell.folder)}
        for cell in planned
    ]
    if as_json:
        print_json({"config": stream.resolved(), "cells": listed})
        return
    for row in listed:
        print(f"{row['label']}: {' -> '.join(row['order'])}, seed {row['seed']}")
    runs = sum(len(cell.stages) for cell in planned)
    print(f"{len(listed)} cells, {runs} training runs, into {stream.output_dir}")


def _print_strategies(as_json: bool) -> None:
    from neurolora.continual import STRATEGIES

    rows: list[dict[str, Any]] = [
        {
            "name": row.name,
            "about": row.about,
            "methods": list(row.methods),
            "stores": row.stores,
            "grows": row.grows,
            "source": row.source,
            "settings": {
                name: {"default": field.default, "about": field.description}
                for name, field in row.knobs.model_fields.items()
            },
        }
        for row in STRATEGIES.values()
    ]
    if as_json:
        print_json(rows)
        return
    for row in rows:
        print(f"{row['name']}: {row['about']} ({row['source']})")
        print(f"    with {', '.join(row['methods'])}; keeps {row['stores']}")
        for name, told in row["settings"].items():
            print(f"    {name}: {told['default']}" + (f"  {told['about']}" if told["about"] else ""))
    print(f"\nA file:\n\n{EXAMPLE}", end="")
