"""`neurolora inspect A B ...`: the interference of several adapters, as text, JSON or a page.

Room: cli. Called by `inspect.py` for two or more adapters; the measuring is done in `neurolora.merging`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neurolora.cli.console import messages, print_json, progress_bars, results
from neurolora.cli.tables import pairs_table, plain_table

if TYPE_CHECKING:
    from rich.console import Console

    from neurolora.merging.interference_report import InterferenceReport

#: More pairs than this are no columns for a terminal.
MOST_COLUMNS = 6
#: The page's columns under names that fit on a terminal, after the pair's own.
SHORT = ("cos", "conflicts", "by mass", "S", "chance", "cos² of B", "chance", "angle")


def inspect_several(
    folders: Sequence[Path],
    texts: Sequence[str],
    drawn: Mapping[str, int],
    as_json: bool,
    html: Path | None,
    **model: Any,
) -> None:
    """Compare the adapters and show the report; with texts load the base by the settings `model`.

    drawn: `tokens` and `seed` of random inputs, as far as they were asked for. Raises ConfigError if they
    were and no adapter routes.
    """
    inputs = None
    if drawn:
        from neurolora.report.text_inputs import first_routed

        first_routed(folders, " ".join(f"--{name}" for name in drawn))
    if texts:
        from neurolora.report.text_inputs import inputs_from_texts

        with messages().status("running the base model over the texts"):
            inputs = inputs_from_texts(folders, texts, **model)
    report = _with_progress(folders, inputs, drawn)
    if html is not None:
        from neurolora.report.interference_page import write_interference_report

        write_interference_report(report, html)
        messages().print(f"wrote {html}", markup=False)
    if as_json:
        print_json(report.to_dict())
    else:
        show(report, results())


def _with_progress(folders: Sequence[Path], inputs: Any, drawn: Mapping[str, int]) -> InterferenceReport:
    """Compare with a bar on stderr; every module counts one."""
    from neurolora.merging.interference_collection import compare_adapters

    with progress_bars(remaining=True, disable=not messages().is_terminal) as bar:
        task = bar.add_task("comparing modules", total=None)
        return compare_adapters(
            folders,
            inputs=inputs,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
            **drawn,
        )


def show(report: InterferenceReport, console: Console) -> None:
    """Print everything for people; modules only while their pairs fit on a line."""
    from neurolora.merging.interference_report import FORMULA
    from neurolora.report.interference_page import ADAPTERS, adapter_rows, fact_rows, pair_row

    console.print(f"Interference of {len(report.adapters)} adapters", style="bold", markup=False)
    console.print(pairs_table([*fact_rows(report), ("Prediction", FORMULA)]))
    for note in report.notes:
        console.print(f"Note: {note}", style="yellow", markup=False)
    console.print(plain_table("Adapters, the one that will lose most first", ADAPTERS, adapter_rows(report)))
    rows = [pair_row(pair) for pair in report.pairs]
    console.print(plain_table("Pairs, over all modules", ("pair", *SHORT), rows))
    if len(report.pairs) <= MOST_COLUMNS:
        console.print(_module_table(report))
    else:
        console.print("For each module: --json or --html FILE", markup=False)


def _module_table(report: InterferenceReport) -> Any:
    """Cosines of the deltas, one line a module, one column a pair."""
    from neurolora.report.figures import short_names
    from neurolora.report.interference_page import pair_name, rounded

    names = short_names([module.name for module in report.modules])
    rows = [
        [name, *(rounded(pair.cosine) for pair in module.pairs)]
        for name, module in zip(names, report.modules, strict=True)
    ]
    columns = ("module", *(pair_name(pair) for pair in report.pairs))
    return plain_table("Cosine of the deltas", columns, rows)
