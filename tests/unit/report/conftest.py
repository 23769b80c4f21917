"""Adapters and run folders made by hand: their contents are known, and no training is needed."""

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from neurolora.core.projection import fingerprint, make_projection, pack_ternary

R, K, WIDTH, OUT, BOTTLENECK = 8, 2, 12, 10, 4
MODULES = [f"model.layers.{layer}.self_attn.{kind}_proj" for layer in (0, 1, 2, 10) for kind in "qv"]


def adapter_config(**changes):
    return {
        "peft_type": "NEUROLORA",
        "base_model_name_or_path": "some/base",
        "r": R,
        "top_k": K,
        "lora_alpha": 16,
        "density": 0.25,
        "projection": "ternary",
        "gate": "token",
        "gate_dim": BOTTLENECK,
        "gate_sharing": "module",
        "save_projection": True,
        "train_projection": False,
        "orthogonality_weight": 0.1,
        "target_modules": ["q_proj", "v_proj"],
        "projection_fingerprint": "a" * 16,
        "base_fingerprint": {"config": "b" * 16, "weights": "c" * 16},
        "neurolora_version": "0.1.0",
        "peft_version": "0.21.2",
        **changes,
    }


def projection_tensors(name, width=WIDTH):
    """A as the tuner stores it: packed, with its scale and its fingerprint."""
    projection = make_projection(R, width, kind="ternary", density=0.25, scale="unit", seed=0, name=name)
    return {
        "A": pack_ternary(projection.values),
        "A_scale": torch.tensor(projection.scale, dtype=torch.float64),
        "A_fingerprint": torch.tensor(list(bytes.fromhex(fingerprint(projection))), dtype=torch.uint8),
    }


def adapter_tensors():
    generator = torch.Generator().manual_seed(3)
    tensors = {}
    for name in MODULES:
        prefix = f"base_model.model.{name}.neurolora_"
        tensors |= {prefix + part: tensor for part, tensor in projection_tensors(name).items()}
        tensors[prefix + "B"] = torch.randn(OUT, R, generator=generator)
        tensors[prefix + "gate_W1"] = torch.randn(BOTTLENECK, WIDTH, generator=generator)
        tensors[prefix + "gate_W2"] = torch.randn(R, BOTTLENECK, generator=generator)
        tensors[prefix + "gate_gamma"] = torch.full((R,), 2.0)
        tensors[prefix + "gate_beta"] = torch.zeros(R)
    return tensors


def write_adapter(folder: Path, config=None, tensors=None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps(config or adapter_config()))
    save_file(adapter_tensors() if tensors is None else tensors, folder / "adapter_model.safetensors")
    return folder


def routing(layers=MODULES):
    rows = []
    for index, name in enumerate(layers):
        weights = [math.exp(-rank * (0.1 + 0.05 * index)) for rank in range(R)]
        use = [min(1.0, K * weight / sum(weights)) for weight in weights]
        rows.append(
            {
                "name": name,
                "tokens": 1000,
                "active_frequency": use,
                "gate_mean": [1 + 0.02 * (rank - 4) for rank in range(R)],
                "gate_std": [0.05] * R,
                "gate_min": 0.6 - 0.01 * index,
                "gate_max": 1.5,
                "orthogonality": 0.03,
            }
        )
    return {"r": R, "top_k": K, "layers": rows}


def write_run(folder: Path) -> Path:
    write_adapter(folder)
    config = {
        "model": {"model_name_or_path": "world"},
        "adapter": {"method": "neurolora", "r": R},
        "data": {"task": "world-recall", "dataset_name": None},
        "train": {
            "learning_rate": 2e-4,
            "gate_learning_rate": 5e-4,
            "per_device_train_batch_size": 16,
            "gradient_accumulation_steps": 4,
            "seed": 42,
        },
    }
    (folder / "config.yaml").write_text(json.dumps(config))
    (folder / "env.json").write_text(
        json.dumps({"versions": {"torch": "2.13.0"}, "git": None, "time": "2026-01-02T03:04:05+00:00"})
    )
    (folder / "routing.json").write_text(json.dumps(routing()))
    lines = []
    for step in range(1, 101):
        line = {"step": step, "epoch": step / 50, "loss": 3 / step**0.4 + 0.1 * math.sin(step)}
        line |= {"orthogonality_loss": 0.1 / step, "learning_rate": 2e-4 * (1 - step / 100)}
        line |= {"gate_learning_rate": 5e-4 * (1 - step / 100), "grad_norm": 1 + 1 / step}
        lines.append(line)
        if step % 50 == 0:
            lines.append({"step": step, "epoch": step / 50, "eval_loss": 3 / step**0.4})
    lines.append({"type": "summary", "seconds": 12.5, "train_examples": 640})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for stage, accuracy in (("before", 0.25), ("after", 0.75)):
        result = {"results": {"world-recall": {"acc": accuracy, "acc_stderr": 0.01}}}
        (folder / "eval").mkdir(exist_ok=True)
        (folder / "eval" / f"{stage}.json").write_text(json.dumps(result))
    return folder


@pytest.fixture
def adapter(tmp_path):
    return write_adapter(tmp_path / "adapter")


@pytest.fixture
def run_folder(tmp_path):
    return write_run(tmp_path / "run")


@pytest.fixture
def make():
    """The builders, for tests that need a variant: `make.adapter(folder, config, tensors)` and so on."""

    class Make:
        adapter = staticmethod(write_adapter)
        config = staticmethod(adapter_config)
        tensors = staticmethod(adapter_tensors)
        run = staticmethod(write_run)
        routing = staticmethod(routing)
        modules = MODULES
        projection = staticmethod(projection_tensors)

    return Make
