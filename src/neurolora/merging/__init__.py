"""Merging adapters without training: streamed from their files, checked before anything is written.

Room: merging. The command `merge` and benchmarks call it; it never loads a model. Each name below is loaded
when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from neurolora.lazy import lazy_attributes

if TYPE_CHECKING:
    from neurolora.merging.merge import MergePlan, MergeResult, examine_merge, merge_adapters, merge_request
    from neurolora.merging.methods import METHODS
    from neurolora.merging.recipe import load_recipe
    from neurolora.merging.request import MergeRequest, Parent

# Public name -> the file of this room that holds it.
_HOMES = {
    "METHODS": "methods",
    "MergePlan": "merge",
    "MergeRequest": "request",
    "MergeResult": "merge",
    "Parent": "request",
    "examine_merge": "merge",
    "load_recipe": "recipe",
    "merge_adapters": "merge",
    "merge_request": "merge",
}

__all__ = [
    "METHODS",
    "MergePlan",
    "MergeRequest",
    "MergeResult",
    "Parent",
    "examine_merge",
    "load_recipe",
    "merge_adapters",
    "merge_request",
]

__getattr__ = lazy_attributes(__name__, _HOMES)
