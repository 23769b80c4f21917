"""The pictures of a study: means with intervals and seeds, and curves over a setting beside the paper's.

Room: report. Called by `studies.py`; functions of a result's plain values.
"""

from __future__ import annotations

import textwrap
from typing import Any

from neurolora.report.drawing import SERIES, Picture, canvas, to_svg
from neurolora.report.figures import label_rows, tall
from neurolora.report.study_facts import Result, spread

#: Characters of a row's name in a line: what leaves half of the picture to the scores.
LONGEST_LINE = 34


def score_dots(result: Result, column: str) -> Picture:
    """For each row its mean, its interval and a small point for each seed.

    No bars: scores that lie close together would be so many bars of one length. The axis need not start at 0.
    """
    name = next(each["name"] for each in result["columns"] if each["id"] == column)
    rows = [row for row in result["rows"] if column in row["intervals"]]
    names = [textwrap.fill(row["name"], LONGEST_LINE) for row in rows]
    room = 1.5 if any("\n" in each for each in names) else 1.0  # rows stand apart evenly, of one line or two
    with canvas(room * tall(len(rows))) as (figure, axes):
        for place, row in enumerate(rows):
            found, values = row["intervals"][column], row["values"][column]
            axes.plot(values, [place] * len(values), "o", markersize=2.5, color=SERIES[1], zorder=3)
            if found["low"] is not None:
                line = {"linewidth": 3.5, "alpha": 0.5, "zorder": 1}
                axes.plot([found["low"], found["high"]], [place, place], color=SERIES[0], **line)
            axes.plot([found["mean"]], [place], "o", markersize=5, color=SERIES[0], zorder=2)
        label_rows(axes, names)
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.set(xlabel=name)
        axes.grid(axis="x")
        best = max(rows, key=lambda row: row["intervals"][column]["mean"])
        told = f"Highest here: {best['name']}, {spread(best['intervals'][column])}"
        how = "dot: the mean; line: its 95% interval; a small point is a seed"
        return Picture(f"{result['title']}: {name}", to_svg(figure), f"{told}; {how}")


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
