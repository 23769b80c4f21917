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
from neurolora.fly.readouts import READOUTS, Solved, of_shape
from neurolora.fly.settings import Expansion, resolve_expansion
from neurolora.version import __version__

if TYPE_CHECKING:
    from neurolora.fly.classifier import FlyClassifier

_KIND = "neurolora.fly.FlyClassifier"
_W, _COEF = ("W_data", "W_indices", "W_indptr"), "coef"


def save_classifier(one: FlyClassifier, path: Path) -> None:
    """Raises ConfigError for a setting that JSON cannot hold, OutputError if the file cannot be written."""
    from safetensors.numpy import save_file

    W = one.components_
    arrays = {
        **dict(zip(_W, (W.data, W.indices.astype(np.int32), W.indptr.astype(np.int64)), strict=True)),
        **one._readout.arrays(),
    }
    if one._solved is not None:
        arrays[_COEF] = one._solved.coef
    with atomic_path(path) as temporary:
        save_file({name: np.ascontiguousarray(a) for name, a in arrays.items()}, temporary, _facts(one))


def _facts(one: FlyClassifier) -> dict[str, str]:
    """What is no array, as the format's metadata: strings."""
    settings = one.get_params(deep=False)
    if not isinstance(settings["random_state"], int | np.integer | None):
        settings["random_state"] = None  # W itself is saved
    facts = {
        "settings": settings,
        "plan": one._plan._asdict(),
        "readout": one._readout.name,
        "solved": None if one._solved is None else {"told": _told(one), "asked": one._solved.asked},
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


def _told(one: FlyClassifier) -> dict[str, Any]:
    """Of a solution; JSON's keys are strings, so scores are pairs."""
    told = one._solved.told if one._solved is not None else {}
    return {name: list(value.items()) if isinstance(value, dict) else value for name, value in told.items()}


def _plain(value: Any) -> Any:
    """numpy's numbers and arrays for JSON."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    raise TypeError(f"a {type(value).__name__} cannot be saved")


def load_classifier(cls: type[FlyClassifier], path: Path) -> FlyClassifier:
    """Raises DataError for a file that is missing, damaged or of another kind.

    Nothing is solved here: the file has the solution, or there was none yet.
    """
    asked = f"loading {path}"
    arrays, facts = _read(path, asked)
    try:
        return _restored(cls, arrays, facts)
    except (KeyError, ValueError, TypeError, IndexError, AttributeError) as error:
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
    one._plan = _plan(one, facts)
    one._readout = READOUTS[facts.get("readout", one.readout)](one._plan.cells)
    one._readout.insert(np.arange(len(one.classes_)))
    one._readout.restore(arrays, one.n_samples_seen_)
    one._solved = _solution(one, arrays, facts)
    return one


def _plan(one: FlyClassifier, facts: dict[str, Any]) -> Expansion:
    """What the expansion was when it was drawn; files of earlier versions have the settings alone."""
    cells, width = one.components_.shape
    plan = Expansion(**facts["plan"]) if "plan" in facts else resolve_expansion(one, width)
    if plan.cells != cells or not (1 <= plan.keep <= cells and plan.block >= 1):
        raise ValueError(f"W has {cells} rows, and the expansion is {plan}")
    return plan


def _solution(one: FlyClassifier, arrays: dict[str, Array], facts: dict[str, Any]) -> Solved | None:
    """The solution that the file has. Raises ValueError where it has another shape than W and the classes."""
    kept = facts.get("solved")
    if kept is None:
        return None
    shape = len(one.classes_), one._plan.cells
    told = {name: dict(value) if isinstance(value, list) else value for name, value in kept["told"].items()}
    return Solved(of_shape(arrays[_COEF], shape, _COEF), told, list(kept["asked"]))
