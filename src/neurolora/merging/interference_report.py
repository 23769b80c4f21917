"""What the interference report says: numbers for pairs, modules and adapters, and who will lose most.

Room: merging. Plain values and arithmetic on them; `interference_collection` fills them in.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from neurolora.merging.interference import SignConflict, cosine_of

#: The prediction in words, shown wherever the score is.
FORMULA = (
    "score = ||M - D||^2 / ||D||^2 = (1 - kept)^2 + foreign, with D the adapter's delta over all compared "
    "modules and M the mean of all adapters' deltas: how far an equal-weight merge is from the adapter, "
    "measured by the adapter's own energy. kept = <M, D> / ||D||^2 is what stays of its own direction; "
    "foreign = ||M - kept D||^2 / ||D||^2 is what comes in beside it. It needs the energies and cosines "
    "alone; gates and routing sets are not in it. How little it foretells: docs/merging.md."
)


@dataclass(frozen=True)
class PairNumbers:
    """Two adapters in one module, or in all of them.

    inner: <D1, D2>. subspace_overlap: mean of the squared cosines of the principal angles of the column
    spaces of B, and what random spaces would give; smallest_angle in degrees, None where B is zero.
    routing_overlap: Jaccard index of S, None where one does not route, or r differs.
    """

    first: str
    second: str
    inner: float
    cosine: float
    signs: SignConflict
    subspace_overlap: float
    subspace_chance: float
    smallest_angle: float | None
    routing_overlap: float | None = None
    routing_chance: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        values = {name: value for name, value in vars(self).items() if name != "signs"}
        return values | {"sign_conflict": self.signs.share, "sign_conflict_weighted": self.signs.weighted}


@dataclass(frozen=True)
class ModuleNumbers:
    """One module: the energy of each adapter, and numbers for each pair, both in the adapters' order."""

    name: str
    energy: list[float]
    pairs: list[PairNumbers]

    @property
    def energy_share(self) -> list[float]:
        """Each adapter's part of the energy in this module."""
        return shares(self.energy)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        pairs = [pair.to_dict() for pair in self.pairs]
        return {"name": self.name, "energy": self.energy, "energy_share": self.energy_share, "pairs": pairs}


@dataclass(frozen=True)
class AdapterNumbers:
    """One adapter among the others: what the prediction is made of, and other features to check it against.

    score, kept, foreign: as in `FORMULA`. others_over_own: ||sum of the others||^2 / ||own||^2, which
    counts for a plain sum. The rest are means over the pairs of this adapter. None for an adapter of zeros.
    """

    label: str
    path: str
    method: str
    base_model: str | None
    energy: float
    energy_share: float
    score: float | None
    kept: float | None
    foreign: float | None
    others_over_own: float | None
    mean_cosine: float
    mean_sign_conflict: float
    mean_sign_conflict_weighted: float
    mean_subspace_overlap: float
    mean_routing_overlap: float | None


@dataclass(frozen=True)
class InterferenceReport:
    """All adapters, pairs and modules.

    basis: which deltas were compared. inputs: what was routed, None if nothing; random_inputs: how many of
    them were drawn (`tokens`) and from which `seed`, None if none were.
    pairs: over all modules together. left_out: label -> modules that not all adapters have.
    """

    adapters: list[AdapterNumbers]
    pairs: list[PairNumbers]
    modules: list[ModuleNumbers]
    basis: str
    inputs: str | None
    left_out: dict[str, list[str]]
    notes: list[str]
    random_inputs: dict[str, int] | None = None

    @property
    def by_score(self) -> list[AdapterNumbers]:
        """The adapters, the one that is predicted to lose most first; those of zeros last."""

        def order(one: AdapterNumbers) -> float:
            return -math.inf if one.score is None else one.score

        return sorted(self.adapters, key=order, reverse=True)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, as `inspect A B --json` prints them."""
        return {
            "adapters": [asdict(adapter) for adapter in self.adapters],
            "pairs": [pair.to_dict() for pair in self.pairs],
            "modules": [module.to_dict() for module in self.modules],
            "prediction": {"formula": FORMULA, "order": [adapter.label for adapter in self.by_score]},
            "basis": self.basis,
            "inputs": self.inputs,
            "random_inputs": self.random_inputs,
            "left_out": self.left_out,
            "notes": self.notes,
        }


def shares(values: Sequence[float]) -> list[float]:
    """Each value over their sum; zeros if that is zero."""
    total = sum(values)
    return [value / total if total > 0 else 0.0 for value in values]


def whole_pairs(modules: Sequence[ModuleNumbers]) -> list[PairNumbers]:
    """Each pair over all modules, as if they were one: inner products, energies and entries are added.

    Overlaps are means over the modules, the angle is the smallest of all.
    """
    energies = [sum(column) for column in zip(*(module.energy for module in modules), strict=True)]
    columns = zip(*(module.pairs for module in modules), strict=True)
    ends = itertools.combinations(energies, 2)
    return [_whole_pair(pairs, *energy) for pairs, energy in zip(columns, ends, strict=True)]


def _whole_pair(pairs: Sequence[PairNumbers], first_energy: float, second_energy: float) -> PairNumbers:
    inner = sum(pair.inner for pair in pairs)
    return PairNumbers(
        first=pairs[0].first,
        second=pairs[0].second,
        inner=inner,
        cosine=cosine_of(inner, first_energy, second_energy),
        signs=sum((pair.signs for pair in pairs), SignConflict()),
        subspace_overlap=_mean([pair.subspace_overlap for pair in pairs]) or 0.0,
        subspace_chance=_mean([pair.subspace_chance for pair in pairs]) or 0.0,
        smallest_angle=min((p.smallest_angle for p in pairs if p.smallest_angle is not None), default=None),
        routing_overlap=_mean([pair.routing_overlap for pair in pairs]),
        routing_chance=_mean([pair.routing_chance for pair in pairs]),
    )


def gram(labels: Sequence[str], energies: Sequence[float], pairs: Sequence[PairNumbers]) -> list[list[float]]:
    """Inner products of all adapters with each other, (T, T), symmetric, the energies on the diagonal."""
    place = {label: index for index, label in enumerate(labels)}
    table = [[0.0] * len(labels) for _ in labels]
    for index, energy in enumerate(energies):
        table[index][index] = energy
    for pair in pairs:
        i, j = place[pair.first], place[pair.second]
        table[i][j] = table[j][i] = pair.inner
    return table


def predicted(table: Sequence[Sequence[float]], index: int) -> dict[str, Any]:
    """score, kept, foreign and others_over_own of one adapter, from the (T, T) inner products.

    With M = (1/T) sum of D_j: <M, D_i> = (1/T) sum_j G_ij and ||M||^2 = (1/T^2) sum_jl G_jl.
    """
    own, count = table[index][index], len(table)
    if own <= 0:
        return dict.fromkeys(("score", "kept", "foreign", "others_over_own"))
    row, total = sum(table[index]), sum(map(sum, table))
    kept = row / count / own
    foreign = max(0.0, total / count**2 / own - kept**2)
    others = max(0.0, total - 2 * row + own) / own
    return {"score": (1 - kept) ** 2 + foreign, "kept": kept, "foreign": foreign, "others_over_own": others}


def features_of(label: str, pairs: Sequence[PairNumbers]) -> dict[str, Any]:
    """Means over the pairs that an adapter is part of, each pair taken over all modules."""
    own = [pair for pair in pairs if label in (pair.first, pair.second)]
    return {
        "mean_cosine": _mean([pair.cosine for pair in own]) or 0.0,
        "mean_sign_conflict": _mean([pair.signs.share for pair in own]) or 0.0,
        "mean_sign_conflict_weighted": _mean([pair.signs.weighted for pair in own]) or 0.0,
        "mean_subspace_overlap": _mean([pair.subspace_overlap for pair in own]) or 0.0,
        "mean_routing_overlap": _mean([pair.routing_overlap for pair in own]),
    }


def _mean(values: Sequence[float | None]) -> float | None:
    """Mean of those that are there; None if none is."""
    there = [value for value in values if value is not None]
    return sum(there) / len(there) if there else None
