"""`neurolora inspect ADAPTER ...`: what an adapter folder holds, as text, JSON or a page.

Room: cli. It reads options and prints; the counting is done in `neurolora.report.inspection`. Two or more
adapters go to `inspect_several.py`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from neurolora.cli.console import messages, print_json, results
from neurolora.cli.evaluate import BaseModel, Device, Dtype, Mismatch
from neurolora.cli.tables import pairs_table, plain_table
from neurolora.errors import ConfigError, DataError, explain

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from neurolora.report.inspection import AdapterFacts

Adapters = Annotated[
    list[str],
    typer.Argument(
        metavar="ADAPTER",
        help="Folder (a run, a checkpoint) or hub name of an adapter; of several, to compare them.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
Html = Annotated[Path | None, typer.Option("--html", metavar="FILE", help="Write a self-contained page too.")]
Text = Annotated[
    list[Path] | None,
    typer.Option(
        "--text", metavar="FILE", help="Run the model over this text and show the routing; repeatable."
    ),
]
MaxTokens = Annotated[int, typer.Option("--max-tokens", min=1, help="Tokens of the texts to run.")]
Tokens = Annotated[
    int | None,
    typer.Option(
        "--tokens", min=1, help="Several adapters without --text: random inputs to route. [default: 512]"
    ),
]
Seed = Annotated[
    int | None, typer.Option("--seed", min=0, help="What these random inputs are drawn from. [default: 0]")
]


def inspect_command(
    adapters: Adapters,
    as_json: AsJson = False,
    html: Html = None,
    text: Text = None,
    base_model: BaseModel = None,
    max_tokens: MaxTokens = 8192,
    tokens: Tokens = None,
    seed: Seed = None,
    device: Device = None,
    dtype: Dtype = None,
    allow_base_mismatch: Mismatch = False,
) -> None:
    """Show what an adapter folder holds, or what several adapters have against each other.

    One adapter: kind, parameters counted, fingerprints, norms, orthogonality. With --text the base model is
    loaded and run, to show how often each rank is used.

    Two or more: the interference of each pair in each module they have in common (cosine of the deltas,
    sign conflicts, energy, overlap of the routing sets, column spaces of B), and which of them will lose
    most when merged. Routing is compared on random inputs (--tokens of them, drawn from --seed), or with
    --text on what the base model makes of the texts.

    Only the adapters' own files are read unless there is a --text, whatever the size of the base. Plain LoRA
    adapters are read too.
    """
    if base_model and not text:
        do = "Add --text FILE, or leave out --base-model: without a text the base is not needed"
        raise ConfigError(explain("inspect --base-model", "there is no text to run", do))
    model: dict[str, Any] = {
        "base_model": base_model,
        "dtype": dtype,
        "device": device,
        "max_tokens": max_tokens,
        "allow_base_mismatch": allow_base_mismatch,
    }
    drawn = {name: value for name, value in (("tokens", tokens), ("seed", seed)) if value is not None}
    _refuse_drawing(drawn, len(adapters), bool(text))
    folders = [find_folder(adapter) for adapter in adapters]
    if len(folders) == 1:
        _inspect_one(folders[0], text or [], as_json, html, model)
        return
    from neurolora.cli.inspect_several import inspect_several

    inspect_several(folders, [read_text(path) for path in text or []], drawn, as_json, html, **model)


def _refuse_drawing(drawn: dict[str, int], adapters: int, has_text: bool) -> None:
    """Raises ConfigError if random inputs are asked for where none are drawn."""
    if not drawn or (adapters > 1 and not has_text):
        return
    flags = " ".join(f"--{name}" for name in drawn)
    found = "the texts are the inputs" if adapters > 1 else "of one adapter nothing is run on random inputs"
    raise ConfigError(explain(f"inspect {flags}", found, f"Leave out {flags}"))


def _inspect_one(
    folder: Path, text: list[Path], as_json: bool, html: Path | None, model: dict[str, Any]
) -> None:
    from neurolora.report.inspection import inspect_adapter

    facts = inspect_adapter(folder)
    routing = None
    if text:
        from neurolora.report.routing import measure_routing

        texts = [read_text(path) for path in text]
        with messages().status("running the model over the texts"):
            routing = measure_routing(folder, texts, **model)
    if html is not None:
        from neurolora.report.inspection_page import write_inspection_report

        write_inspection_report(facts, html, routing)
        messages().print(f"wrote {html}", markup=False)
    if as_json:
        print_json(facts.to_dict() | {"routing": routing})
    else:
        show(facts, routing, results())


def find_folder(adapter: str) -> Path:
    """The folder itself, or the one that an adapter on the hub was fetched to. Raises AdapterError."""
    folder = Path(adapter).expanduser()
    if folder.exists():
        return folder
    from neurolora.evaluation.adapter_folder import find_source

    return Path(find_source(adapter).name)


def read_text(path: Path) -> str:
    """A UTF-8 text file. Raises DataError."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        raise DataError(explain(f"reading the text {path}", reason, "Give a UTF-8 text file")) from error


def show(facts: AdapterFacts, routing: dict[str, Any] | None, console: Console) -> None:
    """Print everything for people."""
    from neurolora.report.page import spell
    from neurolora.report.training import describe_adapter, fingerprint_rows, parameter_rows

    console.print(f"{facts.method} adapter {facts.path}", style="bold", markup=False)
    rows = [("Base model", spell(facts.base_model)), ("Adapter", describe_adapter(facts.config))]
    console.print(pairs_table([*rows, *parameter_rows(facts), *fingerprint_rows(facts)]))
    for note in facts.notes:
        console.print(f"Note: {note}", style="yellow", markup=False)
    console.print(_module_table(facts))
    if routing is not None:
        console.print(_routing_table(routing))


#: Of the page's columns, those that fit on a terminal, under shorter names.
SHORT = ("module", "in", "out", "r", "trainable", "|B|", "cos² of B", "|W2|", "gamma", "beta")


def _module_table(facts: AdapterFacts) -> Table:
    from neurolora.report.figures import short_names
    from neurolora.report.inspection_page import module_row

    rows = [module_row(facts, index)[: len(SHORT)] for index in range(len(facts.modules))]
    return plain_table(
        "Modules", SHORT, _with_names(rows, short_names([module.name for module in facts.modules]))
    )


def _routing_table(routing: dict[str, Any]) -> Table:
    from neurolora.report.figures import short_names
    from neurolora.report.training import layer_table

    table = layer_table(routing)
    names = short_names([layer["name"] for layer in routing["layers"]])
    title = f"Routing (every rank used alike would be {routing['top_k'] / routing['r']:.4g})"
    return plain_table(title, table["columns"], _with_names(table["rows"], names))


def _with_names(rows: list[list[Any]], names: list[str]) -> list[list[Any]]:
    return [[name, *row[1:]] for name, row in zip(names, rows, strict=True)]
