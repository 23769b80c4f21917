"""How often the 95% interval of an estimated accuracy holds the truth, by simulation: no model, numpy alone.

    python benchmarks/interval_coverage.py --measures mde mean_entropy --trials 200

In each trial a labelled set of N rows is drawn, and twelve noisy versions of it (three kinds of noise at four
strengths); then n other rows, under noise of a strength between none and the strongest. A row of four classes
has standard normal logits and a margin for the right class that is Gamma-distributed, so rows are of unequal
difficulty; noise takes a part of the margin from some rows. Printed beside the coverage: what the line's own
margin would hold, which takes the sets as independent (see `Line.margin`), mean widths and errors in points.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from neurolora.estimation import AccuracyEstimator
from neurolora.files import write_json
from neurolora.provenance import environment

STRENGTHS, KINDS, CLASSES, MARGIN = (0.05, 0.1, 0.2, 0.4), 3, 4, 3.0
SIZES = ((500, 500), (500, 2000), (500, 100), (500, 50), (100, 100), (100, 20))


class Rows(NamedTuple):
    """logits: (N, 4), labels: (N,)."""

    logits: Any
    labels: Any

    @property
    def right(self) -> Any:
        return self.logits.argmax(axis=1) == self.labels


class Trial(NamedTuple):
    """Whether the interval, and the line's margin, held the truth; the interval's width; the error."""

    held: bool
    by_line: bool
    width: float
    error: float


def clean(random: np.random.Generator, count: int) -> Rows:
    labels, logits = random.integers(0, CLASSES, count), random.normal(size=(count, CLASSES))
    logits[np.arange(count), labels] += MARGIN * random.gamma(2, 0.5, count)
    return Rows(logits, labels)


def noisy(random: np.random.Generator, rows: Rows, kind: int, strength: float, differ: float) -> Rows:
    """differ: by how much the kinds of noise differ in what they cost in margin, and in certainty."""
    count, logits = len(rows.labels), rows.logits.copy()
    hit = random.random(count) < 2 * strength
    logits[np.arange(count), rows.labels] -= (
        hit * random.gamma(2, 1.0, count) * (1 + differ * 0.5 * (kind - 1))
    )
    shake = 0.3 * strength * (1 + differ * kind)
    return Rows(logits + shake * random.normal(size=logits.shape), rows.labels)


def trial(measure: str, known: int, new: int, differ: float, seed: int) -> Trial:
    random = np.random.default_rng(1000 + seed)
    source = clean(random, known)
    sets = [source] + [noisy(random, source, k, s, differ) for k in range(KINDS) for s in STRENGTHS]
    estimator = AccuracyEstimator(measure)
    estimator.fit_versions(
        [estimator.row_scores(one.logits) for one in sets], np.stack([one.right for one in sets])
    )
    fresh, kind, strength = clean(random, new), int(random.integers(KINDS)), random.uniform(0, max(STRENGTHS))
    asked = noisy(random, fresh, kind, strength, differ)
    found, truth = estimator.predict(asked.logits), asked.right.mean()
    line = estimator.reading(new).line.margin(found.value)
    return Trial(
        bool(found.low <= truth <= found.high),
        bool(abs(found.unclipped - truth) <= line),
        found.high - found.low,
        abs(found.accuracy - truth),
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--measures", nargs="+", default=["mde", "mean_entropy", "atc_confidence"])
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--differ", type=float, default=0.0, help="how much the kinds of noise differ")
    parser.add_argument("--sizes", nargs="+", default=[f"{known}/{new}" for known, new in SIZES])
    parser.add_argument("--out", type=Path, help="the result, JSON")
    arguments = parser.parse_args()
    rows = []
    print("| measure | labelled / new rows | held, % | line's own margin, % | width | error |")
    print("|---" * 6 + "|")
    for measure in arguments.measures:
        for size in arguments.sizes:
            known, new = map(int, size.split("/"))
            found = [trial(measure, known, new, arguments.differ, seed) for seed in range(arguments.trials)]
            print(f"| {measure} | {size} | {summary(found)} |", flush=True)
            rows.append({"measure": measure, "size": size, "trials": [one._asdict() for one in found]})
    if arguments.out:
        facts = {"differ": arguments.differ, "environment": environment()}
        write_json(arguments.out, {**facts, "rows": rows})


def summary(found: list[Trial]) -> str:
    """Means in per cent, in the order of the head."""
    held, by_line, width, error = 100 * np.mean(np.array(found, dtype=float), axis=0)
    return f"{held:.0f} | {by_line:.0f} | {width:.0f} | {error:.1f}"


if __name__ == "__main__":
    main()
