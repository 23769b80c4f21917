"""Opening an adapter folder: its config and its tensors' keys, with every way in which it may be broken.

Room: the floor, above errors. Anybody may call it; it reads `adapter_config.json` and
`adapter_model.safetensors` and nothing else; tensors are read one at a time, pickles never.
"""

from __future__ import annotations

import json
import math
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from neurolora.errors import AdapterError, explain

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
PICKLE = "adapter_model.bin"
#: Keys of a file by module and part.
Keys = dict[str, dict[str, str]]
#: The parts that together are one low-rank update: (A, B), by the names that their methods give them.
PAIRS = (
    ("neurolora_A_trained", "neurolora_B"),
    ("neurolora_A", "neurolora_B"),
    ("lora_A", "lora_B"),
    ("lora_embedding_A", "lora_embedding_B"),
)
#: Kind of gate -> its parts, in the order of Eq. 3; a part's tensor is called by it, behind `GATE`.
GATE = "neurolora_gate_"
GATE_PARTS = {"token": ("W1", "W2", "gamma", "beta"), "static": ("gamma",), "none": ()}
#: peft_type -> alpha where a config does not say it.
DEFAULT_ALPHA = {"NEUROLORA": 16, "LORA": 8}
_PREFIX = re.compile(r"^base_model\.model\.")
_PART = re.compile(r"^(?:(?P<module>.*)\.)?(?P<part>(?:neurolora|lora)_\w+)(?:\.(?:weight|default))?$")


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


@contextmanager
def open_weights(folder: Path) -> Iterator[Any]:
    """The safetensors file, opened without reading the tensors. Raises AdapterError if it is damaged."""
    from safetensors import SafetensorError, safe_open

    file = folder / WEIGHTS
    asked = f"reading {file}"
    if not file.is_file():
        found = f"only {PICKLE}, a pickle, is there" if (folder / PICKLE).is_file() else "the file is missing"
        raise AdapterError(explain(asked, found, "Save the adapter again as safetensors"))
    try:
        with safe_open(file, framework="pt") as opened:
            yield opened
    except (SafetensorError, OSError) as error:
        found = f"the file is truncated or damaged ({error}; {file.stat().st_size:,} bytes)"
        raise AdapterError(explain(asked, found, "Copy or save it again")) from error


def split_key(key: str) -> tuple[str, str] | None:
    """`base_model.model.a.b.neurolora_B` -> (`a.b`, `neurolora_B`); None for any other tensor."""
    match = _PART.match(_PREFIX.sub("", key))
    return (match["module"] or "", match["part"]) if match else None


def shape_of(weights: Any, key: str) -> tuple[int, ...]:
    """A tensor's shape, from the header. Raises AdapterError for one without entries."""
    shape = tuple(weights.get_slice(key).get_shape())
    if 0 in shape:
        raise AdapterError(
            explain(
                f"reading the tensor {key}",
                f"it is empty, of shape {shape}",
                "A sharded model (ZeRO-3, FSDP) was saved without gathering it: gather, and save again",
            )
        )
    return shape


def method_name(config: dict[str, Any]) -> str:
    """`NeuroLoRA`, `FlyLoRA` (the same tuner without a gate), or PEFT's own name of the method."""
    if config["peft_type"] == "NEUROLORA":
        return "FlyLoRA" if config.get("gate") == "none" else "NeuroLoRA"
    return {"LORA": "LoRA"}.get(config["peft_type"], str(config["peft_type"]))


def group_keys(weights: Any) -> tuple[Keys, list[str]]:
    """Keys by module and part, and those of no adapter part."""
    modules: Keys = defaultdict(dict)
    others = []
    for key in weights.keys():  # noqa: SIM118 - the opened file is no mapping
        place = split_key(key)
        if place is None:
            others.append(key)
        else:
            modules[place[0]][place[1]] = key
    return dict(modules), others


def pair_of(parts: dict[str, str]) -> tuple[str, str] | None:
    """The names of A and B of a module that has a B; A itself may be absent (only its seed was saved)."""
    pairs = [pair for pair in PAIRS if pair[1] in parts]
    return next((pair for pair in pairs if pair[0] in parts), pairs[-1] if pairs else None)


def sorted_modules(modules: Keys) -> list[tuple[str, dict[str, str]]]:
    """Modules with a B, in the order of the model: numbers in names count as numbers."""

    def order(item: tuple[str, Any]) -> list[tuple[bool, int, str]]:
        return [(not p.isdigit(), int(p) if p.isdigit() else 0, p) for p in item[0].split(".")]

    return sorted(((name, parts) for name, parts in modules.items() if pair_of(parts)), key=order)


def other_half(parts: Mapping[str, str]) -> tuple[str, ...]:
    """Of a plain LoRA module, the A and B that it must have, by what it has of them."""
    return tuple(half for pair in PAIRS[2:] if set(pair) & set(parts) for half in pair)


def scaling_of(config: Mapping[str, Any], module: str, r: int) -> float:
    """alpha / r; with `use_rslora` alpha / sqrt(r); alpha by `alpha_pattern`, as PEFT has these two."""
    patterns = (config.get("alpha_pattern") or {}).items()
    named = (alpha for pattern, alpha in patterns if re.match(rf"(.*\.)?({pattern})$", module))
    alpha = next(named, config.get("lora_alpha", DEFAULT_ALPHA[config["peft_type"]]))
    return float(alpha) / (math.sqrt(r) if config.get("use_rslora") else r)
