"""Whether a file has every tensor that its config promises: those that the tuner, or PEFT's LoRA, saves.

Room: merging; `report.inspection` calls it too. Looks at keys and shapes alone. The one list of its kind:
merging, comparing and inspecting demand the same.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection
from typing import Any

from neurolora.adapter_file import (
    BIAS,
    FINGERPRINT,
    GATE,
    GATE_PARTS,
    HALVES,
    MAGNITUDE,
    ROUTED,
    SCALE,
    TRAINED_A,
    UP,
    A,
    pair_of,
)
from neurolora.adapter_reader import AdapterReader
from neurolora.errors import AdapterError, explain

MOST_SHOWN = 5


def require_complete(source: AdapterReader) -> None:
    """Raises AdapterError that names the first of the tensors that are missing, and counts the others."""
    asked = f"reading {source.path}"
    if not any(map(pair_of, source.modules.values())):
        found = f"no tensor of a low-rank adapter in it (peft_type {source.config['peft_type']})"
        raise AdapterError(explain(asked, found, "Give a NeuroLoRA, FlyLoRA or LoRA adapter, saved whole"))
    missing = missing_parts(source)
    if missing:
        more = f" and {len(missing) - MOST_SHOWN} more" if len(missing) > MOST_SHOWN else ""
        found = f"missing: {', '.join(missing[:MOST_SHOWN])}{more}"
        raise AdapterError(explain(asked, found, "The file is incomplete: save or copy it again"))


def missing_parts(source: AdapterReader) -> list[str]:
    """Keys, or for a shared gate parts, that are not there; a file without any module lacks them all."""
    if not source.modules:
        return ["every tensor of an adapter"]
    is_routed = source.config["peft_type"] == ROUTED
    own, shared = _gate_parts(source.config) if is_routed else ((), ())
    promised = {*_of_routed(source.config), *own}
    missing = [
        f"{module}.{part}"
        for module, parts in source.modules.items()
        for part in sorted((promised if is_routed else _of_lora(source.config, parts)) - set(parts))
    ]
    return missing + _missing_shared(source, shared)


def _of_routed(config: dict[str, Any]) -> set[str]:
    """Parts that each routed module has beside its gate."""
    promised = {UP, SCALE, FINGERPRINT}
    if config.get("train_projection", False):
        promised.add(TRAINED_A)
    elif config.get("save_projection", True):
        promised.add(A)
    if (config.get("load_balance_rate") or 0) > 0:
        promised.add(BIAS)
    return promised


def _gate_parts(config: dict[str, Any]) -> tuple[Collection[str], Collection[str]]:
    """Parts of the gate that each module has, and those that only one module of a group has."""
    parts = GATE_PARTS.get(config.get("gate", "token"), ())
    shares = {"module": (), "input": ("W1",)}.get(config.get("gate_sharing", "module"), parts)
    own = [GATE + part for part in parts if part not in shares]
    return own, [GATE + part for part in parts if part in shares]


def _of_lora(config: dict[str, Any], parts: Collection[str]) -> set[str]:
    """Parts of a plain LoRA module, by what it has of them: both halves, and DoRA's magnitude."""
    halves = {half for pair in HALVES if set(pair) & set(parts) for half in pair} or set(HALVES[0])
    return halves | ({MAGNITUDE} if config.get("use_dora") else set())


def _missing_shared(source: AdapterReader, shared: Collection[str]) -> list[str]:
    """Shared parts that no module of their group has."""
    if not shared:
        return []
    return [
        f"{part} (shared) of {' and '.join(group[:2])}{', ...' if len(group) > 2 else ''}"
        for group in _gate_groups(source)
        for part in shared
        if not any(part in source.modules[module] for module in group)
    ]


def _gate_groups(source: AdapterReader) -> list[list[str]]:
    """The modules that share a gate, as the tuner groups them: by name and by width.

    Widths are told apart by A's columns as they are stored. Where not every A is there, such as where only
    the seed was saved, modules of all widths count as one group, so that no gate is called missing that is
    there.
    """
    from neurolora.tuner.naming import gate_group

    widths = {module: _stored_columns(source, module) for module in source.modules}
    are_known = all(widths.values())
    groups = defaultdict(list)
    for module, width in widths.items():
        group = gate_group(module, width if are_known else 0, source.config.get("gate_sharing", "module"))
        groups[group].append(module)
    return list(groups.values())


def _stored_columns(source: AdapterReader, module: str) -> int:
    """The last size of A in the file; 0 where A is not there."""
    part = A if A in source.modules[module] else TRAINED_A
    return math.prod(source.shape_of(module, part)[-1:]) if part in source.modules[module] else 0
