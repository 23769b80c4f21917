"""From a matplotlib figure to SVG that lives inside a page: same input, same bytes, light and dark.

Room: report, the drawing board under `figures.py`. Colours in a figure are placeholders that become CSS
variables, so the page decides how they look; text stays text, so it can be read aloud and searched.
Matplotlib is imported on first use, and its object interface alone: no backend and no global state is set.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

#: Placeholder colour in the figure -> what the page paints (variables are defined in templates/style.css).
INK = "#010101"
FAINT = "#020202"
SERIES = ("#030301", "#030302", "#030303")
PAINTS = {
    INK: "currentColor",
    FAINT: "var(--faint)",
    SERIES[0]: "var(--series-1)",
    SERIES[1]: "var(--series-2)",
    SERIES[2]: "var(--series-3)",
}

#: A figure is narrow enough that its text can still be read when a phone shrinks it to its width.
WIDTH = 5.2

SETTINGS = {
    "svg.hashsalt": "neurolora",
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 9.5,
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "grid.color": FAINT,
    "grid.alpha": 0.35,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "text.color": INK,
    "text.parse_math": False,
    "xtick.color": INK,
    "ytick.color": INK,
}


@dataclass(frozen=True)
class Picture:
    """A drawing with its title, and one sentence that says the same to someone who cannot see it."""

    title: str
    svg: str
    description: str


@contextmanager
def canvas(height: float, width: float = WIDTH, panels: int = 1) -> Iterator[tuple[Any, Any]]:
    """A figure in inches, in the house's style, with its axes: one pair, or an array of `panels` above one
    another over the same x."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(SETTINGS):
        figure = Figure(figsize=(width, height), layout="constrained")
        axes = figure.subplots(panels, sharex=True)
        yield figure, axes


def to_svg(figure: Any) -> str:
    """The figure as an `<svg>` element: no date, no prologue, no identifiers that could clash in a page."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    text = re.sub(r"<defs>\s*<style[^>]*>.*?</style>\s*</defs>\s*", "", text, flags=re.DOTALL)
    text = re.sub(r'<g id="[^"]*"', "<g", text)
    text = re.sub(r"font-family: [^;\"]*; ?", "", text)
    text = re.sub(r'<svg ([^>]*?)width="[^"]*" height="[^"]*" ', r"<svg \1", text)
    for placeholder, paint in PAINTS.items():
        text = text.replace(placeholder, paint)
    return text.strip()
