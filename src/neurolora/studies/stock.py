"""How much of a study is done already: what a run would find among the cells, up to where it would begin.

Room: studies; `neurolora reproduce --dry-run` prints it. It reads the cells and runs none.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from neurolora.errors import ConfigError, DataError
from neurolora.studies.book import Book, Record
from neurolora.studies.cells import Cell
from neurolora.studies.running import KINDS
from neurolora.studies.spec import Scale, Study


class _Gap(Exception):  # noqa: N818  (no error: where the reading ends)
    """Cells are missing; which come after them depends on their results."""


@dataclass
class _Stock(Book):
    """A book that reads and counts: of each part of the work the cells that are done, and all of them."""

    counted: dict[str, tuple[set[str], set[str]]] = field(default_factory=dict)

    def run(self, cells: Sequence[Cell], what: str) -> dict[str, Record]:
        found = {cell.key: self.read(cell) for cell in cells}
        done = {key: record for key, record in found.items() if record is not None}
        before, due = self.counted.get(what, (set(), set()))
        self.counted[what] = (before | set(done), due | set(found))
        if len(done) < len(found):
            raise _Gap
        return done


def take_stock(study: Study, scale: Scale, folder: Path, accept_older: bool = False) -> list[dict[str, Any]]:
    """`what`, `done`, `of` for each part of the work, in its order, up to the first that is not complete.

    What comes behind depends on results and is not counted. Empty where data or model are not at hand, since
    a cell is known by what is in them.
    """
    stock = _Stock(folder, accept_older=accept_older)
    with contextlib.suppress(_Gap, ConfigError, DataError):
        KINDS[study.kind](study, scale, stock)
    return [{"what": what, "done": len(done), "of": len(due)} for what, (done, due) in stock.counted.items()]
