"""The pictures of the reports, each a function of plain numbers.

Room: report. Called by `training.py`, `inspection_page.py`, `heatmaps.py`. No file is read or written here.
Colours are Okabe and Ito's, and cividis: both can be told apart by colour-blind readers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from neurolora.report.drawing import FAINT, INK, SERIES, Picture, canvas, to_svg

Points = Sequence[tuple[float, float]]
SMOOTH_ABOVE = 40
ROW_HEIGHT = 0.18
MOST_LABELS = 40


def curve(title: str, ylabel: str, lines: Mapping[str, Points], noisy: bool = False) -> Picture | None:
    """Lines over the optimizer step; a long one that is `noisy` is drawn faint, its running mean over it.

    Points that are not finite are left out. None if no line has a point.
    """
    lines = {name: _finite(points) for name, points in lines.items()}
    lines = {name: points for name, points in lines.items() if points}
    if not lines:
        return None
    with canvas(2.7) as (figure, axes):
        for colour, (name, points) in zip(SERIES, lines.items(), strict=False):
            _draw_line(axes, points, colour, name, noisy and len(points) > SMOOTH_ABOVE)
        axes.set(xlabel="optimizer step", ylabel=ylabel)
        axes.grid(axis="y")
        axes.margins(x=0.02)
        if len(lines) > 1 or noisy:
            axes.legend(loc="best", fontsize=8.5)
        return Picture(title, to_svg(figure), _tell(lines))


def _finite(points: Points) -> list[tuple[float, float]]:
    return [(x, y) for x, y in points if np.isfinite(x) and np.isfinite(y)]


def _draw_line(axes: Any, points: Points, colour: str, name: str, smooth: bool) -> None:
    xs, ys = np.array(points, dtype=float).T
    marker = "o" if len(xs) <= 12 else None
    if not smooth:
        axes.plot(xs, ys, color=colour, label=name, marker=marker, markersize=4)
        return
    width = max(5, len(xs) // 20)
    axes.plot(xs, ys, color=colour, alpha=0.3, linewidth=0.9)
    axes.plot(xs, running_mean(ys, width), color=colour, label=f"{name} (mean of {width} points)")


def running_mean(values: Sequence[float] | np.ndarray[Any, Any], width: int) -> np.ndarray[Any, Any]:
    """Mean of each value and up to `width` - 1 before it: at the start, of as many as there are."""
    sums = np.concatenate([[0.0], np.cumsum(np.asarray(values, dtype=float))])
    ends = np.arange(1, len(sums))
    starts = np.maximum(ends - width, 0)
    means: np.ndarray[Any, Any] = (sums[ends] - sums[starts]) / (ends - starts)
    return means


def _tell(lines: Mapping[str, Points]) -> str:
    parts = [f"{name}: from {points[0][1]:.4g} to {points[-1][1]:.4g}" for name, points in lines.items()]
    return "; ".join(parts)


def routing_heatmap(names: Sequence[str], frequencies: Sequence[Sequence[float]], k: int, r: int) -> Picture:
    """One row a layer, one column a rank: the share of tokens for which the rank was active."""
    table = _rectangle(frequencies)
    even = k / r
    with canvas(tall(len(names)) + 0.5) as (figure, axes):
        top = max(1.6 * even, float(np.nanmax(table, initial=0.0)), 1e-9)
        image = axes.imshow(table, aspect="auto", cmap="cividis", vmin=0, vmax=top, interpolation="none")
        bar = figure.colorbar(image, ax=axes, location="bottom", shrink=0.9, pad=0.02, aspect=30)
        bar.outline.set_visible(False)
        bar.ax.axvline(even, color="white", linewidth=3.5)
        bar.ax.axvline(even, color="black", linewidth=1.8)
        bar.set_label(f"share of tokens with the rank active (line: k/r = {even:.3g}, every rank alike)")
        axes.set(xlabel="rank")
        label_rows(axes, names)
        axes.spines[:].set_visible(False)
        description = (
            f"How often each of {r} ranks is used in {len(names)} layers: "
            f"least {np.nanmin(table):.3g}, most {np.nanmax(table):.3g}, even use would be {even:.3g}"
        )
        return Picture("How often each rank is used", to_svg(figure), description)


def rank_use(frequencies: Sequence[Sequence[float]], k: int, r: int) -> Picture:
    """Per layer the ranks sorted by use, then over the layers: the middle, and the least and the most."""
    ordered = -np.sort(-_rectangle(frequencies), axis=1)
    position = np.arange(1, ordered.shape[1] + 1)
    middle = np.nanmedian(ordered, axis=0)
    with canvas(2.7) as (figure, axes):
        low, high = np.nanmin(ordered, axis=0), np.nanmax(ordered, axis=0)
        axes.fill_between(position, low, high, color=SERIES[0], alpha=0.25, linewidth=0, label="all layers")
        axes.plot(position, middle, color=SERIES[0], label="middle layer")
        axes.axhline(k / r, color=INK, linestyle="--", linewidth=1, label=f"k/r = {k / r:.3g}")
        axes.set(xlabel="ranks of a layer, the most used first", ylabel="share of tokens", ylim=(0, None))
        axes.grid(axis="y")
        axes.legend(loc="best", fontsize=8.5)
        description = f"The most used rank is active for {middle[0]:.3g} of the tokens in the middle layer, "
        return Picture(
            "How evenly the ranks are used",
            to_svg(figure),
            f"{description}the least used for {middle[-1]:.3g}",
        )


def gate_spread(layers: Sequence[Mapping[str, Any]], names: Sequence[str]) -> Picture:
    """One row a layer: the gate's least to greatest value, the ranks' means, and the mean of these."""
    thick = min(4.5, 45 * tall(len(layers)) / len(layers))
    with canvas(tall(len(layers)) + 0.4) as (figure, axes):
        for row, layer in enumerate(layers):
            means = np.asarray(layer["gate_mean"], dtype=float)
            axes.plot(
                [layer["gate_min"], layer["gate_max"]], [row, row], color=FAINT, linewidth=1.4, zorder=1
            )
            axes.plot([means.min(), means.max()], [row, row], color=SERIES[0], linewidth=thick, zorder=2)
            axes.plot([means.mean()], [row], "o", color=SERIES[1], markersize=0.8 * thick, zorder=3)
        axes.axvline(1.0, color=INK, linestyle="--", linewidth=1)
        axes.set(xlabel="gate m (dashed: m = 1, no modulation)")
        axes.set_ylim(len(layers) - 0.4, -0.6)
        label_rows(axes, names)
        least = min(float(layer["gate_min"]) for layer in layers)
        most = max(float(layer["gate_max"]) for layer in layers)
        description = (
            f"Gate values lie between {least:.4g} and {most:.4g}. "
            "Thin line: all values; thick: the means of the ranks; dot: the mean of these"
        )
        return Picture("Gate spread in each layer", to_svg(figure), description)


def bars(
    title: str, xlabel: str, names: Sequence[str], values: Sequence[float], rows: str = "modules"
) -> Picture | None:
    """One horizontal bar a row; a value that is not finite has no bar. None without rows."""
    if not names:
        return None
    drawn = [value if np.isfinite(value) else 0.0 for value in values]
    with canvas(tall(len(names)) + 0.3) as (figure, axes):
        axes.barh(range(len(names)), drawn, color=SERIES[0], height=0.7)
        axes.set(xlabel=xlabel)
        axes.set_ylim(len(names) - 0.4, -0.6)
        axes.grid(axis="x")
        axes.set_axisbelow(True)
        label_rows(axes, names)
        description = f"From {min(drawn):.4g} to {max(drawn):.4g} over {len(names)} {rows}"
        return Picture(title, to_svg(figure), description)


def intervals(
    title: str,
    xlabel: str,
    names: Sequence[str],
    values: Sequence[tuple[float, float, float]],
    reference: float,
) -> Picture:
    """One row a name: a dot at the middle value, a line from the low to the high one; dashed: `reference`."""
    with canvas(tall(len(names)) + 0.3) as (figure, axes):
        for row, (middle, low, high) in enumerate(values):
            axes.plot([low, high], [row, row], color=SERIES[0], linewidth=3.5, alpha=0.5, zorder=2)
            axes.plot([middle], [row], "o", color=SERIES[0], markersize=5, zorder=3)
            axes.annotate(f"{middle:.3f}", (high, row), (5, 0), textcoords="offset points", va="center",
                          fontsize=8.5)  # fmt: skip
        axes.axvline(reference, color=INK, linestyle="--", linewidth=1)
        axes.set(xlabel=xlabel)
        axes.set_ylim(len(names) - 0.4, -0.6)
        axes.margins(x=0.12)
        axes.grid(axis="x")
        label_rows(axes, names)
        told = "; ".join(f"{name}: {middle:.3f}" for name, (middle, _, _) in zip(names, values, strict=True))
        return Picture(title, to_svg(figure), told)


def growth(title: str, xlabel: str, ylabel: str, lines: Mapping[str, Points]) -> Picture:
    """Lines on logarithmic axes, a tick at every size."""
    with canvas(2.7) as (figure, axes):
        for colour, (name, points) in zip(SERIES, lines.items(), strict=False):
            xs, ys = np.array(points, dtype=float).T
            axes.plot(xs, ys, color=colour, label=name, marker="o", markersize=4)
        sizes = sorted({x for points in lines.values() for x, _ in points})
        axes.set(xlabel=xlabel, ylabel=ylabel, xscale="log", yscale="log")
        axes.set_xticks(sizes, [f"{size:g}" for size in sizes])
        axes.set_xticks([], minor=True)
        values = [y for points in lines.values() for _, y in points]
        wide = max(values) > 5 * min(values)  # then only 2 and 5 between the powers of ten
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")  # no mathematical notation on a page
        axes.yaxis.set_minor_formatter(
            lambda value, _: f"{value:g}" if not wide or f"{value:e}"[0] in "25" else ""
        )
        axes.grid()
        axes.legend(loc="best", fontsize=8.5)
        return Picture(title, to_svg(figure), _tell(lines))


def _rectangle(rows: Sequence[Sequence[float]]) -> np.ndarray[Any, Any]:
    """Rows of unequal length (ranks that differ by layer) as one table, the gaps as NaN."""
    width = max(len(row) for row in rows)
    table = np.full((len(rows), width), np.nan)
    for index, row in enumerate(rows):
        table[index, : len(row)] = row
    return table


def tall(rows: int) -> float:
    """Height in inches of a picture with this many rows."""
    return max(1.6, 0.9 + ROW_HEIGHT * min(rows, MOST_LABELS) + 0.01 * max(0, rows - MOST_LABELS))


def label_rows(axes: Any, names: Sequence[str]) -> None:
    """Every row's name if they fit, else every n-th."""
    every = -(-len(names) // MOST_LABELS)
    axes.set_yticks(range(0, len(names), every), list(names)[::every], fontsize=8.5)
    axes.tick_params(axis="y", length=0)


def short_names(names: Sequence[str]) -> list[str]:
    """Module names without the parts that all of them share: `model.layers.3.self_attn.q_proj` -> `3.q_proj`.

    A part is left out only where the names stay distinct without it.
    """
    split = [name.split(".") for name in names]
    if len({len(parts) for parts in split}) != 1 or len(names) < 2:
        return list(names)
    kept = [column for column in zip(*split, strict=True) if len(set(column)) > 1]
    return [".".join(parts) for parts in zip(*kept, strict=True)] if kept else list(names)
