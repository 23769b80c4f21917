"""Streams of tasks in a table: what is left, what was learned, and how far apart two strategies are.

    python benchmarks/continual_table.py RESULTS.json --against LoRA-Seq NeuroLoRA-Seq [--page PAGE.html]

RESULTS.json is what `neurolora continual` or `real_continual.py` leaves: cells with `label`, `order`, `seed`
and the matrix R. Of several files, with other orders, the rows that have all orders are told. Orders are not
independent of each other, so the unit is a seed: of each, the mean over its orders; then means over seeds
with 95% intervals (Student's t). A seed that lacks an order is left out, as is told.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from statistics import mean
from typing import Any

from merging_table import interval
from pictures_page import write_pictures

from neurolora.continual.metrics import METRICS
from neurolora.intervals import interval as student_interval
from neurolora.intervals import middle_and_ends, paired
from neurolora.report.study_facts import difference

Cells = list[dict[str, Any]]
Values = dict[int, dict[str, float]]  # seed -> what is told of it
Strategies = dict[str, Values]
TOLD = {"average_accuracy": "average", "backward_transfer": "BWT", "learning_accuracy": "when learned"}


def by_seed(cells: Cells, label: str) -> Values:
    """The last score on each task and the metrics, means over the orders of a seed."""
    orders = {tuple(cell["order"]) for cell in cells}
    found: Values = {}
    for seed in sorted({cell["seed"] for cell in cells}):
        mine = [cell for cell in cells if (cell["label"], cell["seed"]) == (label, seed)]
        if len({tuple(cell["order"]) for cell in mine}) < len(mine):
            raise SystemExit(f"{label}, seed {seed}: an order is there twice, with different settings")
        if len(mine) == len(orders):
            each = [_told(cell) for cell in mine]
            found[seed] = {name: mean(one[name] for one in each) for name in each[0]}
        elif mine:
            print(f"left out: {label}, seed {seed}, {len(mine)} of {len(orders)} orders", file=sys.stderr)
    return found


def _told(cell: dict[str, Any]) -> dict[str, float]:
    size = len(cell["R"])
    R = [[*row, *[float("nan")] * (size - len(row))] for row in cell["R"]]
    last = dict(zip(cell["order"], R[-1], strict=True))
    return last | {title: METRICS[metric](R) for metric, title in TOLD.items()}


def print_table(strategies: Strategies) -> None:
    """Markdown: last scores, average, BWT and the mean when learned."""
    columns = list(next(iter(next(iter(strategies.values())).values())))
    print(f"| | {' | '.join(columns)} | seeds |\n" + "|---" * (len(columns) + 2) + "|")
    for label, values in strategies.items():
        told = [interval([each[column] for each in values.values()]) for column in columns]
        print(f"| {label} | {' | '.join(told)} | {len(values)} |")


def print_paired(strategies: Strategies, other: str) -> None:
    """Markdown: every strategy less another, seed by seed, with p of the paired t-test."""
    theirs = strategies[other]
    print(f"\n| less {other} | {' | '.join(TOLD.values())} | seeds |\n" + "|---" * (len(TOLD) + 2) + "|")
    for label, mine in strategies.items():
        seeds = sorted(set(mine) & set(theirs))
        if label != other and len(seeds) > 1:
            told = [
                difference(paired(*([each[seed][column] for seed in seeds] for each in (mine, theirs))))
                for column in TOLD.values()
            ]
            print(f"| {label} | {' | '.join(told)} | {len(seeds)} |")


def write_page(strategies: Strategies, title: str, path: Path) -> None:
    """Average and BWT of every strategy with intervals; dashed: the first strategy's."""
    from neurolora.report.figures import intervals

    pictures = []
    for column, axis in (("average", "average after the last task"), ("BWT", "backward transfer (Eq. 9)")):
        found = [student_interval([each[column] for each in mine.values()]) for mine in strategies.values()]
        drawn = [middle_and_ends(each) for each in found]
        pictures.append(intervals(axis, "points", list(strategies), drawn, drawn[0][0]))
    about = "Means over seeds of the means over orders, with 95% intervals (Student's t). Dashed: the first."
    write_pictures(title, about, pictures, path)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("results", type=Path, nargs="+")
    parser.add_argument("--against", nargs="+", default=[], metavar="LABEL")
    parser.add_argument("--page", type=Path)
    parser.add_argument("--title", default="One task after another")
    arguments = parser.parse_args()
    found = [c for path in arguments.results for c in json.loads(path.read_text(encoding="utf-8"))["cells"]]
    whole = [cell for cell in found if cell.get("complete", True)]
    cells = [cell for cell in whole if cell.get("scope", "stream") == "stream"]  # no bounds: they have no BWT
    labels = dict.fromkeys(cell["label"] for cell in cells)
    strategies = {label: values for label in labels if (values := by_seed(cells, label))}
    if not strategies:
        parser.error("no strategy has all orders of a seed")
    if unknown := set(arguments.against) - set(strategies):
        parser.error(f"--against {', '.join(unknown)}: the results have {', '.join(strategies)}")
    print_table(strategies)
    for other in arguments.against:
        print_paired(strategies, other)
    if arguments.page:
        write_page(strategies, arguments.title, arguments.page)


if __name__ == "__main__":
    main()
