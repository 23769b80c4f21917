"""Adapter folders made by hand, with tensors that a test can compute with. A function of their arguments."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from neurolora.core.projection import Projection, fingerprint, make_projection

R, K, WIDTH, OUT, BOTTLENECK = 8, 2, 12, 10, 4
MODULES = ("layers.0.self_attn.q_proj", "layers.0.self_attn.v_proj", "layers.1.self_attn.q_proj")
PREFIX = "base_model.model."


def routed(folder: Path, seed: int = 0, modules: tuple[str, ...] = MODULES, out: int = OUT, **config) -> Path:
    """A NeuroLoRA adapter with random B and gates; `projection_seed` and the rest go into its config."""
    config = {"peft_type": "NEUROLORA", "base_model_name_or_path": "base", "r": R, "top_k": K} | config
    config = {"lora_alpha": 16, "gate": "token", "density": 0.5, "projection_seed": 0} | config
    generator = torch.Generator().manual_seed(seed)
    tensors: dict[str, Tensor] = {}
    for name in modules:
        parts = projection_parts(name, config)
        parts["B"] = torch.randn(out, config["r"], generator=generator)
        if config["gate"] == "token":
            parts["gate_W1"] = torch.randn(BOTTLENECK, WIDTH, generator=generator)
            parts["gate_W2"] = torch.randn(config["r"], BOTTLENECK, generator=generator)
            parts["gate_gamma"] = 2 + 0.5 * torch.randn(config["r"], generator=generator)
            parts["gate_beta"] = 0.1 * torch.randn(config["r"], generator=generator)
        tensors |= {f"{PREFIX}{name}.neurolora_{part}": tensor for part, tensor in parts.items()}
    return write(folder, config, tensors)


def projection_parts(name: str, config: dict) -> dict[str, Tensor]:
    projection = projection_of(name, config)
    return {
        "A": projection.stored(),
        "A_scale": torch.tensor(projection.scale, dtype=torch.float64),
        "A_fingerprint": torch.tensor(list(bytes.fromhex(fingerprint(projection))), dtype=torch.uint8),
    }


def projection_of(name: str, config: dict) -> Projection:
    seed = config.get("projection_seed", 0)
    return make_projection(
        config["r"], WIDTH, kind="ternary", density=0.5, scale="unit", seed=seed, name=name
    )


def lora(folder: Path, seed: int = 0, modules: tuple[str, ...] = MODULES, r: int = 4, **config) -> Path:
    """A plain LoRA adapter with random A and B."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name in modules:
        tensors[f"{PREFIX}{name}.lora_A.weight"] = torch.randn(r, WIDTH, generator=generator)
        tensors[f"{PREFIX}{name}.lora_B.weight"] = torch.randn(OUT, r, generator=generator)
    config = {"peft_type": "LORA", "base_model_name_or_path": "base", "r": r, "lora_alpha": 16} | config
    return write(folder, config, tensors)


def write(folder: Path, config: dict, tensors: dict[str, Tensor]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps(config))
    save_file(tensors, folder / "adapter_model.safetensors")
    return folder


def read(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "adapter_model.safetensors")


def change(folder: Path, tensors: dict[str, Tensor | None] | None = None, **config) -> Path:
    """Other tensors (None: gone) and settings in a folder that is there."""
    known = json.loads((folder / "adapter_config.json").read_text()) | config
    kept = read(folder) | {PREFIX + key: tensor for key, tensor in (tensors or {}).items()}
    return write(folder, known, {key: tensor for key, tensor in kept.items() if tensor is not None})
