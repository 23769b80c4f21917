"""Adapter folders made by hand: small, of one A, with contents that depend on a seed alone."""

import json
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

from neurolora.core.projection import fingerprint, make_projection

R, K, WIDTH, OUT, BOTTLENECK = 8, 2, 10, 6, 4
MODULES = tuple(f"model.layers.{layer}.self_attn.{kind}_proj" for layer in (0, 1) for kind in "qv")
BASE = {
    "architecture": {"hidden_size": WIDTH, "num_hidden_layers": 2},
    "sample": {"layers.0.weight": [0.5, -0.25, 0.125, 1.0], "layers.1.weight": [1.0, 2.0, 3.0, 4.0]},
    "digest": "b" * 16,
}
PREFIX = "base_model.model."


def config(**changes):
    return {
        "peft_type": "NEUROLORA",
        "base_model_name_or_path": "some/base",
        "r": R,
        "top_k": K,
        "lora_alpha": 16,
        "routing": "abs",
        "gate": "token",
        "gate_dim": BOTTLENECK,
        "gate_sharing": "module",
        "load_balance_rate": 0.0,
        "save_projection": True,
        "train_projection": False,
        "modules_to_save": None,
        "target_modules": ["q_proj", "v_proj"],
        "projection_fingerprint": "a" * 16,
        "base_fingerprint": BASE,
        **changes,
    }


def projection(module, seed=0):
    made = make_projection(R, WIDTH, kind="ternary", density=0.4, scale="unit", seed=seed, name=module)
    return {
        "neurolora_A": made.stored(),
        "neurolora_A_scale": torch.tensor(made.scale, dtype=torch.float64),
        "neurolora_A_fingerprint": torch.tensor(list(bytes.fromhex(fingerprint(made))), dtype=torch.uint8),
    }


def tensors(seed=0, a_seed=0, modules=MODULES):
    generator = torch.Generator().manual_seed(100 + seed)

    def draw(*shape):
        return torch.randn(shape, generator=generator)

    made = {}
    for module in modules:
        parts = projection(module, a_seed) | {
            "neurolora_B": draw(OUT, R),
            "neurolora_gate_W1": draw(BOTTLENECK, WIDTH),
            "neurolora_gate_W2": draw(R, BOTTLENECK),
            "neurolora_gate_gamma": 2 + draw(R),
            "neurolora_gate_beta": draw(R),
        }
        made |= {f"{PREFIX}{module}.{part}": tensor for part, tensor in parts.items()}
    return made


@pytest.fixture
def make(tmp_path):
    """`make(name, seed, tensors=..., **config)` writes one folder; also the builders and `load`."""

    def adapter(name, seed=0, *, tensors_=None, **changes):
        folder = tmp_path / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "adapter_config.json").write_text(json.dumps(config(**changes)))
        save_file(tensors(seed) if tensors_ is None else tensors_, folder / "adapter_model.safetensors")
        return folder

    return SimpleNamespace(
        adapter=adapter,
        tensors=tensors,
        config=config,
        load=lambda folder: load_file(folder / "adapter_model.safetensors"),
        read_config=lambda folder: json.loads((folder / "adapter_config.json").read_text()),
        modules=MODULES,
        base=BASE,
        key=lambda part, module=MODULES[0]: f"{PREFIX}{module}.{part}",
    )


@pytest.fixture
def three(make):
    """Three adapters that fit together."""
    return [make.adapter(name, seed) for seed, name in enumerate("abc")]
