"""How far two adapters are in each other's way: cosine, signs, energy, routing sets, column spaces.

Room: merging, maths on tensors alone. Nothing is read from files here, and no (o, d) matrix is ever formed
whole: inner products go through Gram matrices, signs through blocks of rows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from neurolora.errors import ConfigError, explain

#: Entries of a delta that are formed at once to compare signs: 16 MB in float32.
BLOCK_ENTRIES = 4 * 1024 * 1024


@dataclass(frozen=True)
class Delta:
    """What an adapter adds in one module, kept as its factors.

    B (o, r), A (r, d) or None, floating. With A the delta is scaling * B A, (o, d). Without A it is
    scaling * B, (o, r): for adapters that share A this compares dy for equal routing.
    """

    B: Tensor
    scaling: float
    A: Tensor | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the delta, were it formed."""
        return self.B.shape[0], (self.B if self.A is None else self.A).shape[1]

    def rows(self, start: int, stop: int) -> Tensor:
        """The delta's rows from `start` to before `stop`, in the dtype of the factors."""
        part = self.B[start:stop] * self.scaling
        return part if self.A is None else part @ self.A


def inner_product(first: Delta, second: Delta) -> float:
    """<D1, D2>, the sum of the products of their entries, in float64.

    With A: <s1 B1 A1, s2 B2 A2> = s1 s2 trace((B1' B2)(A2 A1')), products of r columns and rows only.
    Raises ConfigError if the deltas have different shapes, or only one has its A.
    """
    _require_alike(first, second)
    if first.A is None or second.A is None:
        total = (first.B.double() * second.B.double()).sum()
    else:
        up = first.B.double().T @ second.B.double()
        down = first.A.double() @ second.A.double().T
        total = (up * down).sum()
    return first.scaling * second.scaling * float(total)


def energy(delta: Delta) -> float:
    """||D||^2, the sum of the squares of the entries, in float64."""
    return max(0.0, inner_product(delta, delta))


def delta_cosine(first: Delta, second: Delta) -> float:
    """<D1, D2> / (||D1|| ||D2||) in [-1, 1]; 0 where one of them is zero. Raises as `inner_product`."""
    return cosine_of(inner_product(first, second), energy(first), energy(second))


def cosine_of(inner: float, first_energy: float, second_energy: float) -> float:
    """The cosine from an inner product and two squared norms; 0 where one of them is zero."""
    norms = math.sqrt(first_energy) * math.sqrt(second_energy)
    return max(-1.0, min(1.0, inner / norms)) if norms > 0 else 0.0


@dataclass(frozen=True)
class SignConflict:
    """Counts over entries where both deltas are non-zero; those of several modules can be added.

    The mass of an entry is |D1| + |D2|, by which TIES elects signs (arXiv 2306.01708).
    """

    conflicts: int = 0
    entries: int = 0
    conflict_mass: float = 0.0
    mass: float = 0.0

    @property
    def share(self) -> float:
        """Entries with opposite signs, of all where both are non-zero; 0 if there is none."""
        return self.conflicts / self.entries if self.entries else 0.0

    @property
    def weighted(self) -> float:
        """The same, every entry counted by its mass."""
        return self.conflict_mass / self.mass if self.mass else 0.0

    def __add__(self, other: SignConflict) -> SignConflict:
        return SignConflict(
            self.conflicts + other.conflicts,
            self.entries + other.entries,
            self.conflict_mass + other.conflict_mass,
            self.mass + other.mass,
        )


def sign_conflict(first: Delta, second: Delta, block_entries: int = BLOCK_ENTRIES) -> SignConflict:
    """Where both deltas are non-zero: how many entries differ in sign, and their mass |D1| + |D2|.

    Entries are formed in blocks of rows of about `block_entries`, in the dtype of the factors; masses are
    added in float64. Raises ConfigError if the deltas have different shapes, or only one has its A.
    """
    _require_alike(first, second)
    rows, columns = first.shape
    step = max(1, block_entries // columns)
    found = SignConflict()
    for start in range(0, rows, step):
        found = found + _conflicts(first.rows(start, start + step), second.rows(start, start + step))
    return found


def _conflicts(first: Tensor, second: Tensor) -> SignConflict:
    both = (first != 0) & (second != 0)
    differ = both & ((first > 0) != (second > 0))
    mass = first.abs() + second.abs()
    return SignConflict(
        int(differ.sum()),
        int(both.sum()),
        float((mass * differ).sum(dtype=torch.float64)),
        float((mass * both).sum(dtype=torch.float64)),
    )


def routing_overlap(first: Tensor, second: Tensor) -> float:
    """Mean over tokens of |S1 and S2| / |S1 or S2|: the Jaccard index of the routing sets.

    first, second: bool (N, r), True at the active ranks, at least one a token.
    Raises ConfigError if their shapes differ.
    """
    if first.shape != second.shape:
        found = f"they are {tuple(first.shape)} and {tuple(second.shape)}"
        do = "Route the same tokens with adapters of the same r"
        raise ConfigError(explain("comparing two routing sets", found, do))
    shared = (first & second).sum(-1).double()
    return float((shared / (first | second).sum(-1)).mean())


def chance_overlap(first_k: int, second_k: int, r: int) -> float:
    """What `routing_overlap` is on average for sets of k1 and k2 of r ranks drawn at random.

    sum over i of P(i) i / (k1 + k2 - i), P hypergeometric. Close to k / (2r - k) for k1 = k2 = k.
    """
    ways = math.comb(r, second_k)
    total = 0.0
    for shared in range(max(0, first_k + second_k - r), min(first_k, second_k) + 1):
        likely = math.comb(first_k, shared) * math.comb(r - first_k, second_k - shared) / ways
        total += likely * shared / (first_k + second_k - shared)
    return total


def principal_angles(first: Tensor, second: Tensor) -> Tensor:
    """Angles between the column spaces of B1 (o, r1) and B2 (o, r2): radians, float64, ascending.

    As many as the smaller of the two ranks; none if one matrix is zero. Their cosines are the singular
    values of Q1' Q2, for Q an orthonormal basis of each space (Bjorck and Golub 1973).
    Raises ConfigError if the matrices have different numbers of rows.
    """
    if first.shape[0] != second.shape[0]:
        found = f"their columns have {first.shape[0]} and {second.shape[0]} entries"
        raise ConfigError(explain("comparing two column spaces", found, "Compare B of the same module"))
    cosines = torch.linalg.svdvals(_basis(first).T @ _basis(second))
    return torch.acos(cosines.clamp(max=1.0))


def _basis(columns: Tensor) -> Tensor:
    """An orthonormal basis (o, rank) in float64, the rank as torch.linalg.matrix_rank counts it."""
    left, sizes, _ = torch.linalg.svd(columns.double(), full_matrices=False)
    least = sizes[:1] * max(columns.shape) * torch.finfo(columns.dtype).eps
    kept: Tensor = left[:, sizes > least]
    return kept


def _require_alike(first: Delta, second: Delta) -> None:
    if (first.A is None) == (second.A is None) and first.shape == second.shape:
        return
    kinds = [f"{delta.shape} {'without' if delta.A is None else 'with'} its A" for delta in (first, second)]
    do = "Compare updates of the same module, both with A or both without"
    raise ConfigError(explain("comparing two updates", f"one is {kinds[0]}, the other {kinds[1]}", do))
