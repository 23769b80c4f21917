"""Adapter folders made by hand, with tensors that a test can compute with. A function of their arguments."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from neurolora.core.projection import Projection, fingerprint, make_projection

R, K, WIDTH, OUT, BOTTLENECK = 8, 2, 12, 10, 4
MODULES = ("layers.0.self_attn.q_proj", "layers.0.self_attn.v_proj", "layers.1.self_attn.q_proj")
PREFIX = "base_model.model."
BASE = {
    "architecture": {"hidden_size": WIDTH, "num_hidden_layers": 2},
    "sample": {"layers.0.weight": [0.5, -0.25, 0.125, 1.0], "layers.1.weight": [1.0, 2.0, 3.0, 4.0]},
    "digest": "b" * 16,
}
ROUTED: dict[str, Any] = {
    "peft_type": "NEUROLORA", "base_model_name_or_path": "some/base", "r": R, "top_k": K, "lora_alpha": 16,
    "density": 0.5, "projection_seed": 0, "routing": "abs", "gate": "token", "gate_dim": BOTTLENECK,
    "gate_sharing": "module", "load_balance_rate": 0.0, "save_projection": True, "train_projection": False,
    "modules_to_save": None, "target_modules": ["q_proj", "v_proj"], "projection_fingerprint": "a" * 16,
    "base_fingerprint": BASE,
}  # fmt: skip


def routed(
    folder: Path,
    seed: int = 0,
    modules: tuple[str, ...] = MODULES,
    out: int = OUT,
    tensors_: dict[str, Tensor] | None = None,
    **config: Any,
) -> Path:
    """A NeuroLoRA adapter with random B and gates, or `tensors_`; the rest goes into its config."""
    made = tensors(seed, modules, out, **config) if tensors_ is None else tensors_
    return write(folder, ROUTED | config, made)


def tensors(
    seed: int = 0, modules: tuple[str, ...] = MODULES, out: int = OUT, **config: Any
) -> dict[str, Tensor]:
    """What is in the file of such an adapter: whole modules, each with its own gate if it is a token's."""
    config = ROUTED | config
    generator = torch.Generator().manual_seed(seed)
    made: dict[str, Tensor] = {}
    for name in modules:
        parts = projection_parts(name, config)
        parts["B"] = torch.randn(out, config["r"], generator=generator)
        if config["gate"] == "token":
            parts["gate_W1"] = torch.randn(BOTTLENECK, WIDTH, generator=generator)
            parts["gate_W2"] = torch.randn(config["r"], BOTTLENECK, generator=generator)
            parts["gate_gamma"] = 2 + 0.5 * torch.randn(config["r"], generator=generator)
            parts["gate_beta"] = 0.1 * torch.randn(config["r"], generator=generator)
        made |= {key(f"neurolora_{part}", name): tensor for part, tensor in parts.items()}
    return made


def projection_parts(name: str, config: dict[str, Any]) -> dict[str, Tensor]:
    projection = projection_of(name, config)
    return {
        "A": projection.stored(),
        "A_scale": torch.tensor(projection.scale, dtype=torch.float64),
        "A_fingerprint": torch.tensor(list(bytes.fromhex(fingerprint(projection))), dtype=torch.uint8),
    }


def projection_of(name: str, config: dict[str, Any]) -> Projection:
    seed, density = config["projection_seed"], config["density"]
    return make_projection(
        config["r"], WIDTH, kind="ternary", density=density, scale="unit", seed=seed, name=name
    )


def lora(folder: Path, seed: int = 0, modules: tuple[str, ...] = MODULES, r: int = 4, **config: Any) -> Path:
    """A plain LoRA adapter with random A and B; with `use_dora` a magnitude of ones."""
    generator = torch.Generator().manual_seed(seed)
    made = {}
    for name in modules:
        made[key("lora_A.weight", name)] = torch.randn(r, WIDTH, generator=generator)
        made[key("lora_B.weight", name)] = torch.randn(OUT, r, generator=generator)
        if config.get("use_dora"):
            made[key("lora_magnitude_vector", name)] = torch.ones(OUT)
    config = {"peft_type": "LORA", "base_model_name_or_path": "base", "r": r, "lora_alpha": 16} | config
    return write(folder, config, made)


def key(part: str, module: str = MODULES[0]) -> str:
    return f"{PREFIX}{module}.{part}"


def write(folder: Path, config: dict[str, Any], tensors_: dict[str, Tensor]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps(config))
    save_file(tensors_, folder / "adapter_model.safetensors")
    return folder


def read(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "adapter_model.safetensors")


def read_config(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "adapter_config.json").read_text())


def change(folder: Path, tensors_: dict[str, Tensor | None] | None = None, **config: Any) -> Path:
    """Other tensors (None: gone) and settings in a folder that is there."""
    kept = read(folder) | {PREFIX + name: tensor for name, tensor in (tensors_ or {}).items()}
    left = {name: tensor for name, tensor in kept.items() if tensor is not None}
    return write(folder, read_config(folder) | config, left)
