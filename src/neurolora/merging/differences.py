"""In which ways parents differ: one finder for each check, each giving sentences with both values.

Room: merging. The rows of `checks.py` name these. All parents are compared with the first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any

from neurolora.adapter_file import LORA, ROUTED
from neurolora.adapter_reader import AdapterReader
from neurolora.merging.completeness import MOST_SHOWN, missing_parts
from neurolora.merging.likeness import (
    SHOWN,
    base_difference,
    head_differences,
    is_projection,
    is_what_it_says,
    same_stored_projection,
    tokenizer_differences,
)
from neurolora.merging.projections import recorded_fingerprint
from neurolora.tuner.config import NeuroLoraConfig

Sources = Sequence[AdapterReader]
#: PEFT's names of the methods whose adapters can be merged, each with its own kind.
FAMILIES = (ROUTED, LORA)

#: What a routed adapter's config means where it does not say.
DEFAULTS: dict[str, Any] = {field.name: field.default for field in fields(NeuroLoraConfig)}


def setting(config: dict[str, Any], name: str) -> Any:
    """A setting of an adapter, or what it is where the config does not say."""
    value = config.get(name)
    return DEFAULTS[name] if value is None else value


def alpha_over_r(config: dict[str, Any]) -> float:
    """The factor of Eq. 1."""
    return float(setting(config, "lora_alpha")) / int(setting(config, "r"))


def _pairs(sources: Sources) -> list[tuple[AdapterReader, AdapterReader]]:
    return [(sources[0], other) for other in sources[1:]]


def settings(*names: str) -> Callable[[Sources], list[str]]:
    """A finder for settings of these names."""

    def find(sources: Sources) -> list[str]:
        return [
            f"{name} is {setting(first.config, name)!r} in {first.folder}"
            f" and {setting(other.config, name)!r} in {other.folder}"
            for first, other in _pairs(sources)
            for name in names
            if setting(first.config, name) != setting(other.config, name)
        ]

    return find


def gates(sources: Sources) -> list[str]:
    """The kind of gate, and of what that kind has, who shares it and its width."""
    by_kind = {"token": ("gate_sharing", "gate_dim"), "static": ("gate_sharing",)}
    return settings("gate", *by_kind.get(setting(sources[0].config, "gate"), ()))(sources)


def kinds(sources: Sources) -> list[str]:
    """Adapters of another PEFT method than the first's, or of one that cannot be merged here."""
    wanted = sources[0].config["peft_type"]
    wanted = wanted if wanted in FAMILIES else FAMILIES[0]
    found = [(source.folder, source.config["peft_type"]) for source in sources]
    return [f"{folder} is of type {kind}, not {wanted}" for folder, kind in found if kind != wanted]


def block_ranks(sources: Sources) -> list[str]:
    """Blocks of another rank than the first's."""
    ranks = [int(setting(s.config, "r")) // int(setting(s.config, "blocks")) for s in sources]
    return [
        f"a block has {ranks[0]} ranks in {sources[0].folder} and {rank} in {source.folder}"
        for source, rank in zip(sources[1:], ranks[1:], strict=True)
        if rank != ranks[0]
    ]


def missing_tensors(sources: Sources) -> list[str]:
    """Tensors that a config promises and its file lacks."""
    return [f"{source.path} lacks {part}" for source in sources for part in missing_parts(source)]


def modules(sources: Sources) -> list[str]:
    """Modules that one file has tensors for and another has not."""
    problems = []
    for first, other in _pairs(sources):
        for there, absent in ((first, other), (other, first)):
            lacking = sorted(set(there.modules) - set(absent.modules))
            if lacking:
                shown = ", ".join(lacking[:MOST_SHOWN]) + (", ..." if len(lacking) > MOST_SHOWN else "")
                problems.append(f"{there.folder} adapts {shown}, {absent.folder} does not")
    return problems


def shapes(sources: Sources) -> list[str]:
    """Tensors of other shapes, or in one file only; A and heads have checks of their own."""
    problems = []
    for first, other in _pairs(sources):
        if first.entries is other.entries:
            continue  # one header
        shapes = [
            {k: e.shape for k, e in s.entries.items() if k not in s.others and not is_projection(k)}
            for s in (first, other)
        ]
        problems += [
            f"{key} is {shapes[0].get(key, 'absent')} in {first.folder}"
            f" and {shapes[1].get(key, 'absent')} in {other.folder}"
            for key in sorted(set(shapes[0]) | set(shapes[1]))
            if shapes[0].get(key) != shapes[1].get(key)
        ]
    return problems


def projections(sources: Sources) -> list[str]:
    """A of every module: as stored, what it says, and the first parent's."""
    first, damaged = sources[0], []
    differing: dict[int, list[str]] = {}
    for module in first.modules:
        if not is_what_it_says(first, module):
            damaged.append(f"A of {module} in {first.folder} is not what its fingerprint says (damaged)")
        recorded = recorded_fingerprint(first, module)
        for index, other in enumerate(sources[1:]):
            own = recorded_fingerprint(other, module) if module in other.modules else recorded
            if own != recorded:
                differing.setdefault(index, []).append(f"{recorded[:SHOWN]} and {own[:SHOWN]} in {module}")
            elif module in other.modules and not _holds_its_projection(first, other, module):
                damaged.append(f"A of {module} in {other.folder} is not what its fingerprint says (damaged)")
    return damaged + [
        f"A differs in {len(found)} of {len(first.modules)} modules of {first.folder} and"
        f" {sources[index + 1].folder}, for example {found[0]}"
        for index, found in differing.items()
    ]


def _holds_its_projection(first: AdapterReader, other: AdapterReader, module: str) -> bool:
    """Whether the other's A is what it says; the first's bytes, which have been checked, spare the digest."""
    return same_stored_projection(first, other, module) or is_what_it_says(other, module)


def tokenizers(sources: Sources) -> list[str]:
    """Other tokenizers beside the adapters."""
    return tokenizer_differences([source.folder for source in sources])


def bases(sources: Sources) -> list[str]:
    """Other base models, where fingerprints were saved."""
    problems = []
    if not any(source.config.get("base_fingerprint") for source in sources):
        return settings("base_model_name_or_path")(sources)  # all that other methods write down
    for first, other in _pairs([source for source in sources if source.config.get("base_fingerprint")]):
        found = base_difference(first.config["base_fingerprint"], other.config["base_fingerprint"])
        problems += [f"{first.folder} and {other.folder} were trained on {found}"] if found else []
    return problems


def heads(sources: Sources) -> list[str]:
    """Tensors of modules_to_save that are not the same in all."""
    return [
        f"{line}, comparing {first.folder} and {other.folder}"
        for first, other in _pairs(sources)
        for line in head_differences(first, other)
    ]


def notes(sources: Sources) -> list[str]:
    """What is no hindrance, but should be known."""
    notes = [
        f"lora_alpha is {setting(first.config, 'lora_alpha')} in {first.folder} and"
        f" {setting(other.config, 'lora_alpha')} in {other.folder}: B of the latter is scaled to the former"
        for first, other in _pairs(sources)
        if alpha_over_r(first.config) != alpha_over_r(other.config)
    ]
    silent = [str(source.folder) for source in sources if not source.config.get("base_fingerprint")]
    if silent:
        notes.append(f"No fingerprint of the base was saved with {', '.join(silent)}: it was not compared")
    return notes
