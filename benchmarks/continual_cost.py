"""What each strategy of `neurolora continual` costs beside sequential training, on a stream of many tasks.

    python benchmarks/continual_cost.py FOLDER --out benchmarks/results/continual-cost.json
    python benchmarks/continual_cost.py FOLDER --out small.json --tasks 5 --strategies sequential ewc

The tasks are recall in as many invented worlds, a few steps each, on the bundled model: small, so that what
a strategy adds shows. Each strategy runs in a process of its own, one after another; nothing else should
run. The result holds, for each task, seconds of training and of what comes after it, bytes kept and bytes of
the adapter, and by how much the process has grown at most, in training or after it; the table compares the
last fifth of the tasks with sequential's, and with the strategy's own first fifth. Scoring every task after
each, which all do alike, is in none of these.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import yaml

from neurolora.files import write_json
from neurolora.provenance import environment

METHODS = {
    "sequential": "neurolora",
    "replay": "neurolora",
    "lwf": "neurolora",
    "grow": "neurolora",
    "protect": "neurolora",
    "ewc": "neurolora",
    "sequential-lora": "lora",
    "o-lora": "lora",
}
ONE = """
import sys
import torch
from neurolora.continual import load_stream, run_continual
torch.set_num_threads(1)
run_continual(load_stream(sys.argv[1]), progress=False)
"""


def stream_file(arguments: argparse.Namespace, name: str) -> Path:
    """The stream of one strategy."""
    values = {
        "model": {"model_name_or_path": "world"},
        "tasks": [
            {"name": f"world{i}", "task": "world-recall", "dataset_config": str(i)}
            for i in range(arguments.tasks)
        ],
        "data": {"max_train_samples": 256},
        "train": {
            "max_steps": arguments.steps,
            "per_device_train_batch_size": 16,
            "gradient_accumulation_steps": 1,
            "learning_rate": 3e-3,
            "gate_learning_rate": 2e-3,
            "use_cpu": True,
        },
        "output": {"save_strategy": "no"},
        "strategies": [
            {"strategy": name.removesuffix("-lora") if name != "o-lora" else name,
             "adapter": {"method": METHODS[name], "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"]}}
        ],
        "eval": {"limit": 16, "batch_size": 16, "unseen": False},
        "output_dir": str(arguments.folder / name),
    }  # fmt: skip
    path: Path = arguments.folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return path


def measure(arguments: argparse.Namespace, name: str) -> list[dict[str, Any]]:
    """The costs of every task of one strategy's stream; what was measured before is read."""
    path, started = stream_file(arguments, name), time.perf_counter()
    subprocess.run([sys.executable, "-W", "ignore", "-c", ONE, str(path)], check=True)
    print(f"{name}: {time.perf_counter() - started:.0f} s", file=sys.stderr, flush=True)
    results = json.loads((arguments.folder / name / "results.json").read_text(encoding="utf-8"))
    costs: list[dict[str, Any]] = results["cells"][0]["costs"]
    return costs


def mean(costs: list[dict[str, Any]], key: str) -> float:
    return statistics.mean(cost[key] for cost in costs)


def middle(costs: list[dict[str, Any]], key: str) -> float:
    """The median, for what now and then jumps."""
    return statistics.median(cost[key] for cost in costs)


def print_table(rows: dict[str, list[dict[str, Any]]]) -> None:
    """Markdown: the last fifth of the tasks beside sequential's and beside the strategy's own first fifth."""
    print("| strategy | training / sequential | after a task, s | training, last / first | kept, MB |"
          " adapter, last / first | memory / sequential | memory, last / first |")  # fmt: skip
    print("|---" * 8 + "|")
    for name, costs in rows.items():
        fifth = max(len(costs) // 5, 1)
        first, last = costs[1 : 1 + fifth], costs[-1 - fifth : -1]  # the last task keeps nothing
        peer = rows["sequential-lora" if METHODS[name] == "lora" else "sequential"]
        peer_last = peer[-1 - fifth : -1]
        values = [
            f"{mean(last, 'train_seconds') / mean(peer_last, 'train_seconds'):.2f}",
            f"{mean(last, 'after_seconds'):.2f}",
            f"{mean(last, 'train_seconds') / mean(first, 'train_seconds'):.2f}",
            f"{last[-1]['memory_bytes'] / 1e6:.2f}",
            f"{last[-1]['adapter_bytes'] / first[0]['adapter_bytes']:.1f}",
            f"{middle(last, 'peak_bytes') / middle(peer_last, 'peak_bytes'):.2f}",
            f"{middle(last, 'peak_bytes') / middle(first, 'peak_bytes'):.2f}",
        ]
        print(f"| {name} | " + " | ".join(values) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="the result, JSON")
    parser.add_argument("--tasks", type=int, default=50)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--strategies", nargs="+", choices=METHODS, default=list(METHODS))
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    peers = {"sequential-lora" if METHODS[name] == "lora" else "sequential" for name in arguments.strategies}
    names = [name for name in METHODS if name in {*arguments.strategies, *peers}]
    rows = {name: measure(arguments, name) for name in names}
    facts = {"tasks": arguments.tasks, "steps": arguments.steps, "environment": environment()}
    write_json(arguments.out, {**facts, "costs": rows})
    print_table(rows)


if __name__ == "__main__":
    main()
