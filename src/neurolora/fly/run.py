"""`neurolora fly`: from labelled items to a folder with a classifier, and back to a score.

Room: fly. Called by the command, and by whoever wants the same from Python. A folder holds `fly.safetensors`
(the classifier) and `fly.json` (backbone, data, the stream's accuracies, provenance), written together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np

from neurolora.errors import DataError, explain
from neurolora.files import atomic_folder, refuse_full_folder, write_json
from neurolora.fly.backbone import Backbone, BackboneSettings
from neurolora.fly.classifier import FlyClassifier, check_settings
from neurolora.fly.data import Gathered, LabelledSource, load_labelled, load_several, new_rows
from neurolora.fly.expansion import Array
from neurolora.fly.features import extract_features
from neurolora.fly.folder import CLASSIFIER, FACTS, read_run
from neurolora.fly.settings import resolve_expansion
from neurolora.fly.storage import load_classifier
from neurolora.fly.stream import StreamResult, check_rows, class_steps, run_stream
from neurolora.provenance import environment

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


@dataclass(frozen=True)
class FlyTraining:
    """A run's stream. missing: the earlier runs' data that are not there any more, with what is wrong.

    left_out: training rows that an earlier run has already, to train or to test on.
    """

    stream: StreamResult
    missing: tuple[str, ...]
    left_out: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return self.stream.to_dict() | {"missing": list(self.missing), "left_out": self.left_out}


def train_fly(
    run: FlyRun, output: Path, *, overwrite: bool = False, progress: Progress = lambda *_: None
) -> FlyTraining:
    """Learn the classes step by step, score after each, and write the folder.

    Who goes on from an earlier run is also scored on its test rows, and on those of all runs before it;
    rows that one of these has already, to train or to test on, are not learned.
    Raises ConfigError, DataError and OutputError; nothing is written before everything is done, and what can
    be told without features is told before any is computed.
    """
    refuse_full_folder(output, overwrite=overwrite)
    run.data.check()
    learner, earlier = _start(run)
    known = getattr(learner, "classes_", np.array([])).tolist()
    all_items, all_labels = load_labelled(run.data, "train")
    items, labels = new_rows(all_items, all_labels, earlier)
    tests = load_several([run.data, *reversed(earlier)], "test")
    test_labels = np.concatenate([own for _, own in tests.parts])
    per_step = run.classes_per_step if run.classes_per_step is not None else len(np.unique(labels))
    steps = class_steps(labels, per_step, run.class_seed)
    check_rows(labels, test_labels, steps)
    backbone = Backbone(run.backbone)
    given: Any = learner.fan_in
    if run.start_from is None and isinstance(given, Integral):  # a count may be more than there are features
        resolve_expansion(learner, backbone(items[:1]).shape[1])
    train = _features(backbone, items, "train", run.cache, progress), labels
    test = _features_of_several(backbone, tests, "test", run.cache, progress), test_labels
    found = run_stream(learner, train, test, steps, partial(progress, "learning"), known)
    done = FlyTraining(found, tests.missing, len(all_items) - len(items))
    with atomic_folder(output, overwrite=overwrite) as folder:
        learner.save(folder / CLASSIFIER)
        rows = {"train": len(labels), "test": len(test_labels)}
        write_json(folder / FACTS, _facts(run, learner, done, earlier, rows))
    return done


def _start(run: FlyRun) -> tuple[FlyClassifier, tuple[LabelledSource, ...]]:
    """The classifier that is to learn, and what it has learned from so far, the first run's data first."""
    fresh = FlyClassifier(**run.classifier)
    check_settings(fresh)
    if run.start_from is None:
        return fresh, ()
    told = read_run(run.start_from)
    return load_classifier(FlyClassifier, run.start_from / CLASSIFIER), (*told.earlier, told.data)


def _facts(
    run: FlyRun,
    learner: FlyClassifier,
    found: FlyTraining,
    earlier: Sequence[LabelledSource],
    rows: dict[str, int],
) -> dict[str, Any]:
    """What is worth keeping of a run, as JSON."""
    solved = {"alpha": getattr(learner, "alpha_", None), "samples_seen": learner.n_samples_seen_}
    return {
        "backbone": asdict(run.backbone),
        "data": asdict(run.data.placed()),
        "earlier": [asdict(source) for source in earlier],
        "rows": rows,
        "classifier": learner.get_params() | solved,
        "class_seed": run.class_seed,
        "start_from": None if run.start_from is None else str(run.start_from),
        "stream": found.stream.to_dict(),
        "missing": list(found.missing),
        "left_out": found.left_out,
        "environment": environment(),
    }


def _features(
    backbone: Backbone, items: list[Any], what: str, cache: Path | None, progress: Progress
) -> Array:
    return extract_features(backbone, items, cache, partial(progress, f"features of {what}"))


def _features_of_several(
    backbone: Backbone, found: Gathered, what: str, cache: Path | None, progress: Progress
) -> Array:
    """Source by source, as they lie in the cache."""
    names = [what, *(f"{what}, earlier run {place}" for place in range(1, len(found.parts)))]
    parts = zip(found.parts, names, strict=True)
    return np.concatenate([_features(backbone, items, name, cache, progress) for (items, _), name in parts])


@dataclass(frozen=True)
class FlyScore:
    """Accuracy on a split: of all rows with its standard error, and of each class that has rows.

    missing: earlier runs' data that are not there any more, and so were not scored.
    """

    accuracy: float
    stderr: float
    rows: int
    classes: dict[str, float]
    missing: tuple[str, ...] = ()

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
    """Score a run's folder on a split of its own data and of the runs that it goes on from, or of other data.

    Raises DataError, ConfigError.
    """
    told = read_run(folder)
    if data is not None:
        data.check()
    learner = FlyClassifier.load(folder / CLASSIFIER)
    rows = load_several(told.all_data if data is None else [data], split)
    labels = np.concatenate([own for _, own in rows.parts])
    strange = sorted(set(labels) - set(learner.classes_))
    if strange:
        known = ", ".join(map(str, learner.classes_[:8]))
        found = f"the data have the class {str(strange[0])!r}, and it knows {known}"
        raise DataError(explain(f"scoring {folder}", found, "Learn the class first (--start-from)"))
    encoder = Backbone(replace(told.backbone, device=device))
    right = learner.predict(_features_of_several(encoder, rows, split, cache, progress)) == labels
    accuracy = float(right.mean())
    return FlyScore(
        accuracy=accuracy,
        stderr=float(np.sqrt(accuracy * (1 - accuracy) / max(len(right) - 1, 1))),
        rows=len(right),
        classes={str(name): float(right[labels == name].mean()) for name in np.unique(labels)},
        missing=rows.missing,
    )
