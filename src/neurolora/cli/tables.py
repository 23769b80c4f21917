"""Tables for people on a terminal.

Room: cli. `inspect.py` and `inspect_several.py` call it; the rows come from the report's own tables.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table


NAME_WIDTH = 24  # of the first column, which is not squeezed below it
TITLE_WIDTH = 72


def pairs_table(rows: Sequence[tuple[str, str]]) -> Table:
    """Names and values, without a head."""
    from rich.table import Table
    from rich.text import Text as Plain

    table = Table(box=None, show_header=False, pad_edge=False)
    for name, value in rows:
        table.add_row(Plain(name), Plain(value, overflow="fold"))
    return table


def plain_table(title: str, columns: Any, rows: Sequence[Sequence[Any]]) -> Table:
    """A table without the columns in which no row has anything."""
    from rich.table import Table
    from rich.text import Text as Plain

    from neurolora.report.page import number

    kept = [i for i in range(len(columns)) if any(row[i] is not None for row in rows)]
    wide = min(len(title), TITLE_WIDTH)  # a title is else broken at the width of its columns
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, min_width=wide)
    for i in kept:  # on a narrow terminal values are broken in two, and names stay whole before them
        is_name = i == kept[0]
        least = min(NAME_WIDTH, max((len(str(row[i])) for row in rows), default=0)) if is_name else None
        table.add_column(columns[i], justify="left" if is_name else "right", overflow="fold", min_width=least)
    for row in rows:
        table.add_row(*(Plain(number(row[i])) for i in kept))
    return table
