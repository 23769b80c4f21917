"""`neurolora bench WHAT`: speed and memory of every method, side by side in one run.

Room: cli. It reads options and prints; the measuring is done in `neurolora.bench`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from neurolora.cli.console import messages, print_json, results

What = Annotated[
    str, typer.Argument(metavar="WHAT", help="train-step, memory, decode or scaling.", show_default=False)
]
ShapeName = Annotated[
    str, typer.Option("--shape", help="small (hidden 1024, 4 layers), tiny, or llama-3-8b (for a GPU).")
]
Dtype = Annotated[str, typer.Option("--dtype", help="Of the base: float32, bfloat16 or float16.")]
Device = Annotated[str, typer.Option("--device", help="cpu or cuda.")]
Rounds = Annotated[int, typer.Option("--rounds", help="How often every method runs, in turn.")]
Layers = Annotated[int | None, typer.Option("--layers", min=1, help="Fewer layers than the shape has.")]
Threads = Annotated[int | None, typer.Option("--threads", min=1, help="CPU threads. [default: torch's]")]
Methods = Annotated[
    str | None,
    typer.Option("--methods", help="Comma-separated; the frozen base and LoRA are always there."),
]
Out = Annotated[
    Path | None, typer.Option("--out", metavar="FILE", help="Write the result as JSON, and a page beside it.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]


def bench_command(
    what: What,
    shape: ShapeName = "small",
    dtype: Dtype = "float32",
    device: Device = "cpu",
    rounds: Rounds = 20,
    layers: Layers = None,
    threads: Threads = None,
    methods: Methods = None,
    out: Out = None,
    as_json: AsJson = False,
) -> None:
    """Measure NeuroLoRA and FlyLoRA beside PEFT's LoRA, DoRA, VeRA and RandLoRA.

    All methods run in turn on one frozen model, so a slow moment of the machine falls on all of them. Leave
    the machine alone meanwhile. The model is random: only its shape counts.
    """
    import torch

    from neurolora.bench.methods import choose
    from neurolora.bench.results import Request, run_benchmark

    names = None if methods is None else [name.strip() for name in methods.split(",") if name.strip()]
    chosen = tuple(method.name for method in choose(names))
    request = Request(what, shape, dtype, device, rounds, layers, chosen)
    if threads is not None:
        torch.set_num_threads(threads)
    document = _with_progress(request, run_benchmark)
    if out is not None:
        _write(document, out)
    if as_json:
        print_json(document)
    else:
        _show(document)


def _with_progress(request: Any, run: Any) -> dict[str, Any]:
    """Run with a bar on stderr; every round and every warm-up counts one."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    done = TextColumn("{task.completed} rounds")
    columns = (TextColumn("{task.description}"), BarColumn(), done, TimeElapsedColumn())
    with Progress(*columns, console=messages(), transient=True) as bar:
        task = bar.add_task(f"{request.benchmark}, {request.shape}, {request.dtype}", total=None)
        document: dict[str, Any] = run(request, progress=lambda: bar.advance(task))
    return document


def _write(document: dict[str, Any], out: Path) -> None:
    from neurolora.files import write_json
    from neurolora.report.benchmark import write_benchmark_page

    write_json(out, document)
    page = write_benchmark_page(document, out.with_suffix(".html"))
    messages().print(f"wrote {out} and {page}", markup=False)


def _show(document: dict[str, Any]) -> None:
    from rich.table import Table
    from rich.text import Text

    from neurolora.report.benchmark import benchmark_tables
    from neurolora.report.page import number

    for table in benchmark_tables(document):
        shown = Table(title=table.title, title_justify="left", box=None, pad_edge=False)
        for index, column in enumerate(table.columns):
            shown.add_column(column, justify="left" if index == 0 else "right", no_wrap=True)
        for row in table.rows:
            shown.add_row(*(Text(value if isinstance(value, str) else number(value)) for value in row))
        results().print(shown)
