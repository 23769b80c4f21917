"""`neurolora merge --search`: the weights are chosen before anything is merged.

Room: cli; called by `merge.py`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from neurolora.cli.console import progress_bars, results

if TYPE_CHECKING:
    from rich.table import Table

    from neurolora.coefficients import SearchResult
    from neurolora.merging import MergeRequest


def search_and_show(
    request: MergeRequest, objective: str, force: list[str], *, quiet: bool, **options: Any
) -> tuple[MergeRequest, SearchResult]:
    """The request with the weights that were found, and how; a bar counts the merges that were tried."""
    from neurolora.coefficients import search_weights

    with progress_bars() as bar:
        task = bar.add_task(f"searching weights by {objective}", total=options["budget"])
        found = search_weights(
            request,
            objective,
            force=force,
            progress=lambda done, best: bar.update(task, completed=done, description=f"best {best:.4f}"),
            **options,
        )
    parents = tuple(
        replace(parent, weight=weight) for parent, weight in zip(request.parents, found.weights, strict=True)
    )
    if not quiet:
        results().print(search_table(found))
    return replace(request, parents=parents), found


def search_table(found: SearchResult) -> Table:
    """Equal weights, the found ones and the oracle's, with every objective beside the parents alone."""
    from rich.table import Table

    from neurolora.coefficients.objectives import OBJECTIVES

    rows = ", ".join(f"{count} of {task}" for task, count in found.rows.items())
    title = f"{found.evaluations} merges tried by {found.objective}, on {found.split} rows: {rows}"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    names = list(found.compared[0].scores)
    for column in ("weights", ""):
        table.add_column(column)
    for name in names:
        table.add_column(OBJECTIVES[name].column, justify="right")
    for one in found.compared:
        weights = ", ".join(f"{weight:.3f}" for weight in one.weights)
        table.add_row(one.name, weights, *(f"{one.scores[name]:.4f}" for name in names))
    return table
