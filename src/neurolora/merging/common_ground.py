"""What several adapters have in common, and what a reader should be told about the rest.

Room: merging. `interference_collection` calls it before and after the comparison.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from neurolora.errors import AdapterError, explain
from neurolora.merging.interference_report import PairNumbers
from neurolora.merging.stored_adapter import StoredAdapter


def common_modules(adapters: Sequence[StoredAdapter]) -> tuple[list[str], dict[str, list[str]]]:
    """Modules that all adapters have, with equally many outputs, and for each adapter those left out.

    Raises AdapterError if nothing is left.
    """
    first = adapters[0]
    everywhere = [name for name in first.modules if all(name in other.modules for other in adapters)]
    names = [name for name in everywhere if len({other.up_shape(name)[0] for other in adapters}) == 1]
    if not names:
        raise _nothing_in_common(adapters, everywhere)
    kept = set(names)
    left = {one.label: [name for name in one.modules if name not in kept] for one in adapters}
    return names, {label: missing for label, missing in left.items() if missing}


def _nothing_in_common(adapters: Sequence[StoredAdapter], everywhere: Sequence[str]) -> AdapterError:
    if everywhere:
        name = everywhere[0]
        sizes = ", ".join(f"{one.label} {one.up_shape(name)[0]}" for one in adapters)
        found = f"they adapt the same modules of different sizes, such as {name}: outputs {sizes}"
    else:
        found = "no module is adapted by all; " + "; ".join(
            f"{one.label} has {len(one.modules)}, such as {next(iter(one.modules))}" for one in adapters
        )
    do = "Give adapters of the same base model with modules in common"
    return AdapterError(explain(f"comparing {len(adapters)} adapters", found, do))


def share_projection(adapters: Sequence[StoredAdapter], names: Sequence[str]) -> bool:
    """Whether in every module all adapters are routed with one and the same A."""
    if not all(adapter.is_routed for adapter in adapters):
        return False
    prints = ({adapter.fingerprint(name) for adapter in adapters} for name in names)
    return all(len(found) == 1 and None not in found for found in prints)


def notes_on_adapters(adapters: Sequence[StoredAdapter], energies: Sequence[float]) -> list[str]:
    """What a reader should be told of single adapters: untrained, DoRA, tensors that are not compared."""
    notes = []
    for adapter, own in zip(adapters, energies, strict=True):
        if own == 0:
            notes.append(f"{adapter.label}: every B is zero, it changes nothing (it has not been trained).")
        if adapter.method == "DoRA":
            notes.append(f"{adapter.label} is a DoRA adapter: its magnitude is left out of the report.")
        if count := len(adapter.source.others):
            notes.append(f"{adapter.label}: {count} tensors beside the adapter (heads) are not compared.")
    return notes


def notes_on_pairs(
    adapters: Sequence[StoredAdapter], pairs: Sequence[PairNumbers], left_out: Mapping[str, Sequence[str]]
) -> list[str]:
    """What a reader should be told of their fit: modules left out, other bases, other ranks."""
    notes = []
    for label, names in left_out.items():
        notes.append(f"{label}: {len(names)} modules that not all have are left out, such as {names[0]}.")
    bases = _bases(adapters)
    if len(bases) > 1:
        notes.append(f"The base models differ: {', '.join(sorted(bases))}.")
    routed = {adapter.label for adapter in adapters if adapter.is_routed}
    for pair in pairs:
        if pair.routing_overlap is None and {pair.first, pair.second} <= routed:
            notes.append(f"{pair.first} and {pair.second}: r differs, so routing sets are not compared.")
    return notes


def _bases(adapters: Sequence[StoredAdapter]) -> set[str]:
    """The digests of the bases where all adapters have one, else the names that they give."""
    digests = {(one.config.get("base_fingerprint") or {}).get("digest") for one in adapters}
    names = {one.config.get("base_model_name_or_path") for one in adapters}
    return {str(base) for base in (names if None in digests else digests) if base is not None}
