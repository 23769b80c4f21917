"""Class-incremental streams on frozen features: the fly's way beside other learners and joint training.

    python benchmarks/fly_streams.py --out FILE                                  # scikit-learn's digits alone
    python benchmarks/fly_streams.py --data DATA --backbone MODEL --out FILE     # and AG News and DBpedia

It goes on where it stopped: a learner that FILE has, with the same grid and seeds, is not run again. Written
are JSON and a page with pictures.
DATA holds agnews/ and dbpedia/ (`[{"sentence", "label"}]`; a set without a train file is split by a hash of
its rows); MODEL is an encoder. Every learner sees the classes of a step once, in the seed's order, and is
scored on the test rows of all classes seen so far: A_t. Printed are the mean of A_t over the steps and the
last one, means and 95% intervals over seeds, and the seconds of all learning. A seed sets the order of the
classes, the random expansion and the starts. The `joint` ones are no continual learners: they keep all rows
and are trained anew on all so far, a linear one and one with a radial kernel. Neither bounds the others.
Features are centred by the mean of the first step's rows, which is all that a stream has at its start.

Learners with a grid (SGD, EWC, both joint ones) have the settings with the best last accuracy on a tenth of
the training rows, held out; where the order matters, its mean over three orders of classes that no counted
seed has. Of equal ones that is taken which is at fewer ends of its grid. A setting at an end is marked: a
better one may lie beyond. The ridge penalty is chosen by GCV; the fly's sizes are not tuned.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from fly_learners import Centred, EwcHead, Joint, Logistic, NearestMean, RadialSvc, RawRidge, Sgd
from merging_table import interval
from pictures_page import write_pictures
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from neurolora.files import write_json
from neurolora.fly import FlyClassifier
from neurolora.fly.backbone import Backbone, BackboneSettings
from neurolora.fly.data import LabelledSource, load_labelled
from neurolora.fly.features import default_cache, extract_features
from neurolora.fly.stream import class_steps, run_stream
from neurolora.intervals import interval as student_interval
from neurolora.intervals import middle_and_ends
from neurolora.provenance import environment

SEARCH_SEEDS = (100, 101, 102)  # of the class orders by which settings are chosen


class Split(NamedTuple):
    X: Any
    y: Any


class Stream(NamedTuple):
    """A data set and how many classes a step brings."""

    train: Split
    test: Split
    per_step: int


Row = dict[str, Any]


class Method(NamedTuple):
    """How to make a learner of (classes, seed, settings), the settings to choose from, and whether the order
    of the classes matters in the end."""

    make: Callable[..., Any]
    grid: Sequence[dict[str, float]] = ({},)
    ordered: bool = True


def grid(**values: Sequence[float]) -> list[dict[str, float]]:
    """Every combination."""
    return [dict(zip(values, each, strict=True)) for each in itertools.product(*values.values())]


METHODS: dict[str, Method] = {
    "Fly-CL (M = 1,000)": Method(lambda classes, seed: FlyClassifier(1000, random_state=seed)),
    "Fly-CL (M = 5,000)": Method(lambda classes, seed: FlyClassifier(5000, random_state=seed)),
    "Fly Model, associative (M = 5,000, 5% active)": Method(
        lambda classes, seed: FlyClassifier(5000, coding_level=0.05, readout="associative", random_state=seed)
    ),
    "ridge on the features": Method(lambda classes, seed: RawRidge()),
    "nearest class mean": Method(lambda classes, seed: NearestMean()),
    "SGD": Method(Sgd, grid(rate=(1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0))),
    "EWC, linear head": Method(
        EwcHead,
        grid(weight=(1.0, 1e2, 1e4, 1e6, 1e8, 1e10), rate=(1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1)),
    ),
    "joint logistic regression": Method(
        lambda classes, seed, **settings: Joint(Logistic(**settings)),
        grid(C=(0.01, 0.1, 1.0, 10.0, 100.0, 1e3, 1e4)),
        ordered=False,
    ),
    "joint support vectors, radial kernel": Method(
        lambda classes, seed, **settings: Joint(RadialSvc(**settings)),
        grid(C=(0.1, 1.0, 10.0, 100.0, 1e3), gamma=(0.01, 0.03, 0.1, 0.3, 1.0, 3.0)),
        ordered=False,
    ),
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


class Search(NamedTuple):
    """The settings that were chosen, which of them lie at an end of their grid, and every last accuracy."""

    settings: dict[str, float]
    at_end: list[str]
    held_out: list[float]


def search(stream: Stream, method: Method) -> Search:
    """The settings with the best last accuracy on held-out training rows."""
    if len(method.grid) == 1:
        return Search(method.grid[0], [], [])
    X, X_held, y, y_held = train_test_split(
        *stream.train, test_size=0.1, random_state=0, stratify=stream.train.y
    )
    per_step = stream.per_step if method.ordered else len(np.unique(y))
    seeds = SEARCH_SEEDS if method.ordered else SEARCH_SEEDS[:1]
    held = Stream(Split(X, y), Split(X_held, y_held), per_step)
    scores = [
        statistics.mean(run_one(held, method, seed, settings)["last"] for seed in seeds)
        for settings in method.grid
    ]
    ends = [at_end(method.grid, settings) for settings in method.grid]
    best = max(range(len(scores)), key=lambda place: (scores[place], -len(ends[place])))
    return Search(method.grid[best], ends[best], scores)


def at_end(tried: Sequence[dict[str, float]], settings: dict[str, float]) -> list[str]:
    """Names of those settings that are the least or the most of what was tried."""
    values = {name: [each[name] for each in tried] for name in settings}
    return [name for name, value in settings.items() if value in (min(values[name]), max(values[name]))]


def run_row(asked: Row, stream: Stream) -> Row:
    """One learner on one set. asked: set, method, grid and seeds."""
    method, began = METHODS[asked["method"]], time.perf_counter()
    found = search(stream, method)
    runs = [run_one(stream, method, seed, found.settings) for seed in asked["seeds"]]
    last, seconds = statistics.mean(run["last"] for run in runs), time.perf_counter() - began
    row = {**asked, **found._asdict(), "runs": runs, "environment": environment()}
    print(f"{row['set']}: {named(row)}: {100 * last:.1f}, {seconds:.0f} s", flush=True)
    return row


def run_missing(
    plan: Sequence[Row], run: Callable[[Row, Stream], Row], streams: dict[str, Stream], out: Path | None
) -> list[Row]:
    """A row for each that is asked for, in their order; those that `out` has are read, which is written anew
    after each of the others."""
    before = json.loads(out.read_text())["rows"] if out and out.is_file() else []
    rows = [next((row for row in before if asked.items() <= row.items()), None) for asked in plan]
    sizes = {name: [len(s.train.y), len(s.test.y), s.train.X.shape[1]] for name, s in streams.items()}
    for place, asked in enumerate(plan):
        if rows[place] is None:
            rows[place] = run(asked, streams[asked["set"]])
            if out:
                write_json(out, {"rows": [row for row in rows if row], "sizes": sizes})
    return [row for row in rows if row]


def told(row: Row) -> str:
    """The settings, each with a mark where it is at an end of its grid."""
    marks = dict.fromkeys(row["at_end"], " (end of its grid)")
    return ", ".join(f"{name} {value:g}{marks.get(name, '')}" for name, value in row["settings"].items())


def named(row: Row) -> str:
    """The learner with its settings."""
    return ", ".join(filter(None, (row["method"], told(row))))


def print_table(rows: Sequence[Row]) -> None:
    print("| set | learner | settings | mean over steps, % | last, % | learning, s |\n" + "|---" * 6 + "|")
    for row in rows:
        average, last = (interval([100 * run[key] for run in row["runs"]]) for key in ("average", "last"))
        seconds = statistics.median(sum(run["seconds"]) for run in row["runs"])
        print(f"| {row['set']} | {row['method']} | {told(row)} | {average} | {last} | {seconds:.2g} |")


def write_page(rows: Sequence[Row], path: Path) -> None:
    """For each set, where every learner ends, with its interval over seeds, beside the best joint one."""
    from neurolora.report.figures import intervals

    pictures = []
    for name in dict.fromkeys(row["set"] for row in rows):
        mine = {row["method"]: row for row in rows if row["set"] == name}
        found = {
            method: student_interval([run["last"] for run in row["runs"]]) for method, row in mine.items()
        }
        drawn = [middle_and_ends(each) for each in found.values()]
        best = max(f["mean"] for method, f in found.items() if method.startswith("joint"))
        pictures.append(intervals(name, "accuracy after the last step", list(found), drawn, best))
    about = (
        "Class-incremental streams on frozen features: accuracy on all classes after the last step, mean and "
        "95% interval over seeds. Dashed: the better of the learners that keep all rows and are trained anew."
    )
    write_pictures("Classes one after another", about, pictures, path)


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
    plan = [
        {"set": name, "method": label, "grid": list(METHODS[label].grid), "seeds": arguments.seeds}
        for name, label in itertools.product(streams, METHODS)
    ]
    rows = run_missing(plan, run_row, streams, arguments.out)
    print_table(rows)
    if arguments.out:
        write_page(rows, arguments.out.with_suffix(".html"))


if __name__ == "__main__":
    main()
