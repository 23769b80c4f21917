"""The pictures of a comparison of strategies, each a function of plain numbers.

Room: report. Called by `continual.py`. No file is read or written here. A line has one style in all panels,
so that one legend, which the page's template writes, serves them all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neurolora.continual.metrics import forgetting
from neurolora.errors import DataError
from neurolora.report.drawing import INK, PAINTS, SERIES, Picture, canvas, to_svg
from neurolora.report.figures import label_rows, tall
from neurolora.report.heatmaps import WIDEST_UPRIGHT, shorten, table_heatmap

Matrix = NDArray[np.float64]
Interval = tuple[float, float, float]
#: The page's own colours, then three that can be seen on its light and its dark side.
COLOURS = (*SERIES, "#b3558b", "#a8790a", "#808080")
DASHES = ("solid", "dashed", "dotted")
PANEL_WIDTH = 3.0
LONGEST_ROW = 26
LONGEST_TASK = 14


@dataclass(frozen=True)
class LineStyle:
    """How a line looks: `colour` in a figure, `paint` in the page's CSS, `dash` in both."""

    colour: str
    dash: str

    @property
    def paint(self) -> str:
        """The colour as the page has it."""
        return PAINTS.get(self.colour, self.colour)


def line_styles(names: Sequence[str]) -> dict[str, LineStyle]:
    """A style for each name: all colours first, then the same with another dash."""
    return {
        name: LineStyle(COLOURS[place % len(COLOURS)], DASHES[place // len(COLOURS) % len(DASHES)])
        for place, name in enumerate(names)
    }


def numbered(order: Sequence[str]) -> list[str]:
    """`2 world-sums`: a task with its place, by which long names stay apart when they are cut."""
    return [f"{place} {shorten(task, LONGEST_TASK)}" for place, task in enumerate(order, start=1)]


def numbered_columns(order: Sequence[str]) -> list[str]:
    """The same along the top; where the names would touch, the places alone."""
    names = numbered(order)
    upright = sum(map(len, names)) <= 2 * WIDEST_UPRIGHT
    return names if upright else [name.split(" ")[0] for name in names]


def matrix_picture(
    title: str,
    order: Sequence[str],
    before: Sequence[float],
    rows: Mapping[str, Sequence[float]],
    top: float,
    told: str,
) -> Picture:
    """R as a heatmap under the base model's row: `rows` by their names, a column a task, 0 to `top`."""
    table = [list(before), *(list(values) for values in rows.values())]
    return table_heatmap(title, "percent", ["base model", *rows], numbered_columns(order), table, top, told)


def course_picture(
    title: str,
    order: Sequence[str],
    before: Sequence[float],
    R: Matrix,
    styles: Mapping[str, LineStyle],
    top: float,
) -> Picture:
    """A line for each task over the number of tasks learned, faint up to the dot where it was itself."""
    table = np.vstack([np.asarray(before, dtype=float), R])
    with canvas(2.2, PANEL_WIDTH) as (figure, axes):
        for place, task in enumerate(order):
            style, own = styles[task], place + 1
            look = {"color": style.colour, "linestyle": style.dash, "clip_on": False}
            axes.plot(range(own + 1), table[: own + 1, place], alpha=0.45, linewidth=0.8, **look)
            axes.plot(range(own, len(table)), table[own:, place], marker=".", markersize=3, **look)
            axes.plot([own], [table[own, place]], marker="o", markersize=5, **look)
        axes.set(xlabel="tasks learned", ylabel="percent", xlim=(-0.15, len(order) + 0.15), ylim=(0, top))
        _whole_ticks(axes)
        axes.grid(axis="y")
        return Picture(title, to_svg(figure), _tell_course(R))


def _whole_ticks(axes: Any) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _tell_course(R: Matrix) -> str:
    """How the tasks that are learned stood in their turn, and how they stand."""
    done = np.isfinite(R.diagonal())
    learned = len(done) if done.all() else int(np.argmin(done))
    if not learned:
        return "No task is learned yet"
    now = R[learned - 1, :learned]
    told = f"Mean of {learned} learned: {R.diagonal()[:learned].mean():.1f} in their turn"
    return f"{told}, {now[np.isfinite(now)].mean():.1f} after the last"


def forgetting_course(R: Matrix) -> list[float]:
    """After each task j the metric `forgetting` of the tasks so far: R (T, T) -> T numbers, the first 0.

    Mean over i < j of max over l < j of R[l, i], less R[j, i]; NaN where that is not measured.
    """
    course = [0.0] if len(R) and np.isfinite(R[0, 0]) else [float("nan")]
    for count in range(2, len(R) + 1):
        try:
            course.append(forgetting(R[:count, :count]))
        except DataError:
            course.append(float("nan"))
    return course


def forgetting_picture(
    courses: Mapping[str, Sequence[float]], styles: Mapping[str, LineStyle]
) -> Picture | None:
    """A line for each label over the number of tasks learned. None if there is nothing to draw."""
    drawn = {name: np.array(course) for name, course in courses.items() if np.isfinite(course).any()}
    if not drawn:
        return None
    with canvas(3.0) as (figure, axes):
        for name, course in drawn.items():
            style = styles[name]
            axes.plot(range(1, len(course) + 1), course, color=style.colour, linestyle=style.dash, marker="o",
                      markersize=4)  # fmt: skip
        axes.axhline(0, color=INK, linewidth=0.8, zorder=1)
        axes.set(xlabel="tasks learned", ylabel="forgetting, percentage points")
        _whole_ticks(axes)
        axes.grid(axis="y")
        told = "; ".join(f"{name}: {course[np.isfinite(course)][-1]:.1f}" for name, course in drawn.items())
        return Picture("Forgetting of the tasks so far", to_svg(figure), f"At the end, {told}")


def accuracy_bars(rows: Mapping[str, tuple[Interval | None, Interval | None]]) -> Picture | None:
    """Two bars a label, what is left at the end and what was learned in turn, with their intervals."""
    names = ("average: all tasks, after the last", "learning: each task in its turn")
    rows = {label: pair for label, pair in rows.items() if any(pair)}
    if not rows:
        return None
    with canvas(0.6 + tall(2 * len(rows))) as (figure, axes):
        for part, name in enumerate(names):
            found = {place: pair[part] for place, pair in enumerate(rows.values())}
            _bars(axes, found, SERIES[part], part * 0.38 - 0.19, 0.36, name)
        axes.set(xlabel="percent")
        _finish_bars(axes, list(rows))
        figure.legend(loc="outside upper left", fontsize=8.5)
        told = "; ".join(f"{label}: {_mean(pair[0])} and {_mean(pair[1])}" for label, pair in rows.items())
        return Picture("Kept and learned", to_svg(figure), f"Average and learning accuracy of {told}")


def transfer_bars(rows: Mapping[str, Interval | None]) -> Picture | None:
    """A bar a label: backward transfer, below zero where tasks were forgotten. None without values."""
    found = {label: value for label, value in rows.items() if value is not None}
    if not found:
        return None
    with canvas(0.3 + tall(len(found))) as (figure, axes):
        _bars(axes, dict(enumerate(found.values())), SERIES[2], 0.0, 0.6, None)
        axes.axvline(0, color=INK, linewidth=0.8)
        axes.set(xlabel="BWT, percentage points")
        _finish_bars(axes, list(found))
        told = "; ".join(f"{label}: {_mean(value)}" for label, value in found.items())
        return Picture("Backward transfer", to_svg(figure), told)


def _bars(
    axes: Any,
    values: Mapping[int, Interval | None],
    colour: str,
    shift: float,
    height: float,
    name: str | None,
) -> None:
    """Horizontal bars at places of rows; a line from the low to the high end, where these differ."""
    found = {place: value for place, value in values.items() if value is not None}
    places = [place + shift for place in found]
    axes.barh(places, [mean for mean, _, _ in found.values()], height, color=colour, label=name)
    for place, (_, low, high) in zip(places, found.values(), strict=True):
        if high > low:
            axes.plot([low, high], [place, place], color=INK, linewidth=1.4, solid_capstyle="butt")


def _finish_bars(axes: Any, labels: Sequence[str]) -> None:
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.grid(axis="x")
    axes.set_axisbelow(True)
    label_rows(axes, [shorten(label, LONGEST_ROW) for label in labels])


def _mean(value: Interval | None) -> str:
    return "–" if value is None else f"{value[0]:.1f}"


def routing_picture(title: str, order: Sequence[str], table: Matrix, top: float) -> Picture:
    """A row a task, a column a rank: the share of tokens for which it is active, 0 to `top`."""
    with canvas(1.35 + 0.24 * len(table)) as (figure, axes):
        image = axes.imshow(table, aspect="auto", cmap="cividis", vmin=0, vmax=top, interpolation="none")
        bar = figure.colorbar(image, ax=axes, location="bottom", shrink=0.9, pad=0.02, aspect=30)
        bar.outline.set_visible(False)
        bar.set_label("share of tokens with the rank active, mean over modules")
        axes.set(xlabel="rank")
        axes.spines[:].set_visible(False)
        label_rows(axes, numbered(order[: len(table)]))
        low, high = np.nanmin(table), np.nanmax(table)
        told = f"{len(table)} tasks, {table.shape[1]} ranks: from {low:.3g} to {high:.3g}"
        return Picture(title, to_svg(figure), told)
