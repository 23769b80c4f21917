"""Whether what `neurolora inspect A B C` says beforehand is what merging costs afterwards.

    python benchmarks/merging_prediction.py FOLDER [FOLDER ...]    # of world_merging.py, real_merging.py

For every method, seed and merge that was scored in the folders: each task's relative drop against each number
that `inspect` has for its adapter. Printed for each folder and merge: how often the adapter with the largest
number was the one that lost most, and the mean over cells of Spearman's rank correlation (three tasks a cell,
so it is 1, 0.5, -0.5 or -1 where there are no ties). A task that always loses most makes any number look good
or bad that always picks it: the row `most frequent loser` is what knowing that alone gives.
"""

from __future__ import annotations

import argparse
import collections
import json
import statistics
from pathlib import Path
from typing import Any

from neurolora.merging.interference_collection import compare_adapters

FEATURES = (
    "score",
    "others_over_own",
    "energy",
    "mean_cosine",
    "mean_sign_conflict_weighted",
    "mean_subspace_overlap",
)
#: Numbers of which a small one should mean a large loss.
SMALL_IS_BAD = frozenset({"energy", "mean_cosine"})


def parent(folder: Path, method: str, task: str, seed: int) -> Path:
    """Where either benchmark put a task's adapter; the first task's of `own` is the shared one's in one."""
    own = folder / "parents" / f"{method}-{task}-{seed}"
    return own if own.is_dir() else folder / "parents" / f"{method.removesuffix('-own')}-{task}-{seed}"


def cells(folder: Path) -> list[dict[str, Any]]:
    """Each scored merge with its tasks' drops and `inspect`'s numbers."""
    rows = [json.loads(path.read_text()) for path in sorted((folder / "scores").glob("*.json"))]
    alone = {(row["method"], row["seed"]): row["scores"] for row in rows if row["merge"] == "alone"}
    compared: dict[tuple[str, int], list[Any]] = {}
    found = []
    for row in rows:
        key = (row["method"], row["seed"])
        if row["merge"] == "alone" or key not in alone:
            continue
        tasks = list(row["scores"])
        if key not in compared:
            folders = [parent(folder, row["method"], task, row["seed"]) for task in tasks]
            compared[key] = compare_adapters(folders).adapters
        drops = [1 - row["scores"][task] / max(alone[key][task], 1e-9) for task in tasks]
        numbers = {
            feature: [(-1 if feature in SMALL_IS_BAD else 1) * getattr(one, feature) for one in compared[key]]
            for feature in FEATURES
        }
        found.append({"merge": row["merge"], "tasks": tasks, "drops": drops, "numbers": numbers})
    return found


def print_table(folder: Path) -> None:
    from scipy.stats import spearmanr

    found = cells(folder)
    print(f"\n{folder.name}\n\n| merge | number | largest lost most | rank correlation | cells |")
    print("|---" * 5 + "|")
    for merge in dict.fromkeys(cell["merge"] for cell in found):
        mine = [cell for cell in found if cell["merge"] == merge]
        losers = [loser(cell["drops"]) for cell in mine]
        often = max(collections.Counter(losers).values())
        print(f"| {merge} | most frequent loser | {often}/{len(mine)} | | {len(mine)} |")
        for feature in FEATURES:
            hits = sum(
                loser(cell["numbers"][feature]) == lost for cell, lost in zip(mine, losers, strict=True)
            )
            ranks = [float(spearmanr(cell["numbers"][feature], cell["drops"]).statistic) for cell in mine]
            known = [rank for rank in ranks if rank == rank]
            mean = f"{statistics.mean(known):.2f}" if known else ""
            print(f"| {merge} | {feature} | {hits}/{len(mine)} | {mean} | {len(known)} |")


def loser(values: list[float]) -> int:
    return max(range(len(values)), key=values.__getitem__)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", type=Path, nargs="+")
    for folder in parser.parse_args().folders:
        print_table(folder)


if __name__ == "__main__":
    main()
