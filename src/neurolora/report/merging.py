"""The page of `eval MERGED --against-parents --html`: what merging cost each task, as bars and a table.

Room: report.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from neurolora.evaluation.comparison import Comparison
from neurolora.report.drawing import INK, SERIES, Picture, canvas, to_svg
from neurolora.report.page import number, write_page

COLUMNS = ("task", "metric", "rows", "alone", "±", "merged", "±", "difference", "± (paired)", "drop, %")


def write_comparison_page(found: Comparison, path: Path | str) -> Path:
    """Write one self-contained page. Raises OutputError."""
    rows = [
        [row.task, row.metric, row.rows, row.alone, row.alone_stderr, row.merged, row.merged_stderr,
         row.difference, row.difference_stderr, row.drop]
        for row in found.tasks
    ]  # fmt: skip
    values = {
        "title": "What merging cost",
        "subtitle": found.merged,
        "problems": [],
        "facts": [("Tasks", str(len(rows))), ("Mean drop", f"{number(found.mean_drop)}%")],
        "pictures": [comparison_bars(found)],
        "columns": COLUMNS,
        "rows": rows,
        "parents": [(row.task, row.parent) for row in found.tasks],
    }
    return write_page("comparison.html.j2", path, values)


def comparison_bars(found: Comparison) -> Picture:
    """Two bars a task, alone and merged, with their standard errors."""
    places, width = np.arange(len(found.tasks)), 0.38
    whiskers = {"capsize": 3, "ecolor": INK}
    with canvas(2.9) as (figure, axes):
        for shift, name in ((-0.5, "alone"), (0.5, "merged")):
            values = [getattr(row, name) for row in found.tasks]
            errors = np.nan_to_num([getattr(row, f"{name}_stderr") for row in found.tasks])
            colour = SERIES[0] if name == "alone" else SERIES[1]
            axes.bar(places + shift * width, values, width, yerr=errors, color=colour, label=name, **whiskers)
        axes.set_xticks(places, [f"{row.task}\n{row.metric}" for row in found.tasks])
        axes.grid(axis="y")
        axes.set_axisbelow(True)
        axes.legend(loc="best", fontsize=8.5)
        told = "; ".join(f"{r.task}: {r.alone:.3f} alone, {r.merged:.3f} merged" for r in found.tasks)
        return Picture("Each task alone and merged", to_svg(figure), told)
