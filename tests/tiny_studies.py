"""A folder of small studies for the tiny model: every kind, every kind of method."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

import tiny_llama
import tiny_stream

ROUTED = {"r": 8, "top_k": 2}
LORA = {"target_modules": ["q_proj", "v_proj"], "lora_alpha": 8}
METHODS: dict[str, dict[str, Any]] = {
    "full": {"name": "Full", "adapter": {"method": "full"}},
    "lora": {"name": "LoRA", "adapter": {"method": "lora", "r": 4, **LORA}},
    "dora": {"name": "DoRA", "adapter": {"method": "dora", "r": 4, **LORA}},
    "adalora": {"name": "AdaLoRA", "adapter": {"method": "adalora", "init_r": 4, "target_r": 2, **LORA}},
    "mole": {"name": "MoLE", "adapter": {"method": "mole", "experts": 4, **ROUTED}},
    "flylora": {"name": "FlyLoRA", "adapter": {"method": "flylora", **ROUTED}},
    "neurolora": {"name": "NeuroLoRA", "adapter": {"method": "neurolora", "gate_dim": 4, **ROUTED}},
}
STUDIES: dict[str, dict[str, Any]] = {
    "table1": {
        "title": "Single tasks",
        "about": "Methods on tasks.",
        "kind": "single",
        "tasks": ["a", "b"],
        "methods": list(METHODS),
        "against": ["lora"],
        "paper": {"lora": {"average": 71.5}},
        "claims": [
            {"say": "one is better", "better": ["neurolora", "average"], "than": ["lora", "average"]},
        ],
    },
    "table2": {
        "title": "Merging",
        "about": "Adapters merged.",
        "kind": "merging",
        "tasks": ["a", "b"],
        "methods": ["lora", "neurolora"],
        "against": ["lora"],
        "merges": {"sum": {"name": "sum", "method": "task_arithmetic", "lambdas": [0.5, 1.0]}},
    },
    "table3": {
        "title": "Streams",
        "about": "One after another.",
        "kind": "streams",
        "tasks": ["a", "b"],
        "rows": {
            "seq": {"name": "Seq", "strategy": "sequential", "of": "neurolora"},
            "ewc": {"name": "EWC", "strategy": "ewc", "of": "lora", "settings": {"samples": 8},
                    "search": {"weight": [1.0, 10.0]}},
        },
        "against": ["seq"],
    },
    "k": {
        "title": "k",
        "about": "Active ranks.",
        "kind": "single",
        "tasks": ["a"],
        "curve": {"setting": "top_k", "label": "k"},
        "rows": {
            "k-2": METHODS["neurolora"],
            "k-4": {"name": "k = 4",
                    "adapter": {**METHODS["neurolora"]["adapter"], "top_k": 4}},
        },
        "against": ["k-2"],
    },
}  # fmt: skip


def scale(base: Path, **changes: Any) -> dict[str, Any]:
    """Four steps a run, two seeds."""
    tasks = {
        name: {
            "name": name.upper(),
            "metric": "answer_probability",
            "data": {"task": "completion", "dataset_name": str(base / name)},
        }
        for name in ("a", "b")
    }
    train = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 1, "max_steps": 4}
    return {
        "about": "a tiny model",
        "model": {"model_name_or_path": str(base / "model")},
        "tasks": tasks,
        "data": {"max_length": 32},
        "train": {**train, "use_cpu": True},
        "gate_rate": 0.5,
        "rates": dict.fromkeys(METHODS, 1e-2),
        "search": {"seeds": [100], "factor": 3.0, "most": 3},
        "eval": {"batch_size": 8},
        "seeds": [0, 1],
        "quick": {"seeds": [0], "search": {"most": 1}, "train": {"max_steps": 2}},
        **changes,
    }


def write_studies(base: Path, names: tuple[str, ...] = tuple(STUDIES), **changes: Any) -> Path:
    """Model, data, and the folder of studies with one scale, `tiny`."""
    if not (base / "model").is_dir():
        tiny_llama.make_model(base / "model", dropout=0.0, spread=0.5)
        for number, name in enumerate(("a", "b")):
            tiny_stream.make_task(base / name, number)
    folder = base / "studies"
    for name in names:
        (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / name / "spec.yaml").write_text(yaml.safe_dump(STUDIES[name]))
    (folder / "scales").mkdir(parents=True, exist_ok=True)
    (folder / "methods.yaml").write_text(yaml.safe_dump(METHODS))
    (folder / "scales" / "tiny.yaml").write_text(yaml.safe_dump(scale(base, **changes)))
    return folder
