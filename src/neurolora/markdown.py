"""Templates of Markdown, and the filters that keep a value inside its cell, line or block.

Room: the floor. Model cards and tables of results are written with it; jinja2 is imported when it is used.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def markdown_templates(folder: Path) -> Any:
    """The jinja2 environment of a folder: no HTML escaping, but the filters `cell`, `fenced` and `python`."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    made = Environment(
        loader=FileSystemLoader(folder), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        keep_trailing_newline=True,
    )  # fmt: skip
    made.filters["cell"] = cell
    made.filters["fenced"] = fenced
    made.filters["python"] = repr
    return made


def cell(value: Any) -> str:
    """A value inside a table's cell or a line of Markdown: no line break, bar, or HTML tag gets through."""
    text = re.sub(r"\s+", " ", str(value))
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("`", "\\`")


def table(columns: Sequence[str], rows: Sequence[Sequence[str | None]]) -> str:
    """A table with a header; None is an empty cell."""
    lines = [columns, ["---"] * len(columns), *rows]
    spelled = [["" if value is None else cell(value) for value in line] for line in lines]
    return "".join(f"| {' | '.join(line)} |\n" for line in spelled)


def fenced(text: str, language: str = "") -> str:
    """A block of code whose fence is longer than any run of backticks in it."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"
