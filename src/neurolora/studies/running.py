"""Running a study at a scale, and writing what it comes to.

Room: studies. The command `reproduce` calls it; so may anybody.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from neurolora.files import write_json
from neurolora.locks import alone_in
from neurolora.studies.book import Book
from neurolora.studies.checks import require_fitting
from neurolora.studies.library import ORDER
from neurolora.studies.merging import run_merging
from neurolora.studies.results import make_result
from neurolora.studies.single import run_single
from neurolora.studies.spec import Scale, Study
from neurolora.studies.streams import run_streams

KINDS = {"single": run_single, "merging": run_merging, "streams": run_streams}


def reproduce(study: Study, scale: Scale, book: Book) -> dict[str, Any]:
    """The result of a study at a scale; cells that are done are read, the others are run.

    Raises ConfigError for a scale that does not fit the study, OutputError if another process works in the
    book's folder, and what training, merging and evaluation raise.
    """
    require_fitting([study], scale)
    book.older.clear()
    with alone_in(book.folder, "running studies"):
        table = KINDS[study.kind](study, scale, book)
    return make_result(study, scale, table, book.older)


def write_result(folder: Path, study: Study, scale: Scale, result: dict[str, Any]) -> Path:
    """Write a result as `folder/STUDY/SCALE.json`. Raises OutputError."""
    path = folder / study.id / _name(scale)
    write_json(path, result)
    return path


def stored_results(folder: Path, scale: Scale) -> list[Path]:
    """The results of a scale that lie in a folder: the paper's studies in their order, then others."""
    found = {path.parent.name: path for path in sorted(folder.glob(f"*/{_name(scale)}"))}
    first = [name for name in ORDER if name in found]
    return [found[name] for name in [*first, *(name for name in found if name not in first)]]


def _name(scale: Scale) -> str:
    return f"{scale.label}.json"
