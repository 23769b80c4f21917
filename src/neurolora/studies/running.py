"""Running a study at a scale, and writing what it comes to.

Room: studies. The command `reproduce` calls it; so may anybody.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from neurolora.errors import DataError, explain
from neurolora.files import write_json
from neurolora.locks import alone_in
from neurolora.studies.book import Book
from neurolora.studies.checks import require_fitting
from neurolora.studies.library import ORDER
from neurolora.studies.merging import run_merging
from neurolora.studies.results import make_result, settings_fingerprint
from neurolora.studies.single import run_single
from neurolora.studies.spec import Scale, Study
from neurolora.studies.streams import run_streams
from neurolora.training.identity import model_fingerprint

KINDS = {"single": run_single, "merging": run_merging, "streams": run_streams}


def reproduce(study: Study, scale: Scale, book: Book) -> dict[str, Any]:
    """The result of a study at a scale; cells that are done are read, the others are run.

    Raises ConfigError for a scale that does not fit the study, OutputError if another process works in the
    book's folder, and what training, merging and evaluation raise.
    """
    require_fitting([study], scale)
    book.older.clear()
    book.used.clear()
    with alone_in(book.folder, "running studies"):
        table = KINDS[study.kind](study, scale, book)
    return make_result(study, scale, table, book)


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


def require_same_settings(folder: Path, chosen: Sequence[Study], scale: Scale) -> None:
    """Raises DataError where results of other settings lie beside those to come: one page shows them all."""
    names = {study.id for study in chosen}
    wanted = [settings_fingerprint(scale), model_fingerprint(scale.model)[:16]]
    for path in stored_results(folder, scale):
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
            found = [stored["sizes_fingerprint"], stored["model_fingerprint"]]
        except (OSError, ValueError, KeyError, TypeError):
            found = None
        if path.parent.name not in names and found != wanted:
            do = "Run that study again as well (`all`), or remove its result"
            raise DataError(
                explain(f"results of the scale {scale.label}", f"{path} is of other settings", do)
            )


def _name(scale: Scale) -> str:
    return f"{scale.label}.json"
