"""What is left of three tasks of the bundled world when their adapters are merged, method by method.

    python benchmarks/world_merging.py train FOLDER     # the parents; goes on where it stopped
    python benchmarks/world_merging.py score FOLDER     # each alone on its task, all merges on all tasks
    python benchmarks/world_merging.py table FOLDER     # Markdown: alone, merged, what is kept

Every method trains with the rates below, which are those of the demo and were not searched for merging. The
adapters of a seed share one A; those named `own` have an A for each task; those named `quiet` are trained
with off-task silence on the text that the bundled model has read, its weight as on real data. Test rows are
used for the scores alone; no coefficient is chosen by them: those listed are all there are.
"""

from __future__ import annotations

import argparse
import itertools
import time
from pathlib import Path
from typing import Any, NamedTuple

from merging_table import DELTAS, SIDE, WIDENED, Cell, print_table, score_cell

TASKS = ("world-recall", "world-passage", "world-sums")
ROUTED = {"learning_rate": 6e-3, "gate_learning_rate": 2e-3}
PLAIN = {"learning_rate": 3e-3, "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"]}
QUIET = {"silence_weight": 30.0, "silence_data": "world"}
EPOCHS, BATCH = 3.0, 32


class Trained(NamedTuple):
    """A way to train the parents, and the merges that its adapters can go through."""

    method: str
    settings: dict[str, Any]
    shared: bool | None
    merges: tuple[str, ...]


METHODS = {
    "lora": Trained("lora", PLAIN, None, DELTAS),
    "dora": Trained("lora", {**PLAIN, "use_dora": True}, None, DELTAS),
    "flylora": Trained("flylora", {"learning_rate": 6e-3}, True, (*DELTAS, *SIDE)),
    "flylora-own": Trained("flylora", {"learning_rate": 6e-3}, False, SIDE),
    "neurolora": Trained("neurolora", ROUTED, True, (*DELTAS, *WIDENED, *SIDE)),
    "neurolora-own": Trained("neurolora", ROUTED, False, SIDE),
    "neurolora-quiet": Trained("neurolora", {**ROUTED, **QUIET}, True, (*DELTAS, *SIDE)),
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
    for seed, name in cells(arguments):
        parents = {task: parent(arguments.folder, name, task, seed) for task in TASKS}
        if not all((path / "run.json").is_file() for path in parents.values()):
            print(f"{name} seed {seed}: not trained yet")
            continue
        score_cell(
            Cell(arguments.folder, name, seed, arguments.rows),
            list(parents.values()),
            METHODS[name].merges,
            alone=lambda own=parents: {
                task: score_folder(path, (task,), arguments)[task] for task, path in own.items()
            },
            merged=lambda output: score_folder(output, TASKS, arguments),
        )


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
    if arguments.stage == "table":
        print_table(arguments.folder, TASKS, {name: row.merges for name, row in METHODS.items()})
    else:
        {"train": train, "score": score}[arguments.stage](arguments)


if __name__ == "__main__":
    main()
