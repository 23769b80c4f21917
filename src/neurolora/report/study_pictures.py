"""The pictures of a study: bars with intervals beside the paper's figures, and curves over a setting.

Room: report. Called by `studies.py`; functions of a result's plain values.
"""

from __future__ import annotations

from typing import Any

from neurolora.report.drawing import FAINT, INK, SERIES, Picture, canvas, to_svg
from neurolora.report.figures import label_rows, tall
from neurolora.report.study_facts import Result, spread


def score_bars(result: Result, column: str) -> Picture:
    """A bar for each row with its interval over seeds; a mark where the paper has the figure."""
    name = next(each["name"] for each in result["columns"] if each["id"] == column)
    rows = [row for row in result["rows"] if column in row["intervals"]]
    with canvas(tall(len(rows))) as (figure, axes):
        for place, row in enumerate(rows):
            found = row["intervals"][column]
            error = (
                None
                if found["low"] is None
                else [[found["mean"] - found["low"]], [found["high"] - found["mean"]]]
            )
            look = {"color": SERIES[0], "height": 0.6, "ecolor": INK, "error_kw": {"lw": 1.0}, "capsize": 3}
            axes.barh([place], [found["mean"]], xerr=error, **look)
            if column in row["paper"]:
                axes.plot([row["paper"][column]], [place], marker="D", color=SERIES[1], markersize=5)
        label_rows(axes, [row["name"] for row in rows])
        axes.invert_yaxis()
        axes.axvline(0, color=FAINT, lw=0.8)
        axes.set(xlabel=name)
        axes.grid(axis="x")
        best = max(rows, key=lambda row: row["intervals"][column]["mean"])
        told = f"Highest here: {best['name']}, {spread(best['intervals'][column])}"
        marks = "; diamonds: the paper's figures, of another model" if _has_paper(rows, column) else ""
        return Picture(f"{result['title']}: {name}", to_svg(figure), f"{told}{marks}")


def _has_paper(rows: list[Any], column: str) -> bool:
    return any(column in row["paper"] for row in rows)


def curve_picture(result: Result, column: str) -> Picture:
    """Means over seeds with intervals, over the setting that the study varies; the paper's beside them."""
    name = next(each["name"] for each in result["columns"] if each["id"] == column)
    places, rows = result["curve"]["places"], {row["id"]: row for row in result["rows"]}
    order = sorted(places, key=lambda label: places[label])
    x = [places[label] for label in order]
    found = [rows[label]["intervals"][column] for label in order]
    with canvas(3.0) as (figure, axes):
        errors = None
        if all(one["low"] is not None for one in found):
            errors = [
                [one["mean"] - one["low"] for one in found],
                [one["high"] - one["mean"] for one in found],
            ]
        means = [one["mean"] for one in found]
        axes.errorbar(
            x, means, yerr=errors, marker="o", markersize=4, capsize=3, color=SERIES[0], label="here"
        )
        printed = [
            (places[label], rows[label]["paper"][column]) for label in order if column in rows[label]["paper"]
        ]
        if printed:
            style = {"marker": "D", "markersize": 4, "linestyle": "dashed", "color": SERIES[1]}
            axes.plot(*zip(*printed, strict=True), label="paper, Llama-3-8B", **style)
        axes.set(xlabel=result["curve"]["label"], ylabel=name)
        axes.grid(axis="y")
        axes.legend(loc="best", fontsize=8.5)
        best = max(order, key=lambda label: rows[label]["intervals"][column]["mean"])
        told = f"Highest mean at {places[best]:g}: {spread(rows[best]['intervals'][column])}"
        return Picture(result["title"], to_svg(figure), told)
