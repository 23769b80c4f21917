"""What the fly's expansion gives and costs, from 1,000 to 20,000 Kenyon cells, beside learners without it.

    python benchmarks/fly_scaling.py --out FILE                                  # scikit-learn's digits alone
    python benchmarks/fly_scaling.py --data DATA --backbone MODEL --out FILE     # and AG News and DBpedia

DATA and MODEL as in `fly_streams.py`. All classes are learned at once. Each learner of each seed runs in a
process of its own on one thread: accuracy on the test rows; seconds of learning, the solution included, and
of predicting a thousand rows; and by how much the process grew, above what was there once the features were.
A seed sets the random expansion, or the order of rows for SGD; what has no chance in it is run once. Settings
are chosen as in `fly_streams.py`, here for all classes at once, and marked where they are at an end of their
grid; the ridge penalty by GCV. Written are JSON and a page with the curves; what FILE has is not run again.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from fly_learners import Centred
from fly_streams import METHODS, Row, Search, Stream, digits, named, run_missing, search, texts
from merging_table import interval
from pictures_page import write_pictures

from neurolora.fly import FlyClassifier
from neurolora.provenance import environment

CELLS = (1000, 2000, 5000, 10000, 20000)
#: Learners of `METHODS` without an expansion -> whether a seed means anything to them.
RIVALS = {
    "SGD": True,
    "ridge on the features": False,
    "nearest class mean": False,
    "joint logistic regression": False,
    "joint support vectors, radial kernel": False,
}


def measure(stream: Stream, learner: Any) -> dict[str, float]:
    """Learn all rows, predict all test rows; called in a fresh process."""
    from threadpoolctl import threadpool_limits

    from neurolora.training.peak import PeakMemory

    with threadpool_limits(1):
        memory, began = PeakMemory(), time.perf_counter()
        learner.partial_fit(*stream.train)
        learner.predict(stream.test.X[:1])  # what is put off until a prediction belongs to learning
        learned = time.perf_counter()
        right = learner.predict(stream.test.X) == stream.test.y
        predicting = time.perf_counter() - learned
    return {
        "accuracy": 100 * float(right.mean()),
        "learning_seconds": learned - began,
        "seconds_for_1000": 1000 * predicting / len(right),
        "bytes": float(memory.bytes or 0),
    }


def in_own_process(stream: Stream, learner: Any) -> dict[str, float]:
    """`measure`, where nothing was done before."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(measure, stream, learner).result()


def plan_of(name: str, cells: Sequence[int], seeds: Sequence[int]) -> list[Row]:
    """What is to be run on a set: the fly's sizes, then the rivals, those without chance once."""
    plan: list[Row] = [
        {"set": name, "method": "Fly-CL", "cells": count, "grid": [{}], "seeds": list(seeds)}
        for count in cells
    ]
    for rival, random in RIVALS.items():
        own = {"grid": list(METHODS[rival].grid), "seeds": list(seeds) if random else [0]}
        plan.append({"set": name, "method": rival, "cells": None, **own})
    return plan


def run_row(asked: Row, stream: Stream) -> Row:
    """One learner on one set, each seed in a process of its own."""
    classes = np.unique(stream.train.y)
    if asked["cells"]:
        found = Search({}, [], [])
        learners = [FlyClassifier(asked["cells"], random_state=seed) for seed in asked["seeds"]]
    else:
        method = METHODS[asked["method"]]
        found = search(stream._replace(per_step=len(classes)), method)  # as it will be learned: at once
        learners = [method.make(classes, seed, **found.settings) for seed in asked["seeds"]]
    runs = [in_own_process(stream, Centred(learner)) for learner in learners]
    row = {**asked, **found._asdict(), "runs": runs, "environment": environment()}
    print(_line(row), flush=True)
    return row


HEAD = (
    "| set | learner | accuracy, % | learning, s | 1,000 predictions, s | memory, MB |\n" + "|---" * 6 + "|"
)


def _line(row: Row) -> str:
    figures = [
        _short(_middle(row, key) / unit)
        for key, unit in (("learning_seconds", 1), ("seconds_for_1000", 1), ("bytes", 1e6))
    ]
    accuracy = interval([run["accuracy"] for run in row["runs"]])
    return "| " + " | ".join([row["set"], _label(row), accuracy, *figures]) + " |"


def _label(row: Row) -> str:
    if row["cells"]:
        return f"{row['method']}, M = {row['cells']:,}"
    return named(row)


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2g}"


def _middle(row: Row, key: str) -> float:
    return statistics.median(run[key] for run in row["runs"])


#: Picture -> the label of its axis, what is drawn, its unit.
PICTURES = {
    "Accuracy": ("%", "accuracy", 1),
    "Time to learn": ("seconds", "learning_seconds", 1),
    "Time of 1,000 predictions": ("seconds", "seconds_for_1000", 1),
    "Memory": ("MB", "bytes", 1e6),
}


def write_curves(rows: list[Row], path: Path) -> None:
    """A line for each set over M; the rivals stand in the JSON and the table."""
    from neurolora.report.figures import growth

    sets = dict.fromkeys(row["set"] for row in rows)
    pictures = []
    for title, (label, key, unit) in PICTURES.items():
        lines = {
            name: [
                (row["cells"], _middle(row, key) / unit)
                for row in rows
                if row["set"] == name and row["cells"]
            ]
            for name in sets
        }
        pictures.append(growth(title, "Kenyon cells M", label, lines))
    about = "Fly-CL on frozen features, all classes at once, one thread; medians over seeds."
    write_pictures("The cost of Kenyon cells", about, pictures, path)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", help="folder with agnews/ and dbpedia/")
    parser.add_argument("--backbone", help="folder or name of an encoder")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--cells", type=int, nargs="+", default=list(CELLS))
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    streams = {"digits": digits()}
    if arguments.data and arguments.backbone:
        streams |= {
            name: texts(arguments.data, arguments.backbone, name, 1) for name in ("agnews", "dbpedia")
        }
    plan = [row for name in streams for row in plan_of(name, arguments.cells, arguments.seeds)]
    rows = run_missing(plan, run_row, streams, arguments.out)
    print("\n".join([HEAD, *map(_line, rows)]))
    write_curves(rows, arguments.out.with_suffix(".html"))


if __name__ == "__main__":
    main()
