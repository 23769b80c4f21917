"""Whether a file has every tensor that its config promises.

Room: merging. Looks at keys alone.
"""

from __future__ import annotations

from typing import Any

from neurolora.adapter_file import GATE, GATE_PARTS, other_half
from neurolora.merging.sources import AdapterSource


def missing_parts(source: AdapterSource) -> list[str]:
    """Keys, or for a shared gate parts, that are not there; a file without any module lacks them all."""
    if not source.modules:
        return ["every tensor of an adapter"]
    if source.config["peft_type"] == "LORA":
        return _missing_halves(source)
    gate = [GATE + part for part in GATE_PARTS.get(source.config.get("gate", "token"), ())]
    promised = _promised(source.config, gate)
    missing = [
        f"{module}.{part}"
        for module, parts in source.modules.items()
        for part in sorted(promised - set(parts))
    ]
    present = {part for parts in source.modules.values() for part in parts}
    shared = sorted(set(gate) - promised - present)
    return missing + [f"{part} (shared) in every module" for part in shared]


def _missing_halves(source: AdapterSource) -> list[str]:
    """Of plain LoRA, the A that goes with a B and the B that goes with an A."""
    return [
        f"{module}.{half}"
        for module, parts in source.modules.items()
        for half in other_half(parts)
        if half not in parts
    ]


def _promised(config: dict[str, Any], gate: list[str]) -> set[str]:
    """Parts that each module has; a shared gate may lie in another one."""
    promised = {"neurolora_B", "neurolora_A_scale", "neurolora_A_fingerprint"}
    if config.get("train_projection", False):
        promised.add("neurolora_A_trained")
    elif config.get("save_projection", True):
        promised.add("neurolora_A")
    if (config.get("load_balance_rate") or 0) > 0:
        promised.add("neurolora_bias")
    sharing = config.get("gate_sharing", "module")
    own = {"module": gate, "input": [part for part in gate if not part.endswith("W1")]}
    return promised | set(own.get(sharing, ()))
