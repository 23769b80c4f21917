"""`neurolora fly`: from labelled items to a folder with a classifier, and back to a score.

Room: fly. Called by the command, and by whoever wants the same from Python. A folder holds `fly.safetensors`
(the classifier) and `fly.json` (backbone, data, the stream's accuracies, provenance), written together.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from neurolora.errors import ConfigError, DataError, explain
from neurolora.files import atomic_folder, refuse_full_folder, write_json
from neurolora.fly.backbone import Backbone, BackboneSettings
from neurolora.fly.classifier import FlyClassifier, check_settings
from neurolora.fly.data import LabelledSource, load_labelled
from neurolora.fly.expansion import Array
from neurolora.fly.features import extract_features
from neurolora.fly.storage import load_classifier
from neurolora.fly.stream import StreamResult, class_steps, run_stream
from neurolora.provenance import environment

CLASSIFIER, FACTS = "fly.safetensors", "fly.json"
#: Called with what is going on, how much of it is done, and of how much.
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class FlyRun:
    """One run. classifier: settings of `FlyClassifier`. classes_per_step: None = all at once.

    class_seed: shuffles the classes; None = by name. start_from: the folder of an earlier run to go on from,
    with its backbone and classifier. cache: see `extract_features`.
    """

    data: LabelledSource
    backbone: BackboneSettings
    classifier: dict[str, Any] = field(default_factory=dict)
    classes_per_step: int | None = None
    class_seed: int | None = None
    start_from: Path | None = None
    cache: Path | None = None


def train_fly(
    run: FlyRun, output: Path, *, overwrite: bool = False, progress: Progress = lambda *_: None
) -> StreamResult:
    """Learn the classes step by step, score after each, and write the folder.

    Raises ConfigError, DataError and OutputError; nothing is written before everything is done.
    """
    refuse_full_folder(output, overwrite=overwrite)
    learner = FlyClassifier(**run.classifier)
    check_settings(learner)
    if run.start_from is not None:
        learner = load_classifier(FlyClassifier, run.start_from / CLASSIFIER)
    backbone = Backbone(run.backbone)
    parts = {split: load_labelled(run.data, split) for split in ("train", "test")}
    labels = parts["train"][1]
    per_step = run.classes_per_step if run.classes_per_step is not None else len(np.unique(labels))
    steps = class_steps(labels, per_step, run.class_seed)
    sets = {
        split: (_features(backbone, items, split, run.cache, progress), own)
        for split, (items, own) in parts.items()
    }
    found = run_stream(learner, sets["train"], sets["test"], steps, partial(progress, "learning"))
    with atomic_folder(output, overwrite=overwrite) as folder:
        learner.save(folder / CLASSIFIER)
        write_json(folder / FACTS, _facts(run, learner, found, labels, parts["test"][1]))
    return found


def _facts(run: FlyRun, learner: FlyClassifier, found: StreamResult, *labels: Array) -> dict[str, Any]:
    """What is worth keeping of a run, as JSON."""
    rows = dict(zip(("train", "test"), map(len, labels), strict=True))
    solved = {"alpha": getattr(learner, "alpha_", None), "samples_seen": learner.n_samples_seen_}
    return {
        "backbone": asdict(run.backbone),
        "data": asdict(run.data),
        "rows": rows,
        "classifier": learner.get_params() | solved,
        "class_seed": run.class_seed,
        "start_from": None if run.start_from is None else str(run.start_from),
        "stream": found.to_dict(),
        "environment": environment(),
    }


def _features(
    backbone: Backbone, items: list[Any], what: str, cache: Path | None, progress: Progress
) -> Array:
    return extract_features(backbone, items, cache, partial(progress, f"features of {what}"))


@dataclass(frozen=True)
class FlyScore:
    """Accuracy on a split: of all rows with its standard error, and of each class (None: no rows of it)."""

    accuracy: float
    stderr: float
    rows: int
    classes: dict[str, float]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


def evaluate_fly(
    folder: Path,
    data: LabelledSource | None = None,
    *,
    split: str = "test",
    device: str | None = None,
    cache: Path | None = None,
    progress: Progress = lambda *_: None,
) -> FlyScore:
    """Score a run's folder on a split of its own data, or of other data. Raises DataError, ConfigError."""
    backbone, own = read_run(folder)
    learner = FlyClassifier.load(folder / CLASSIFIER)
    items, labels = load_labelled(data or own, split)
    strange = sorted(set(labels) - set(learner.classes_))
    if strange:
        known = ", ".join(map(str, learner.classes_[:8]))
        found = f"the data have the class {str(strange[0])!r}, and it knows {known}"
        raise DataError(explain(f"scoring {folder}", found, "Learn the class first (--start-from)"))
    encoder = Backbone(BackboneSettings(**backbone | {"device": device}))
    right = learner.predict(_features(encoder, items, split, cache, progress)) == labels
    accuracy = float(right.mean())
    return FlyScore(
        accuracy=accuracy,
        stderr=float(np.sqrt(accuracy * (1 - accuracy) / max(len(right) - 1, 1))),
        rows=len(right),
        classes={str(name): float(right[labels == name].mean()) for name in np.unique(labels)},
    )


def read_run(folder: Path) -> tuple[dict[str, Any], LabelledSource]:
    """A run's backbone settings and its data, without its classifier. Raises DataError for another folder."""
    path = folder / FACTS
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        backbone, data = dict(facts["backbone"]), LabelledSource(**facts["data"])
        BackboneSettings(**backbone)
    except ConfigError:
        raise
    except (OSError, ValueError, KeyError, TypeError) as error:
        do = "Give a folder that `neurolora fly train` has written"
        raise DataError(explain(f"reading {path}", f"it tells no run ({error})", do)) from error
    return backbone, data
