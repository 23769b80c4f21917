"""Features of many items, kept on disk under what they depend on, so that nothing is computed twice.

Room: fly. A file holds `CHUNK` items, is written whole or not at all, and is named by the fingerprint of the
backbone, its settings and the items themselves: a killed run goes on behind the last whole file.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from neurolora.errors import DataError, explain
from neurolora.files import atomic_path
from neurolora.fly.backbone import Backbone
from neurolora.fly.expansion import Array
from neurolora.provenance import fingerprint_file, fingerprint_json

CHUNK = 1024
_NAME = "features"
Progress = Callable[[int, int], None]


def default_cache() -> Path:
    """Where features lie unless told otherwise: `NEUROLORA_CACHE`, else the user's cache folder."""
    own = os.environ.get("NEUROLORA_CACHE")
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return (Path(own) if own else Path(home).expanduser() / "neurolora") / "features"


def extract_features(
    backbone: Backbone,
    items: Sequence[Any],
    cache: Path | None = None,
    progress: Progress = lambda done, total: None,
) -> Array:
    """The backbone's features (n, d), float32, of texts or paths of images, in their order.

    cache: a folder for what was computed; None: nothing is read or written. progress: called with the items
    done and all of them. Raises DataError for no items, for a text without tokens and for features that are
    not finite (both with the item's place among all, from 0), and for an unreadable image; ConfigError for a
    backbone that cannot be loaded, OutputError if the cache cannot be written.
    """
    if not items:
        raise DataError(explain("computing features", "there are no items", "Give at least one"))
    identity = backbone.identity() if cache is not None else ""
    parts = []
    for start in range(0, len(items), CHUNK):
        part = items[start : start + CHUNK]
        path = cache / f"{_key(identity, part)}.safetensors" if cache is not None else None
        parts.append(_cached(backbone, part, path, start))
        progress(min(start + CHUNK, len(items)), len(items))
    return np.concatenate(parts)


def _key(identity: str, items: Sequence[Any]) -> str:
    told = [item if isinstance(item, str) else fingerprint_file(item) for item in items]
    return fingerprint_json([identity, told])


def _cached(backbone: Backbone, items: Sequence[Any], path: Path | None, start: int) -> Array:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file, save_file

    if path is not None and path.is_file():
        try:
            return np.asarray(load_file(path)[_NAME])
        except (SafetensorError, OSError, KeyError):
            path.unlink()  # damaged: made again
    found = _computed(backbone, items, start)
    if path is not None:
        with atomic_path(path) as temporary:
            save_file({_NAME: found}, temporary)
    return found


def _computed(backbone: Backbone, items: Sequence[Any], start: int) -> Array:
    """Batches of texts of like length, so that little is padding; the order of the items is kept.

    start: the place of the first item among all, for errors.
    """
    size = backbone.settings.batch_size
    order = np.argsort([len(item) if isinstance(item, str) else 0 for item in items], kind="stable")
    batches = [order[begin : begin + size] for begin in range(0, len(items), size)]
    found = [backbone([items[place] for place in batch], (start + batch).tolist()) for batch in batches]
    features = np.empty((len(items), found[0].shape[1]), dtype=np.float32)
    features[order] = np.concatenate(found)
    return features
