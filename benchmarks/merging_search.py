"""What `neurolora merge --search` finds without labels, beside equal weights and what labels would choose.

    python benchmarks/merging_search.py run FOLDER     # that of world_merging.py; goes on where it stopped
    python benchmarks/merging_search.py table FOLDER   # Markdown: accuracy on test rows, points over equal

The adapters of the bundled world's three tasks are summed (`task_arithmetic`), their weights equal or found
by each objective with the command's own defaults (rows, merges tried) on validation rows. Test rows are used
for the scores alone. `validation` reads labels: what the others might come to, not a method beside them.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import time
from pathlib import Path
from typing import Any

from merging_table import interval
from world_merging import TASKS, parent, score_folder

from neurolora.coefficients import search_weights
from neurolora.files import write_json
from neurolora.merging import MergeRequest, Parent, merge_request
from neurolora.provenance import environment

METHODS = ("lora", "neurolora")
CHOSEN_BY = ("equal", "entropy", "mde", "validation")


def request_of(
    folder: Path, method: str, seed: int, weights: tuple[float, ...] | None = None
) -> MergeRequest:
    """The sum of a seed's adapters."""
    weights = weights or (1.0 / len(TASKS),) * len(TASKS)
    parents = [
        Parent(str(parent(folder, method, task, seed)), weight)
        for task, weight in zip(TASKS, weights, strict=True)
    ]
    return MergeRequest(parents=tuple(parents), method="task_arithmetic")


def run(arguments: argparse.Namespace) -> None:
    for seed, method, chosen_by in itertools.product(arguments.seeds, METHODS, CHOSEN_BY):
        name = f"{method}-{seed}-{chosen_by}"
        target = arguments.folder / "searched" / f"{name}.json"
        if target.is_file():
            continue
        began, request, found = time.perf_counter(), request_of(arguments.folder, method, seed), None
        if chosen_by != "equal":
            found = search_weights(request, chosen_by)
            request = request_of(arguments.folder, method, seed, found.weights)
        seconds = time.perf_counter() - began
        merged = arguments.folder / "merged" / f"searched-{name}"
        merge_request(request, merged, overwrite=True)
        weights = [one.weight for one in request.parents]
        row = {"method": method, "seed": seed, "chosen_by": chosen_by, "weights": weights, "seconds": seconds}
        row |= {"scores": score_folder(merged, TASKS, arguments), "search": found and found.to_dict()}
        write_json(target, {**row, "rows": arguments.rows, "environment": environment()})
        print(f"{name}: {weights}, {row['scores']}, {seconds:.0f} s", flush=True)


def print_table(folder: Path) -> None:
    rows = [json.loads(path.read_text()) for path in sorted((folder / "searched").glob("*.json"))]
    write_json(folder / "searched.json", {"rows": rows})
    print("| adapters | weights by | " + " | ".join(TASKS) + " | mean | over equal | weights | seeds |")
    print("|---" * (len(TASKS) + 6) + "|")
    for method, chosen_by in itertools.product(METHODS, CHOSEN_BY):
        mine = [row for row in rows if (row["method"], row["chosen_by"]) == (method, chosen_by)]
        equal = {row["seed"]: row for row in rows if (row["method"], row["chosen_by"]) == (method, "equal")}
        if mine:
            print("| " + " | ".join([method, chosen_by, *_figures(mine, equal), str(len(mine))]) + " |")


def _figures(mine: list[dict[str, Any]], equal: dict[int, dict[str, Any]]) -> list[str]:
    """Accuracies in percent, their mean, the paired difference to equal weights, and the mean weights."""
    scores = [interval([row["scores"][task] for row in mine]) for task in TASKS]
    means = [_mean(row) for row in mine]
    over = [_mean(row) - _mean(equal[row["seed"]]) for row in mine]
    weights = [statistics.mean(row["weights"][place] for row in mine) for place in range(len(TASKS))]
    told = " ".join(f"{weight:.2f}" for weight in weights)
    return [*scores, interval(means), interval(over) if any(over) else "", told]


def _mean(row: dict[str, Any]) -> float:
    return statistics.mean(row["scores"].values())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("stage", choices=("run", "table"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--rows", type=int, default=600, help="test rows of each task")
    arguments = parser.parse_args()
    if arguments.stage == "table":
        print_table(arguments.folder)
    else:
        run(arguments)


if __name__ == "__main__":
    main()
