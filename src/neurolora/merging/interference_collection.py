"""Comparing adapter folders: modules they have in common, one after the other, two adapters at a time.

Room: merging. The command `inspect` calls `compare_adapters` for two or more adapters. The base model is
not needed; inputs of texts, which need it, are handed in by `report.text_inputs`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from neurolora.errors import AdapterError, ConfigError, explain
from neurolora.merging.common_ground import (
    common_modules,
    notes_on_adapters,
    notes_on_pairs,
    share_projection,
)
from neurolora.merging.interference import (
    Delta,
    chance_overlap,
    cosine_of,
    energy,
    inner_product,
    principal_angles,
    routing_overlap,
    sign_conflict,
)
from neurolora.merging.interference_report import (
    AdapterNumbers,
    InterferenceReport,
    ModuleNumbers,
    PairNumbers,
    features_of,
    gram,
    predicted,
    shares,
    whole_pairs,
)
from neurolora.merging.routing_sets import random_inputs, routing_mask
from neurolora.merging.stored_adapter import StoredAdapter, adapters_to_compare

if TYPE_CHECKING:
    from torch import Tensor

SHARED = "scaling * B: all adapters are routed and share A"
TRUE = "scaling * B A: the adapters do not share one A"

Progress = Callable[[int, int], None]


def compare_adapters(
    folders: Sequence[Path | str],
    *,
    inputs: Mapping[str, Tensor] | None = None,
    tokens: int = 512,
    seed: int = 0,
    progress: Progress | None = None,
) -> InterferenceReport:
    """The interference of two or more adapters in the modules that all of them have.

    inputs: module -> x (N, d), what the module reads; without, `tokens` rows of N(0, 1) from `seed`.
    progress: called with the number of modules done and of all.

    Raises ConfigError for fewer than two adapters, or no tokens; AdapterError for a folder that is no
    adapter, a file that is truncated or incomplete, NaN (named), or adapters that have no module in common.
    """
    if len(folders) < 2:
        do = "Give two or more adapter folders"
        raise ConfigError(explain("comparing adapters", f"there are {len(folders)}", do))
    if tokens < 1:
        raise ConfigError(explain("comparing adapters", f"tokens is {tokens}", "Draw at least one"))
    with adapters_to_compare(folders) as adapters:
        names, left_out = common_modules(adapters)
        with_A = not share_projection(adapters, names)
        modules = []
        for done, name in enumerate(names):
            if progress is not None:
                progress(done, len(names))
            masks = _masks(adapters, name, inputs, tokens, seed)
            modules.append(_compare_module(adapters, name, with_A, masks))
        if progress is not None:
            progress(len(names), len(names))
        routed = any(adapter.is_routed for adapter in adapters)
        drawn = {"tokens": tokens, "seed": seed} if routed and inputs is None else None
        said = f"{tokens} random tokens, N(0, 1), seed {seed}" if drawn else "the given texts"
        basis = TRUE if with_A else SHARED
        return _report(adapters, modules, left_out, basis, said if routed else None, drawn)


def _masks(
    adapters: Sequence[StoredAdapter],
    name: str,
    inputs: Mapping[str, Tensor] | None,
    tokens: int,
    seed: int,
) -> list[Tensor | None]:
    """Each adapter's routing sets on the same inputs, bool (N, r); None for one without routing."""
    masks: list[Tensor | None] = []
    for adapter in adapters:
        if not adapter.is_routed:
            masks.append(None)
            continue
        A = adapter.down_projection(name).float()
        x = random_inputs(name, A.shape[1], tokens, seed) if inputs is None else inputs[name].float()
        masks.append(routing_mask(adapter, name, x, A))
    return masks


def _compare_module(
    adapters: Sequence[StoredAdapter], name: str, with_A: bool, masks: Sequence[Tensor | None]
) -> ModuleNumbers:
    """All pairs of one module; at most two updates are in memory."""
    energies, pairs = [0.0] * len(adapters), []
    for i, first in enumerate(adapters):
        mine = first.delta(name, with_A)
        energies[i] = energy(mine)
        for j in range(i + 1, len(adapters)):
            other = adapters[j].delta(name, with_A)
            _require_one_shape(name, (first, adapters[j]), (mine, other))
            ends = (first.label, adapters[j].label)
            pairs.append(_compare_pair(ends, mine, other, (masks[i], masks[j])))
    return ModuleNumbers(name, energies, pairs)


def _require_one_shape(
    name: str, adapters: tuple[StoredAdapter, StoredAdapter], deltas: tuple[Delta, Delta]
) -> None:
    first, second = deltas
    if first.shape != second.shape:
        shapes = " and ".join(f"{one.label} {d.shape}" for one, d in zip(adapters, deltas, strict=True))
        do = "Compare adapters of the same base model"
        raise AdapterError(explain(f"comparing {name}", f"its updates have different shapes: {shapes}", do))


def _compare_pair(
    ends: tuple[str, str], first: Delta, second: Delta, masks: tuple[Tensor | None, Tensor | None]
) -> PairNumbers:
    inner = inner_product(first, second)
    angles = principal_angles(first.B, second.B)
    overlap, chance = _compare_routing(*masks)
    return PairNumbers(
        first=ends[0],
        second=ends[1],
        inner=inner,
        cosine=cosine_of(inner, energy(first), energy(second)),
        signs=sign_conflict(first, second),
        subspace_overlap=float(angles.cos().square().mean()) if len(angles) else 0.0,
        # r1 r2 / o, the mean of ||Q1' Q2||^2 for random spaces, over the number of angles
        subspace_chance=min(1.0, max(first.B.shape[1], second.B.shape[1]) / first.B.shape[0]),
        smallest_angle=math.degrees(float(angles[0])) if len(angles) else None,
        routing_overlap=overlap,
        routing_chance=chance,
    )


def _compare_routing(first: Tensor | None, second: Tensor | None) -> tuple[float | None, float | None]:
    """Overlap and its chance level; None where one does not route or the ranks cannot be told to match."""
    if first is None or second is None or first.shape != second.shape:
        return None, None
    chance = chance_overlap(int(first[0].sum()), int(second[0].sum()), first.shape[1])
    return routing_overlap(first, second), chance


def _report(
    adapters: Sequence[StoredAdapter],
    modules: list[ModuleNumbers],
    left_out: dict[str, list[str]],
    basis: str,
    inputs: str | None,
    drawn: dict[str, int] | None,
) -> InterferenceReport:
    pairs = whole_pairs(modules)
    energies = [sum(module.energy[i] for module in modules) for i in range(len(adapters))]
    table = gram([adapter.label for adapter in adapters], energies, pairs)
    parts = zip(adapters, energies, shares(energies), strict=True)
    found = [
        AdapterNumbers(
            label=adapter.label,
            path=str(adapter.folder),
            method=adapter.method,
            base_model=adapter.config.get("base_model_name_or_path"),
            energy=own,
            energy_share=share,
            **predicted(table, index),
            **features_of(adapter.label, pairs),
        )
        for index, (adapter, own, share) in enumerate(parts)
    ]
    notes = [*notes_on_adapters(adapters, energies), *notes_on_pairs(adapters, pairs, left_out)]
    return InterferenceReport(found, pairs, modules, basis, inputs, left_out, notes, drawn)
