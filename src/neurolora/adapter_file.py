"""What an adapter folder holds by name: its files, its config, its tensors' keys and what they stand for.

Room: the floor, above errors. Anybody may call it; it reads `adapter_config.json` and no tensors:
`adapter_reader.py` does.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from neurolora.errors import AdapterError, explain

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
PICKLE = "adapter_model.bin"
#: peft_type of the adapters that are read here: NeuroLoRA and FlyLoRA; LoRA and DoRA.
ROUTED, LORA = "NEUROLORA", "LORA"
#: Keys of a file by module and part.
Keys = dict[str, dict[str, str]]
#: Parts of a routed module, as `tuner.state` writes them.
UP, BIAS = "neurolora_B", "neurolora_bias"
A, TRAINED_A = "neurolora_A", "neurolora_A_trained"
SCALE, FINGERPRINT = "neurolora_A_scale", "neurolora_A_fingerprint"
#: Parts of a module of plain LoRA: its two halves, first those of linear layers; what DoRA has besides.
HALVES = (("lora_A", "lora_B"), ("lora_embedding_A", "lora_embedding_B"))
MAGNITUDE = "lora_magnitude_vector"
#: Parts of a module of AdaLoRA, which may have no rank left.
ADALORA_PARTS = ("lora_A", "lora_B", "lora_E")
#: The parts that together are one low-rank update, (A, B).
PAIRS = ((TRAINED_A, UP), (A, UP), *HALVES)
#: Kind of gate -> its parts, in the order of Eq. 3; a part's tensor is called by it, behind `GATE`.
GATE = "neurolora_gate_"
GATE_PARTS = {"token": ("W1", "W2", "gamma", "beta"), "static": ("gamma",), "none": (), "router": ("W1",)}
#: peft_type -> alpha where a config does not say it.
DEFAULT_ALPHA = {ROUTED: 16, LORA: 8}
_CACHED = "models--"  # how huggingface_hub calls a cached repository's folder; `--` for `/`
_PREFIX = re.compile(r"^base_model\.model\.")
_PART = re.compile(r"^(?:(?P<module>.*)\.)?(?P<part>(?:neurolora|lora)_\w+)(?:\.(?:weight|default))?$")


def known_as(folder: Path | str) -> str:
    """What others can call this folder: `owner/name` for one in the hub's cache, else the path as given."""
    parts = Path(folder).parts
    if len(parts) > 2 and parts[-2] == "snapshots" and parts[-3].startswith(_CACHED):
        return parts[-3].removeprefix(_CACHED).replace("--", "/")
    return str(folder)


def read_adapter_config(folder: Path) -> dict[str, Any]:
    """The adapter's config as a dict. Raises AdapterError with what is there instead of an adapter."""
    asked = f"reading the adapter {folder}"
    if not folder.is_dir():
        raise AdapterError(explain(asked, "no such folder", "Give a folder that `train` or PEFT has saved"))
    if not (folder / CONFIG).is_file():
        raise AdapterError(explain(asked, f"no {CONFIG} in it", _what_instead(folder)))
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        found = f"{CONFIG} is no JSON ({error})"
        raise AdapterError(explain(asked, found, "Save or download the adapter again")) from error
    if not isinstance(config, dict) or not isinstance(config.get("peft_type"), str):
        raise AdapterError(explain(asked, f"{CONFIG} names no peft_type", "Save the adapter with PEFT again"))
    return config


def _what_instead(folder: Path) -> str:
    """Advice that fits what lies in the folder."""
    inside = sorted(path.parent.name for path in folder.glob(f"*/{CONFIG}"))
    if inside:
        return f"There are adapters in its folders {', '.join(inside)}: give one of them"
    if (folder / "config.json").is_file():
        return "It looks like a whole model: give the folder of an adapter"
    return "Give the folder that holds it, for a run its output_dir or a checkpoint-N"


def split_key(key: str) -> tuple[str, str] | None:
    """`base_model.model.a.b.neurolora_B` -> (`a.b`, `neurolora_B`); None for any other tensor."""
    match = _PART.match(_PREFIX.sub("", key))
    return (match["module"] or "", match["part"]) if match else None


def method_name(config: dict[str, Any]) -> str:
    """`NeuroLoRA`, `FlyLoRA` (the same tuner without a gate), or PEFT's own name of the method."""
    if config["peft_type"] == ROUTED:
        return {"none": "FlyLoRA", "router": "MoLE"}.get(config.get("gate", ""), "NeuroLoRA")
    return {LORA: "LoRA"}.get(config["peft_type"], str(config["peft_type"]))


def is_without_ranks(key: str, shape: Sequence[int]) -> bool:
    """Whether an empty tensor is that of a module from which AdaLoRA took all ranks; one side is left."""
    part = split_key(key)
    return len(shape) == 2 and max(shape) > 0 and part is not None and part[1] in ADALORA_PARTS


def pair_of(parts: dict[str, str]) -> tuple[str, str] | None:
    """The names of A and B of a module that has a B; A itself may be absent (only its seed was saved)."""
    pairs = [pair for pair in PAIRS if pair[1] in parts]
    return next((pair for pair in pairs if pair[0] in parts), pairs[-1] if pairs else None)


def sorted_modules(modules: Keys) -> list[tuple[str, dict[str, str]]]:
    """Modules with a B, in the order of the model: numbers in names count as numbers."""

    def order(item: tuple[str, Any]) -> list[tuple[bool, int, str]]:
        return [(not p.isdigit(), int(p) if p.isdigit() else 0, p) for p in item[0].split(".")]

    return sorted(((name, parts) for name, parts in modules.items() if pair_of(parts)), key=order)


def scaling_of(config: Mapping[str, Any], module: str, r: int) -> float:
    """alpha / r; with `use_rslora` alpha / sqrt(r); alpha by `alpha_pattern`, as PEFT has these two."""
    patterns = (config.get("alpha_pattern") or {}).items()
    named = (alpha for pattern, alpha in patterns if re.match(rf"(.*\.)?({pattern})$", module))
    alpha = next(named, config.get("lora_alpha", DEFAULT_ALPHA[config["peft_type"]]))
    return float(alpha) / (math.sqrt(r) if config.get("use_rslora") else r)
