"""Class-incremental streams on frozen features: the fly's way beside other learners and joint training.

    python benchmarks/fly_streams.py --out FILE                                  # scikit-learn's digits alone
    python benchmarks/fly_streams.py --data DATA --backbone MODEL --out FILE     # and AG News and DBpedia

DATA holds agnews/ and dbpedia/ (`[{"sentence", "label"}]`; a set without a train file is split by a hash of
its rows); MODEL is an encoder. Every learner sees the classes of a step once, in the seed's order, and is
scored on the test rows of all classes seen so far: A_t. Printed are the mean of A_t over the steps and the
last one, means and 95% intervals over seeds, and the seconds of all learning. A seed sets the order of the
classes, the random expansion and the starts. `joint` is no continual learner: it is trained anew on all rows
so far.
Features are centred by the mean of the first step's rows, which is all that a stream has at its start.

SGD's rate and EWC's weight and rate are those with the best last accuracy on a tenth of the training rows,
held out, with an order of classes that no counted seed has; the ridge penalty is chosen by GCV.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from fly_learners import Centred, EwcHead, Joint, NearestMean, RawRidge, Sgd
from merging_table import interval
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from neurolora.files import write_json
from neurolora.fly import FlyClassifier
from neurolora.fly.backbone import Backbone, BackboneSettings
from neurolora.fly.data import LabelledSource, load_labelled
from neurolora.fly.features import default_cache, extract_features
from neurolora.fly.stream import class_steps, run_stream
from neurolora.provenance import environment

SEARCH_SEED = 100  # of the class order by which settings are chosen


class Split(NamedTuple):
    X: Any
    y: Any


class Stream(NamedTuple):
    """A data set and how many classes a step brings."""

    train: Split
    test: Split
    per_step: int


class Method(NamedTuple):
    """How to make a learner of (classes, seed, settings), and the settings to choose from."""

    make: Callable[..., Any]
    grid: Sequence[dict[str, float]] = ({},)


METHODS: dict[str, Method] = {
    "Fly-CL (M = 1,000)": Method(lambda classes, seed: FlyClassifier(1000, random_state=seed)),
    "Fly-CL (M = 5,000)": Method(lambda classes, seed: FlyClassifier(5000, random_state=seed)),
    "Fly Model, associative (M = 5,000, 5% active)": Method(
        lambda classes, seed: FlyClassifier(5000, coding_level=0.05, readout="associative", random_state=seed)
    ),
    "ridge on the features": Method(lambda classes, seed: RawRidge()),
    "nearest class mean": Method(lambda classes, seed: NearestMean()),
    "SGD": Method(Sgd, [{"rate": rate} for rate in (0.01, 0.1, 1.0)]),
    "EWC, linear head": Method(
        EwcHead,
        [{"weight": w, "rate": r} for w in (1.0, 1e2, 1e4) for r in (1e-3, 1e-2)],
    ),
    "joint (bound)": Method(lambda classes, seed: Joint()),
}


# --- runs -------------------------------------------------------------------------------------------------


def digits() -> Stream:
    """scikit-learn's digits, features as they come (0 to 16), two classes a step."""
    X, y = load_digits(return_X_y=True)
    X, X_test, y, y_test = train_test_split(X / 16, y, test_size=0.3, random_state=0, stratify=y)
    return Stream(Split(X, y), Split(X_test, y_test), 2)


def texts(data: str, backbone: str, name: str, per_step: int) -> Stream:
    folder = Path(data) / name
    alone = not (folder / "train.json").is_file()
    source = LabelledSource(str(folder), test_fraction=0.3 if alone else 0.0)
    encoder = Backbone(BackboneSettings(backbone))
    parts = []
    for split in ("train", "test"):
        items, labels = load_labelled(source, split)
        features = extract_features(encoder, items, default_cache())
        parts.append(Split(features / np.sqrt(np.square(features).sum(axis=1).mean()), labels))
    return Stream(*parts, per_step)


def run_one(stream: Stream, method: Method, seed: int, settings: dict[str, float]) -> dict[str, Any]:
    steps = class_steps(stream.train.y, stream.per_step, seed)
    learner = Centred(method.make(np.unique(stream.train.y), seed, **settings))
    return run_stream(learner, stream.train, stream.test, steps).to_dict()


def chosen(stream: Stream, method: Method) -> dict[str, float]:
    """The settings with the best last accuracy on held-out training rows."""
    if len(method.grid) == 1:
        return method.grid[0]
    X, X_held, y, y_held = train_test_split(
        *stream.train, test_size=0.1, random_state=0, stratify=stream.train.y
    )
    held = Stream(Split(X, y), Split(X_held, y_held), stream.per_step)
    scores = [run_one(held, method, SEARCH_SEED, settings)["last"] for settings in method.grid]
    return method.grid[int(np.argmax(scores))]


def run_set(name: str, stream: Stream, seeds: Sequence[int]) -> list[dict[str, Any]]:
    rows = []
    for label, method in METHODS.items():
        began, settings = time.perf_counter(), chosen(stream, method)
        runs = [run_one(stream, method, seed, settings) for seed in seeds]
        rows.append({"set": name, "method": label, "settings": settings, "runs": runs})
        last = statistics.mean(run["last"] for run in runs)
        print(
            f"{name}: {label} {settings}: {100 * last:.1f}, {time.perf_counter() - began:.0f} s", flush=True
        )
    return rows


def print_table(rows: Sequence[dict[str, Any]]) -> None:
    print("| set | learner | mean over steps, % | last, % | learning, s |\n" + "|---" * 5 + "|")
    for row in rows:
        average, last = (interval([100 * run[key] for run in row["runs"]]) for key in ("average", "last"))
        seconds = statistics.median(sum(run["seconds"]) for run in row["runs"])
        print(f"| {row['set']} | {row['method']} | {average} | {last} | {seconds:.2g} |")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", help="folder with agnews/ and dbpedia/")
    parser.add_argument("--backbone", help="folder or name of an encoder")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    streams = {"digits": digits()}
    if arguments.data and arguments.backbone:
        for name, per_step in (("agnews", 1), ("dbpedia", 2)):
            streams[name] = texts(arguments.data, arguments.backbone, name, per_step)
    rows = [row for name, stream in streams.items() for row in run_set(name, stream, arguments.seeds)]
    print_table(rows)
    if arguments.out:
        sizes = {name: [len(s.train.y), len(s.test.y), s.train.X.shape[1]] for name, s in streams.items()}
        write_json(arguments.out, {"rows": rows, "sizes": sizes, "environment": environment()})


if __name__ == "__main__":
    main()
