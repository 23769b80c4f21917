"""What an adapter folder holds, counted and measured from its files alone: the base model is never loaded.

Room: report, a library function for the command `inspect`, the training report and the model card.
Tensors are read one at a time, so that the size of the adapter does not matter.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neurolora.adapter_file import (
    BIAS,
    FINGERPRINT,
    GATE,
    SCALE,
    A,
    method_name,
    pair_of,
    sorted_modules,
)
from neurolora.adapter_reader import AdapterReader
from neurolora.errors import AdapterError, explain
from neurolora.merging.completeness import require_complete
from neurolora.merging.projections import projection_of
from neurolora.provenance import fingerprint_file

if TYPE_CHECKING:
    from torch import Tensor

NOT_TRAINED = (A, SCALE, FINGERPRINT, BIAS)


@dataclass(frozen=True)
class ModuleFacts:
    """One adapted module.

    in_features is None where the file alone does not tell; counts are numbers of entries.
    up_norm: Frobenius norm. rank_norms: the norms of B's columns. orthogonality: mean of cos(B_i, B_j)^2
    over i != j (0 = all columns orthogonal). gate: the ranges of gamma and beta and the norm of W2, for
    a gate stored with this module; a shared gate is stored with the first module that uses it.
    """

    name: str
    in_features: int | None
    out_features: int
    r: int
    trainable: int
    stored: int
    up_norm: float
    rank_norms: list[float]
    orthogonality: float
    gate: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Parameters:
    """Numbers of entries: what was trained, what the file stands for, and what one token depends on.

    `active` is counted as `neurolora.core.accounting` does; for plain LoRA, all is active.
    `other` is what lies in the file beside the adapter (modules_to_save), and is part of the first two.
    """

    trainable: int
    stored: int
    active: int
    other: int


@dataclass(frozen=True)
class AdapterFacts:
    """One adapter folder."""

    path: str
    method: str
    base_model: str | None
    config: dict[str, Any]
    parameters: Parameters
    file_bytes: int
    fingerprints: dict[str, Any]
    modules: list[ModuleFacts]
    notes: list[str]

    @property
    def top_k(self) -> int | None:
        """Active ranks for each token; None for a method without routing."""
        return self.config.get("top_k")

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, as `inspect --json` prints them."""
        return asdict(self)


def inspect_adapter(folder: Path | str) -> AdapterFacts:
    """Read an adapter folder of NeuroLoRA, FlyLoRA or plain LoRA.

    Raises AdapterError for a folder that is no adapter, a file that is truncated, tensors that are missing,
    empty, or of shapes that do not fit each other.
    """
    with AdapterReader(folder) as source:
        require_complete(source)
        facts = [_module_facts(source, name, parts) for name, parts in sorted_modules(source.modules)]
    config = source.config
    other = sum(math.prod(source.entries[key].shape) for key in source.others)
    return AdapterFacts(
        path=str(source.folder),
        method=method_name(config),
        base_model=config.get("base_model_name_or_path"),
        config=config,
        parameters=_totals(facts, config, other),
        file_bytes=source.path.stat().st_size,
        fingerprints=_fingerprints(source),
        modules=facts,
        notes=_notes(facts),
    )


def _module_facts(source: AdapterReader, name: str, parts: dict[str, str]) -> ModuleFacts:
    import torch

    part_A, part_B = pair_of(parts) or ("", "")
    shapes = {part: source.entries[key].shape for part, key in parts.items()}
    if len(shapes[part_B]) < 2:
        found = f"B is no matrix, its shape is {shapes[part_B]}"
        raise AdapterError(explain(f"reading the module {name}", found, "The file is damaged: save it again"))
    out_features, r = shapes[part_B][:2]
    _check_ranks(name, r, part_A, shapes)
    in_features = _in_features(shapes, part_A)
    if part_A == A and A in parts:
        in_features = projection_of(source, name).values.shape[1]
    projection = r * in_features if in_features and part_A in shapes else 0
    trained = sum(math.prod(shape) for part, shape in shapes.items() if part not in (part_A, *NOT_TRAINED))
    gate = {part: source.raw_tensor(key) for part, key in parts.items() if part.startswith(GATE)}
    columns = source.raw_tensor(parts[part_B]).to(torch.float64).flatten(1)
    return ModuleFacts(
        name=name,
        in_features=in_features,
        out_features=out_features,
        r=r,
        trainable=trained + (0 if part_A == A else projection),
        stored=trained + projection,
        up_norm=float(columns.norm()),
        rank_norms=columns.norm(dim=0).tolist(),
        orthogonality=mean_squared_cosine(columns),
        gate=_gate_facts({part.removeprefix(GATE): tensor for part, tensor in gate.items()}),
    )


def _check_ranks(name: str, r: int, part_A: str, shapes: dict[str, tuple[int, ...]]) -> None:
    """A, W2, gamma and beta have r rows, as B has r columns."""
    rows = {part_A, f"{GATE}W2", f"{GATE}gamma", f"{GATE}beta"} & set(shapes)
    wrong = [f"{part} {shapes[part]}" for part in sorted(rows) if shapes[part][:1] != (r,)]
    if not wrong and len(shapes.get(part_A, (r, 1))) < 2:
        wrong = [f"{part_A} is no matrix, {shapes[part_A]}"]
    if wrong:
        found = f"B has {r} columns, but {', '.join(wrong)}"
        raise AdapterError(explain(f"reading the module {name}", found, "The file is damaged: save it again"))


def _in_features(shapes: dict[str, tuple[int, ...]], part_A: str) -> int | None:
    """The width of the input: from the gate's W1, else from A (a packed one does not tell)."""
    if f"{GATE}W1" in shapes:
        return shapes[f"{GATE}W1"][1]
    if part_A not in shapes or part_A == A:
        return None
    return math.prod(shapes[part_A][1:])


def mean_squared_cosine(columns: Tensor) -> float:
    """Mean of cos(b_i, b_j)^2 over i != j for the columns of (o, r); columns of zeros count as cosine 0."""
    import torch

    r = columns.shape[1]
    if r < 2:
        return 0.0
    directions = torch.nn.functional.normalize(columns, dim=0, eps=1e-30)
    squares = (directions.T @ directions).square()
    return float((squares.sum() - squares.diagonal().sum()) / (r * (r - 1)))


def _gate_facts(gate: dict[str, Tensor]) -> dict[str, float]:
    """Ranges of gamma and beta, and the norm of W2: 0 means that the gate is the same for all tokens."""
    import torch

    facts = {}
    for part in ("gamma", "beta"):
        if part in gate:
            facts[f"{part}_min"] = float(gate[part].min())
            facts[f"{part}_max"] = float(gate[part].max())
    for part in ("W1", "W2"):
        if part in gate:
            facts[f"norm_{part}"] = float(gate[part].to(torch.float64).norm())
    return facts


def _totals(facts: list[ModuleFacts], config: dict[str, Any], other: int) -> Parameters:
    trainable = sum(module.trainable for module in facts)
    stored = sum(module.stored for module in facts)
    unused = 0
    if isinstance(top_k := config.get("top_k"), int):
        active = top_k * config.get("blocks", 1)
        unused = sum(module.out_features * max(module.r - active, 0) for module in facts)
        if config.get("train_projection", False) and config.get("gate") == "router":  # it chooses before A x
            unused += sum(max(module.r - active, 0) * (module.in_features or 0) for module in facts)
    return Parameters(trainable + other, stored + other, trainable - unused, other)


def _fingerprints(source: AdapterReader) -> dict[str, Any]:
    """What the adapter says of itself, and the digest of its file."""
    config = source.config
    return {
        "projection": config.get("projection_fingerprint"),
        "base": config.get("base_fingerprint"),
        "neurolora_version": config.get("neurolora_version"),
        "peft_version": config.get("peft_version"),
        "file_sha256": fingerprint_file(source.path),
    }


def _notes(facts: list[ModuleFacts]) -> list[str]:
    """What a reader should be told without having to look for it."""
    zero = [module.name for module in facts if module.up_norm == 0]
    wild = [module.name for module in facts if not math.isfinite(module.up_norm)]
    notes = []
    if len(zero) == len(facts):
        notes.append("Every B is zero: the adapter changes nothing (it has not been trained).")
    elif zero:
        notes.append(f"B is zero in {len(zero)} of {len(facts)} modules, for example {zero[0]}.")
    if wild:
        notes.append(f"B holds NaN or infinity in {len(wild)} modules, for example {wild[0]}.")
    return notes
