"""The paper's experiments as studies: a spec in YAML becomes a result in JSON.

Room: studies, above training, merging and streams, below the commands. A study is data (`studies/` of the
checkout); the three kinds of studies are code. `reproduce` runs one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from neurolora.lazy import lazy_attributes

if TYPE_CHECKING:
    from neurolora.studies.book import Book
    from neurolora.studies.checks import require_fitting
    from neurolora.studies.library import default_folder, load_scale, load_study, study_names
    from neurolora.studies.plan import plan_study
    from neurolora.studies.running import reproduce, require_same_settings, stored_results, write_result
    from neurolora.studies.stock import take_stock

_HOMES = {
    "Book": "book",
    "default_folder": "library",
    "load_scale": "library",
    "load_study": "library",
    "plan_study": "plan",
    "reproduce": "running",
    "require_fitting": "checks",
    "require_same_settings": "running",
    "stored_results": "running",
    "study_names": "library",
    "take_stock": "stock",
    "write_result": "running",
}

__all__ = [
    "Book",
    "default_folder",
    "load_scale",
    "load_study",
    "plan_study",
    "reproduce",
    "require_fitting",
    "require_same_settings",
    "stored_results",
    "study_names",
    "take_stock",
    "write_result",
]

__getattr__ = lazy_attributes(__name__, _HOMES)
