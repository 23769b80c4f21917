"""What `world_merging.py` and `real_merging.py` share: the merges they try and score, and their table."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neurolora.files import write_json
from neurolora.intervals import interval as student_interval
from neurolora.provenance import environment
from neurolora.report.study_facts import spread

MERGES: dict[str, dict[str, Any]] = {
    "linear": {"method": "linear"},
    "sum x 0.6": {"method": "task_arithmetic", "lambda_": 0.6},
    "sum x 1.0": {"method": "task_arithmetic", "lambda_": 1.0},
    "sum x 0.6, gates widened": {"method": "task_arithmetic", "lambda_": 0.6, "gates": "widen"},
    "sum x 1.0, gates widened": {"method": "task_arithmetic", "lambda_": 1.0, "gates": "widen"},
    "ties 0.5": {"method": "ties", "density": 0.5},
    "concat x 0.6": {"method": "concat", "lambda_": 0.6},
    "concat x 1.0": {"method": "concat", "lambda_": 1.0},
}
DELTAS = ("linear", "sum x 0.6", "sum x 1.0", "ties 0.5")  # for LoRA a concat is a sum
WIDENED = ("sum x 0.6, gates widened", "sum x 1.0, gates widened")
SIDE = ("concat x 0.6", "concat x 1.0")


Scores = dict[str, float]


@dataclass(frozen=True)
class Cell:
    """One method with one seed. rows: test rows of each task."""

    folder: Path
    name: str
    seed: int
    rows: int


def score_cell(
    cell: Cell,
    parents: Sequence[Path],
    merges: Iterable[str],
    alone: Callable[[], Scores],
    merged: Callable[[Path], Scores],
) -> None:
    """The parents alone and every merge of them, what has been scored before left out.

    alone: each parent's score on its own task. merged: a merged adapter's on all tasks.
    """
    from neurolora.merging import merge_adapters

    if not (target := _score_path(cell, "alone")).is_file():
        _save(target, cell, "alone", alone())
    for merge in merges:
        target = _score_path(cell, merge)
        if target.is_file():
            continue
        output = cell.folder / "merged" / target.stem
        merge_adapters(parents, output, overwrite=True, **MERGES[merge])
        _save(target, cell, merge, merged(output))


def _score_path(cell: Cell, merge: str) -> Path:
    name = f"{cell.name}-{cell.seed}-{merge.replace(' ', '_').replace(',', '')}.json"
    return cell.folder / "scores" / name


def _save(path: Path, cell: Cell, merge: str, scores: Scores) -> None:
    row = {"method": cell.name, "seed": cell.seed, "merge": merge, "scores": scores, "rows": cell.rows}
    write_json(path, {**row, "environment": environment()})
    print(f"{cell.name} seed {cell.seed} {merge}: {scores}", flush=True)


def print_table(folder: Path, tasks: Iterable[str], merges_of: Mapping[str, Iterable[str]]) -> None:
    """Markdown: every method alone and merged, means over seeds with 95% intervals, and what is kept."""
    tasks = list(tasks)
    rows = [json.loads(path.read_text()) for path in sorted((folder / "scores").glob("*.json"))]
    write_json(folder / "scores.json", {"rows": rows})
    print("| adapters | merge | " + " | ".join(tasks) + " | mean | kept of alone | seeds |")
    print("|---" * (len(tasks) + 5) + "|")
    for name, merges in merges_of.items():
        alone = {row["seed"]: row for row in rows if (row["method"], row["merge"]) == (name, "alone")}
        for merge in ("alone", *merges):
            mine = [row for row in rows if (row["method"], row["merge"]) == (name, merge)]
            if mine:
                print(_line(name, merge, tasks, mine, alone))


def print_paired(folder: Path, ours: tuple[str, str], theirs: Iterable[tuple[str, str]]) -> None:
    """Markdown: what one merge keeps of alone less what others keep, seed by seed, with 95% intervals."""
    rows = [json.loads(path.read_text()) for path in sorted((folder / "scores").glob("*.json"))]
    own = _kept(rows, *ours)
    print(f"\n| {ours[0]}, {ours[1]}, less | points kept | merged accuracy | seeds |\n" + "|---" * 4 + "|")
    for name, merge in theirs:
        other = _kept(rows, name, merge)
        seeds = sorted(set(own) & set(other))
        if seeds:
            kept, merged = ([own[s][i] - other[s][i] for s in seeds] for i in (0, 1))
            told = ", ".join(map(str, seeds))
            print(f"| {name}, {merge} | {interval(kept)} | {interval(merged)} | {told} |")


def _kept(rows: Iterable[dict[str, Any]], name: str, merge: str) -> dict[int, tuple[float, float]]:
    """Seed -> (percent kept of alone, mean accuracy merged)."""
    means = {
        (row["merge"], row["seed"]): statistics.mean(row["scores"].values())
        for row in rows
        if row["method"] == name
    }
    seeds = [seed for found, seed in means if found == merge and ("alone", seed) in means]
    return {s: (100 * means[merge, s] / means["alone", s], means[merge, s]) for s in seeds}


def _line(
    name: str, merge: str, tasks: list[str], mine: list[dict[str, Any]], alone: dict[int, dict[str, Any]]
) -> str:
    scores = [interval([row["scores"][task] for row in mine]) for task in tasks]
    means = [statistics.mean(row["scores"].values()) for row in mine]
    kept = [
        100 * m / statistics.mean(alone[row["seed"]]["scores"].values())
        for m, row in zip(means, mine, strict=True)
    ]
    return "| " + " | ".join([name, merge, *scores, interval(means), interval(kept), str(len(mine))]) + " |"


def interval(values: list[float]) -> str:
    """Mean and half of its 95% interval over seeds (Student's t)."""
    return spread(student_interval(values))
