"""`neurolora eval MERGED --against-parents`: what merging cost each task, as a table and a bar chart.

Room: cli; called by `evaluate.py`.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neurolora.cli.console import messages, print_json, results

if TYPE_CHECKING:
    from rich.table import Table

    from neurolora.evaluation.comparison import Comparison


def evaluate_against_parents(
    merged: str,
    *,
    html: Path | None,
    output_path: Path | None,
    as_json: bool,
    load: dict[str, Any],
    **options: Any,
) -> None:
    """Score the parents alone and the merged adapter, then print, draw and write."""
    from neurolora.evaluation.comparison import compare_with_parents

    found = compare_with_parents(
        merged, progress=lambda what: messages().print(what, markup=False), load=load, **options
    )
    document = found.to_dict()
    if output_path is not None:
        from neurolora.files import write_json

        write_json(output_path / "comparison.json", document)
    if html is not None:
        from neurolora.report.merging import write_comparison_page

        write_comparison_page(found, html)
        messages().print(f"wrote {html}", markup=False)
    if as_json:
        print_json(document)
    else:
        results().print(comparison_table(found))


def comparison_table(found: Comparison) -> Table:
    """Table 2's form: alone, merged, and the drop in percent of alone."""
    from rich.table import Table

    table = Table(title=f"{found.merged} beside its parents", title_justify="left", box=None, pad_edge=False)
    for column in ("task", "metric", "rows", "alone", "merged", "difference", "drop"):
        table.add_column(column, justify="left" if column in ("task", "metric") else "right")
    for row in found.tasks:
        table.add_row(
            row.task, row.metric, f"{row.rows:,}", _with_error(row.alone, row.alone_stderr),
            _with_error(row.merged, row.merged_stderr), _with_error(row.difference, row.difference_stderr),
            _percent(row.drop),
        )  # fmt: skip
    table.add_row("mean", "", "", "", "", "", _percent(found.mean_drop))
    return table


def _percent(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.1f}%"


def _with_error(value: float, error: float) -> str:
    return f"{value:.4f}" if math.isnan(error) else f"{value:.4f} ± {error:.4f}"
