"""What is left of three tasks of the bundled world when their adapters are merged, method by method.

    python benchmarks/world_merging.py train FOLDER     # the parents; goes on where it stopped
    python benchmarks/world_merging.py score FOLDER     # each alone on its task, all merges on all tasks
    python benchmarks/world_merging.py table FOLDER     # Markdown: alone, merged, what is kept

Every method trains with the rates below, which are those of the demo and were not searched for merging. The
adapters of a seed share one A; those named `own` have an A for each task. Test rows are used for the scores
alone; no coefficient is chosen by them: those listed are all there are.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import statistics
import time
from pathlib import Path
from typing import Any, NamedTuple

from neurolora.files import write_json
from neurolora.provenance import environment

TASKS = ("world-recall", "world-passage", "world-sums")
ROUTED = {"learning_rate": 6e-3, "gate_learning_rate": 2e-3}
PLAIN = {"learning_rate": 3e-3, "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"]}
EPOCHS, BATCH = 3.0, 32


class Trained(NamedTuple):
    """A way to train the parents, and the merges that its adapters can go through."""

    method: str
    settings: dict[str, Any]
    shared: bool | None
    merges: tuple[str, ...]


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
METHODS = {
    "lora": Trained("lora", PLAIN, None, DELTAS),
    "dora": Trained("lora", {**PLAIN, "use_dora": True}, None, DELTAS),
    "flylora": Trained("flylora", {"learning_rate": 6e-3}, True, (*DELTAS, *SIDE)),
    "flylora-own": Trained("flylora", {"learning_rate": 6e-3}, False, SIDE),
    "neurolora": Trained("neurolora", ROUTED, True, (*DELTAS, *WIDENED, *SIDE)),
    "neurolora-own": Trained("neurolora", ROUTED, False, SIDE),
}


def parent(folder: Path, name: str, task: str, seed: int) -> Path:
    return folder / "parents" / f"{name}-{task}-{seed}"


def cells(arguments: argparse.Namespace) -> list[tuple[int, str]]:
    return list(itertools.product(arguments.seeds, arguments.methods))


# --- train ------------------------------------------------------------------------------------------------


def train(arguments: argparse.Namespace) -> None:
    from neurolora.training import load_config, run_training

    for (seed, name), (place, task) in itertools.product(cells(arguments), enumerate(TASKS)):
        output = parent(arguments.folder, name, task, seed)
        if (output / "run.json").is_file():
            continue
        started, row = time.perf_counter(), METHODS[name]
        settings = {
            "model_name_or_path": "world",
            "task": task,
            "method": row.method,
            "num_train_epochs": EPOCHS,
            "per_device_train_batch_size": BATCH,
            "gradient_accumulation_steps": 1,
            "eval_strategy": "no",
            "save_strategy": "no",
            "use_cpu": True,
            "seed": seed,
            "output_dir": str(output),
            **row.settings,
        }
        if row.shared is not None:
            settings["init_seed"] = seed
            settings["projection_seed"] = 1000 + seed if row.shared else 2000 + 10 * seed + place
        run_training(load_config(None, settings), overwrite=True, progress=False)
        print(f"{name} {task} seed {seed}: {time.perf_counter() - started:.0f} s", flush=True)


# --- score ------------------------------------------------------------------------------------------------


def score_folder(folder: Path, tasks: tuple[str, ...], arguments: argparse.Namespace) -> dict[str, float]:
    """The task's own figure in percent, on test rows: accuracy, or exact match."""
    from neurolora.evaluation import evaluate, load_for_inference

    loaded = load_for_inference(str(folder))
    found = evaluate(
        loaded.model,
        loaded.tokenizer,
        list(tasks),
        batch_size=64,
        limit=arguments.rows,
        log_samples=False,
        progress=False,
    )
    return {task: 100 * found.headline(task)[1] for task in tasks}


def score(arguments: argparse.Namespace) -> None:
    from neurolora.merging import merge_adapters

    for seed, name in cells(arguments):
        parents = [parent(arguments.folder, name, task, seed) for task in TASKS]
        if not all((path / "run.json").is_file() for path in parents):
            print(f"{name} seed {seed}: not trained yet")
            continue
        alone = arguments.folder / "scores" / f"{name}-{seed}-alone.json"
        if not alone.is_file():
            scores = {
                task: score_folder(path, (task,), arguments)[task]
                for task, path in zip(TASKS, parents, strict=True)
            }
            save(alone, arguments, name, seed, "alone", scores)
        for merge in METHODS[name].merges:
            target = arguments.folder / "scores" / f"{name}-{seed}-{merge.replace(' ', '_')}.json"
            if target.is_file():
                continue
            output = arguments.folder / "merged" / f"{name}-{seed}-{merge.replace(' ', '_')}"
            merge_adapters(parents, output, overwrite=True, force=("heads",), **MERGES[merge])
            save(target, arguments, name, seed, merge, score_folder(output, TASKS, arguments))


def save(
    path: Path, arguments: argparse.Namespace, name: str, seed: int, merge: str, scores: dict[str, float]
) -> None:
    row = {"method": name, "seed": seed, "merge": merge, "scores": scores, "rows": arguments.rows}
    write_json(path, {**row, "environment": environment()})
    print(f"{name} seed {seed} {merge}: {scores}", flush=True)


# --- table ------------------------------------------------------------------------------------------------


def table(arguments: argparse.Namespace) -> None:
    rows = [json.loads(path.read_text()) for path in sorted((arguments.folder / "scores").glob("*.json"))]
    write_json(arguments.folder / "scores.json", {"rows": rows})
    print("| adapters | merge | " + " | ".join(TASKS) + " | mean | kept of alone | seeds |")
    print("|---" * (len(TASKS) + 5) + "|")
    for name in METHODS:
        alone = {row["seed"]: row for row in rows if (row["method"], row["merge"]) == (name, "alone")}
        for merge in ("alone", *METHODS[name].merges):
            mine = [row for row in rows if (row["method"], row["merge"]) == (name, merge)]
            if mine:
                print(line(name, merge, mine, alone))


def line(name: str, merge: str, mine: list[dict[str, Any]], alone: dict[int, dict[str, Any]]) -> str:
    tasks = [interval([row["scores"][task] for row in mine]) for task in TASKS]
    means = [statistics.mean(row["scores"].values()) for row in mine]
    kept = [
        100 * m / statistics.mean(alone[row["seed"]]["scores"].values())
        for m, row in zip(means, mine, strict=True)
    ]
    return (
        f"| {name} | {merge} | "
        + " | ".join([*tasks, interval(means), interval(kept), str(len(mine))])
        + " |"
    )


def interval(values: list[float]) -> str:
    """Mean and half of its 95% interval over seeds (Student's t)."""
    if len(values) < 2:
        return f"{values[0]:.1f}"
    from scipy.stats import t

    half = t.ppf(0.975, len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    return f"{statistics.mean(values):.1f} ± {half:.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("stage", choices=("train", "score", "table"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--rows", type=int, default=600, help="test rows of each task")
    arguments = parser.parse_args()
    {"train": train, "score": score, "table": table}[arguments.stage](arguments)


if __name__ == "__main__":
    main()
