"""A `FlyClassifier` as one safetensors file: its sums, W, and what it was told.

Room: fly. Called by `FlyClassifier.save` and `load`. No pickle is read or written.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

from neurolora.errors import ConfigError, DataError, explain
from neurolora.files import atomic_path
from neurolora.fly.expansion import Array
from neurolora.fly.readouts import READOUTS
from neurolora.version import __version__

if TYPE_CHECKING:
    from neurolora.fly.classifier import FlyClassifier

_KIND = "neurolora.fly.FlyClassifier"
_W = ("W_data", "W_indices", "W_indptr")


def save_classifier(one: FlyClassifier, path: Path) -> None:
    """Raises ConfigError for a setting that JSON cannot hold, OutputError if the file cannot be written."""
    from safetensors.numpy import save_file

    W = one.components_
    arrays = {
        **dict(zip(_W, (W.data, W.indices.astype(np.int32), W.indptr.astype(np.int64)), strict=True)),
        **one._readout.arrays(),
    }
    with atomic_path(path) as temporary:
        save_file({name: np.ascontiguousarray(a) for name, a in arrays.items()}, temporary, _facts(one))


def _facts(one: FlyClassifier) -> dict[str, str]:
    """What is no array, as the format's metadata: strings."""
    settings = one.get_params(deep=False)
    if not isinstance(settings["random_state"], int | np.integer | None):
        settings["random_state"] = None  # W itself is saved
    facts = {
        "settings": settings,
        "classes": one.classes_.tolist(),
        "class_dtype": one.classes_.dtype.str,
        "count": one.n_samples_seen_,
        "n_features_in": one.n_features_in_,
        "feature_names_in": list(one.feature_names_in_) if hasattr(one, "feature_names_in_") else None,
    }
    try:
        text = json.dumps(facts, default=_plain)
    except TypeError as error:
        raise ConfigError(
            explain("saving a FlyClassifier", str(error), "Use labels and settings of JSON")
        ) from error
    return {"kind": _KIND, "neurolora_version": __version__, "facts": text}


def _plain(value: Any) -> Any:
    """numpy's numbers and arrays for JSON."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    raise TypeError(f"a {type(value).__name__} cannot be saved")


def load_classifier(cls: type[FlyClassifier], path: Path, *, solve: bool = True) -> FlyClassifier:
    """Raises DataError for a file that is missing, damaged or of another kind.

    solve: at once; off for one that goes on learning, whose solution would be thrown away.
    """
    asked = f"loading {path}"
    arrays, facts = _read(path, asked)
    try:
        one = _restored(cls, arrays, facts)
        if solve:
            one._solve()
        return one
    except (KeyError, ValueError, TypeError, IndexError) as error:
        raise DataError(explain(asked, f"it does not fit together ({error})", "Save it again")) from error


def _read(path: Path, asked: str) -> tuple[dict[str, Array], dict[str, Any]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            found = file.metadata() or {}
            if found.get("kind") != _KIND:
                do = "Give a file that FlyClassifier.save has written"
                raise DataError(explain(asked, "it holds no FlyClassifier", do))
            return {name: file.get_tensor(name) for name in file.keys()}, json.loads(found["facts"])  # noqa: SIM118
    except (SafetensorError, OSError, KeyError, json.JSONDecodeError) as error:
        raise DataError(explain(asked, f"it cannot be read ({error})", "Give another file")) from error


def _restored(cls: type[FlyClassifier], arrays: dict[str, Array], facts: dict[str, Any]) -> FlyClassifier:
    one = cls(**facts["settings"])
    width = int(facts["n_features_in"])
    data, indices, starts = (arrays.pop(name) for name in _W)
    one.components_ = sp.csr_matrix((data, indices, starts), shape=(len(starts) - 1, width))
    one.classes_ = np.array(facts["classes"], dtype=facts["class_dtype"])
    one.n_features_in_, one.n_samples_seen_ = width, int(facts["count"])
    if facts["feature_names_in"] is not None:
        one.feature_names_in_ = np.array(facts["feature_names_in"], dtype=object)
    one._readout = READOUTS[one.readout](len(starts) - 1, one)
    one._readout.insert(np.arange(len(one.classes_)))
    one._readout.restore(arrays, one.n_samples_seen_)
    return one
