"""A stream of three small tasks for the tiny model, as a file that `neurolora continual` reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

import tiny_llama

TASKS = ("a", "b", "c")
TRAIN = {
    "learning_rate": 0.2, "gate_learning_rate": 2e-2, "per_device_train_batch_size": 4,
    "gradient_accumulation_steps": 1, "max_steps": 6, "warmup_steps": 0, "use_cpu": True,
}  # fmt: skip
SHAPES = {
    "lora": {"method": "lora", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]},
    "neurolora": {"method": "neurolora", "r": 8, "top_k": 2, "gate_dim": 4},
    "flylora": {"method": "flylora", "r": 8, "top_k": 2},
    "full": {"method": "full"},
}


def make_task(folder: Path, number: int, count: int = 16) -> None:
    """Rows whose completions differ from task to task, so that learning one can forget another."""
    words = tiny_llama.WORDS
    rows = [
        {
            "prompt": " ".join(words[(i * 7 + j) % 60] for j in range(2 + i % 4)),
            "completion": " " + words[(i * (number + 2) + 20 * number) % 60],
        }
        for i in range(count)
    ]
    folder.mkdir(parents=True, exist_ok=True)
    for split, part in (("train", rows), ("test", rows[:8]), ("validation", rows[8:])):
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))


def write_stream(base: Path, strategies: list[Any], **changes: Any) -> Path:
    """Make model, tasks and the file; `changes` replace its top-level keys."""
    if not (base / "model").is_dir():
        tiny_llama.make_model(base / "model", dropout=0.0, spread=0.5)
        for number, name in enumerate(TASKS):
            make_task(base / name, number)
    values = {
        "model": {"model_name_or_path": str(base / "model")},
        "tasks": [
            {
                "name": name,
                "task": "completion",
                "dataset_name": str(base / name),
                "metric": "answer_probability",
            }
            for name in TASKS
        ],
        "data": {"max_length": 32},
        "train": TRAIN,
        "output": {"save_steps": 2, "logging_steps": 2},
        "strategies": strategies,
        "output_dir": str(base / "out"),
        **changes,
    }
    path = base / "stream.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def entry(strategy: str, method: str, **settings: Any) -> dict[str, Any]:
    """A row of the comparison with a small adapter."""
    return {"strategy": strategy, "adapter": SHAPES[method], "settings": settings}


#: Every strategy once or more.
ROWS = [
    entry("sequential", "lora"),
    entry("sequential", "neurolora"),
    entry("sequential", "full"),
    entry("ewc", "lora", samples=8, weight=10.0),
    entry("ewc", "flylora", samples=8, form="per_task"),
    entry("o-lora", "lora", norm_weight=0.01),
    entry("replay", "neurolora", rows=4, batch_size=2),
    entry("lwf", "neurolora"),
    entry("grow", "neurolora"),
    entry("protect", "flylora", samples=8),
    entry("alone", "neurolora"),
    entry("together", "neurolora"),
]
