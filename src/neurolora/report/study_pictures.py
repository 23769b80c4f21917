"""The pictures of a study: bars with intervals beside the paper's figures, and curves over a setting.

Room: report. Called by `studies.py`; functions of a result's plain values.
"""

from __future__ import annotations

from typing import Any

from neurolora.report.drawing import FAINT, INK, SERIES, Picture, canvas, to_svg
from neurolora.report.figures import label_rows, tall
from neurolora.report.study_facts import Result, spread


def score_bars(result: Result, column: str) -> Picture:
    """A bar for each row with its interval over seeds, and a point for each seed."""
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
            values = row["values"][column]
            points = {"linestyle": "none", "marker": "o", "markersize": 2.5, "color": SERIES[1]}
            axes.plot(values, [place] * len(values), **points)
        label_rows(axes, [row["name"] for row in rows])
        axes.invert_yaxis()
        axes.axvline(0, color=FAINT, lw=0.8)
        axes.set(xlabel=name)
        axes.grid(axis="x")
        best = max(rows, key=lambda row: row["intervals"][column]["mean"])
        told = f"Highest here: {best['name']}, {spread(best['intervals'][column])}"
        return Picture(f"{result['title']}: {name}", to_svg(figure), f"{told}; a point is a seed")


def curve_picture(result: Result, column: str) -> Picture:
    """Means over seeds with intervals, over the setting that the study varies.

    The paper's have a panel of their own below: another model's scores lie elsewhere; what can be compared is
    the shape.
    """
    name = next(each["name"] for each in result["columns"] if each["id"] == column)
    places, rows = result["curve"]["places"], {row["id"]: row for row in result["rows"]}
    order = sorted(places, key=lambda label: places[label])
    found = [(places[label], rows[label]["intervals"][column]) for label in order]
    printed = [(places[label], rows[label]["paper"].get(column)) for label in order]
    printed = [(x, y) for x, y in printed if y is not None]
    panels = 2 if printed else 1
    with canvas(2.4 * panels, panels=panels) as (figure, axes):
        panes = list(axes) if printed else [axes]
        _draw_means(panes[0], found)
        panes[0].set(ylabel=f"{name}, here")
        if printed:
            style = {"marker": "D", "markersize": 4, "linestyle": "dashed", "color": SERIES[1]}
            panes[1].plot(*zip(*printed, strict=True), **style)
            panes[1].set(ylabel="the paper, Llama-3-8B")
        for pane in panes:
            pane.grid(axis="y")
        panes[-1].set(xlabel=result["curve"]["label"])
        x, best = max(found, key=lambda point: point[1]["mean"])
        told = f"Highest mean at {x:g}: {spread(best)}"
        if printed:
            told += f"; the paper's at {max(printed, key=lambda point: point[1])[0]:g}"
        return Picture(result["title"], to_svg(figure), told)


def _draw_means(axes: Any, found: list[Any]) -> None:
    """Points (x, interval) with error bars, where all have an interval."""
    errors = None
    if all(one["low"] is not None for _, one in found):
        errors = [[abs(one["mean"] - one[end]) for _, one in found] for end in ("low", "high")]
    means = [one["mean"] for _, one in found]
    look = {"marker": "o", "markersize": 4, "capsize": 3, "color": SERIES[0]}
    axes.errorbar([x for x, _ in found], means, yerr=errors, **look)
