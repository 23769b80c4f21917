"""Pictures of how adapters stand to each other: tables of numbers as colours, shares as stacked bars.

Room: report. Called by `interference_page.py` and `continual_pictures.py`; each a function of plain numbers,
no file is read or written.
Cividis and PuOr can be told apart by colour-blind readers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from neurolora.report.drawing import SERIES, Picture, canvas, to_svg
from neurolora.report.figures import label_rows, tall

Cell = float | None
#: The end of the scale is never nearer to zero than this, so that rounding is not painted as a difference.
LEAST_LIMIT = 0.05
MOST_WRITTEN = 12
MOST_SMALL = 20
LONGEST_LABEL = 18
WIDEST_UPRIGHT = 24


def square_heatmap(
    title: str,
    label: str,
    names: Sequence[str],
    table: Sequence[Sequence[Cell]],
    columns: Sequence[str] | None = None,
    what: str = "adapters",
) -> Picture:
    """One row and one column a name; numbers are written into the cells of up to `MOST_WRITTEN`.

    columns: other names along the top. what: what the names are, in the plural.
    """
    values = _array(table)
    short = [shorten(name) for name in names]
    with canvas(1.5 + 0.42 * min(len(names), MOST_WRITTEN)) as (figure, axes):
        image = _paint(figure, axes, values, label)
        if len(names) <= MOST_WRITTEN:
            _write_numbers(axes, image, values)
        label_rows(axes, short)
        _label_columns(axes, short if columns is None else columns)
        return Picture(title, to_svg(figure), _tell(values, f"{len(names)} {what}"))


def table_heatmap(
    title: str,
    label: str,
    rows: Sequence[str],
    columns: Sequence[str],
    table: Sequence[Sequence[Cell]],
    top: float,
    told: str,
) -> Picture:
    """A table of numbers from 0 to `top`, so that several pictures have one scale; numbers in the cells.

    Of many columns the numbers are whole and small; more than `MOST_SMALL` have none.
    """
    values = _array(table)
    many = len(columns) > MOST_WRITTEN // 2
    with canvas(1.5 + 0.34 * min(len(rows), MOST_SMALL)) as (figure, axes):
        image = _paint(figure, axes, values, label, top)
        if len(columns) <= MOST_SMALL:
            _write_numbers(axes, image, values, digits=0 if many else 1, size=7 if many else 8.5)
        label_rows(axes, [shorten(name) for name in rows])
        _label_columns(axes, [shorten(name) for name in columns])
        return Picture(title, to_svg(figure), told)


def module_heatmap(
    title: str, label: str, modules: Sequence[str], columns: Sequence[str], table: Sequence[Sequence[Cell]]
) -> Picture:
    """One row a module, one column a pair (or an adapter)."""
    values = _array(table)
    with canvas(tall(len(modules)) + 1.0) as (figure, axes):
        _paint(figure, axes, values, label)
        label_rows(axes, modules)
        _label_columns(axes, [shorten(name, 2 * LONGEST_LABEL + 3) for name in columns])
        return Picture(title, to_svg(figure), _tell(values, f"{len(modules)} modules"))


def stacked_shares(
    title: str, xlabel: str, modules: Sequence[str], parts: Sequence[str], table: Sequence[Sequence[float]]
) -> Picture:
    """One bar a module, cut into the parts' shares (rows of `table`, each adding up to one or to zero)."""
    values = np.asarray(table, dtype=float)
    with canvas(tall(len(modules)) + 0.3 + 0.2 * -(-len(parts) // 2)) as (figure, axes):
        start = np.zeros(len(modules))
        for index, colour in enumerate(_colours(len(parts))):
            name = shorten(parts[index], 2 * LONGEST_LABEL)
            axes.barh(
                range(len(modules)), values[:, index], left=start, color=colour, height=0.75, label=name
            )
            start = start + values[:, index]
        axes.set(xlabel=xlabel, xlim=(0, 1))
        axes.set_ylim(len(modules) - 0.4, -0.6)
        label_rows(axes, modules)
        figure.legend(loc="outside upper left", ncols=2, fontsize=8.5)
        means = "; ".join(f"{part} {mean:.3g}" for part, mean in zip(parts, values.mean(0), strict=True))
        return Picture(title, to_svg(figure), f"Mean share over {len(modules)} modules: {means}")


def shorten(name: str, most: int = LONGEST_LABEL) -> str:
    """The end of a long name, which is what tells folders apart."""
    return name if len(name) <= most else f"…{name[-(most - 1) :]}"


def _array(table: Sequence[Sequence[Cell]]) -> np.ndarray[Any, Any]:
    """Cells without a value as NaN, which is left unpainted."""
    return np.array([[np.nan if cell is None else cell for cell in row] for row in table], dtype=float)


def _paint(figure: Any, axes: Any, values: np.ndarray[Any, Any], label: str, top: float | None = None) -> Any:
    """Numbers of both signs from -limit to limit around white, others from 0 up; NaN stays empty.

    The limit is `top`, without one the greatest number.
    """
    limit = max(LEAST_LIMIT, float(np.nanmax(np.abs(values), initial=0.0)) if top is None else top)
    signed = bool((values < 0).any())
    image = axes.imshow(
        values,
        aspect="auto",
        cmap="PuOr_r" if signed else "cividis",
        vmin=-limit if signed else 0,
        vmax=limit,
        interpolation="none",
    )
    bar = figure.colorbar(image, ax=axes, location="bottom", shrink=0.9, pad=0.02, aspect=30)
    bar.outline.set_visible(False)
    bar.set_label(label)
    axes.spines[:].set_visible(False)
    return image


def _write_numbers(
    axes: Any, image: Any, values: np.ndarray[Any, Any], digits: int = 2, size: float = 8.5
) -> None:
    for (row, column), value in np.ndenumerate(values):
        if np.isfinite(value):
            red, green, blue, _ = image.cmap(image.norm(value))
            dark = 0.299 * red + 0.587 * green + 0.114 * blue < 0.5
            axes.text(column, row, f"{value:.{digits}f}", ha="center", va="center", fontsize=size,
                      color="white" if dark else "black")  # fmt: skip


def _label_columns(axes: Any, names: Sequence[str]) -> None:
    """Names along the top, slanted where they would touch; none of more than can be read."""
    axes.xaxis.tick_top()
    axes.tick_params(axis="x", length=0)
    if len(names) > 4 * MOST_WRITTEN:
        axes.set_xticks([])
        return
    slanted = sum(map(len, names)) > 2 * WIDEST_UPRIGHT
    style = {"rotation": 35, "ha": "left", "rotation_mode": "anchor"} if slanted else {}
    axes.set_xticks(range(len(names)), list(names), fontsize=8.5, **style)


def _colours(count: int) -> Sequence[Any]:
    """The page's own colours while there are enough, then steps of cividis."""
    if count <= len(SERIES):
        return SERIES[:count]
    import matplotlib

    return [matplotlib.colormaps["cividis"](index / (count - 1)) for index in range(count)]


def _tell(values: np.ndarray[Any, Any], rows: str) -> str:
    if not np.isfinite(values).any():
        return f"{rows}: no values"
    low, middle, high = np.nanmin(values), np.nanmedian(values), np.nanmax(values)
    return f"{rows}: from {low:.3g} to {high:.3g}, middle {middle:.3g}"
