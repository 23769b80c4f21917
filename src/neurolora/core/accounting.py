"""What an adapter costs: trainable, stored and active parameters, bytes, and operations a token.

Room: core, arithmetic on shapes alone; no tensor is made. Every count follows from the equations, none is
quoted. A multiply-add counts as 2 operations. Who shares which gate is decided in `gate_keys`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

from neurolora.core.gate import GateKind
from neurolora.errors import ConfigError, explain

GateSharing = Literal["module", "input", "kind", "model"]


@dataclass(frozen=True)
class ParameterCount:
    """Parameters by part.

    up: B. gate: W1, W2, gamma and beta, a shared gate once. projection: the entries of A, zeros included.
    active: what one token's output depends on, of what is learned: k of B's r columns, the gate, and of a
    trained A all rows, or with a router, which chooses before, k of them.
    projection_trained: whether A is trained (an ablation).
    """

    up: int
    gate: int
    projection: int
    active: int
    projection_trained: bool = False

    @property
    def trainable(self) -> int:
        """What the optimizer sees."""
        return self.up + self.gate + (self.projection if self.projection_trained else 0)

    @property
    def stored(self) -> int:
        """All entries that an adapter file with A in it stands for."""
        return self.up + self.gate + self.projection

    def stored_bytes(self, bytes_each: float = 4, projection_bytes_each: float = 0.25) -> float:
        """Size of the tensors in a file: by default float32, and a ternary A packed to two bits an entry."""
        return (self.up + self.gate) * bytes_each + self.projection * projection_bytes_each


class Flops(NamedTuple):
    """Operations a token."""

    forward: int
    backward: int

    @property
    def total(self) -> int:
        """Forward and backward."""
        return self.forward + self.backward


@dataclass(frozen=True)
class AdaptedModule:
    """One adapted projection: full name, widths, and the name of the tensor it reads.

    Modules with the same `reads` get the very same input (q, k and v of one block); empty: its own input.
    """

    name: str
    in_features: int
    out_features: int
    reads: str = ""


class GateKeys(NamedTuple):
    """Modules with equal `first` share W1; with equal `rest` they share W2, gamma and beta."""

    first: str
    rest: str


def gate_keys(module: AdaptedModule, sharing: GateSharing) -> GateKeys:
    """Which gate a module uses.

    module: its own. input: one W1 for all that read the same tensor, the rest its own. kind: one whole gate
    for each projection name (the last part) and input width. model: one whole gate for each input width.
    Raises ConfigError for an unknown sharing.
    """
    width = module.in_features
    kind = f"{module.name.rpartition('.')[2]}:{width}"
    keys = {
        "module": GateKeys(module.name, module.name),
        "input": GateKeys(f"{module.reads or module.name}:{width}", module.name),
        "kind": GateKeys(kind, kind),
        "model": GateKeys(f"*:{width}", f"*:{width}"),
    }
    if sharing not in keys:
        found, do = f"gate_sharing is {sharing!r}", f"Use one of {', '.join(get_args(GateSharing))}."
        raise ConfigError(explain("Sharing gates", found, do))
    return keys[sharing]


def adapter_parameters(
    in_features: int,
    out_features: int,
    r: int,
    top_k: int,
    gate: GateKind = "token",
    gate_dim: int = 64,
    *,
    train_projection: bool = False,
) -> ParameterCount:
    """One adapter with a gate of its own: B r*o, A r*d, a token gate g*d + r*g + 2r, a static one r.

    Of a router (MoLE) `gate_dim` is the number of experts: g*d.
    """
    module = AdaptedModule("", in_features, out_features)
    return model_parameters([module], r, top_k, gate, gate_dim, "module", train_projection=train_projection)


def model_parameters(
    modules: Sequence[AdaptedModule],
    r: int,
    top_k: int,
    gate: GateKind = "token",
    gate_dim: int = 64,
    gate_sharing: GateSharing = "module",
    *,
    train_projection: bool = False,
) -> ParameterCount:
    """Totals over a model's adapters, each shared part of a gate counted once.

    Raises ConfigError unless 1 <= top_k <= r, and for an unknown gate or sharing.
    """
    _check_ranks(r, top_k, gate)
    first, rest = {}, {}
    for module in modules:
        keys = gate_keys(module, gate_sharing)
        first[keys.first], rest[keys.rest] = _gate_parts(module.in_features, r, gate, gate_dim)
    gates = sum(first.values()) + sum(rest.values())
    outputs = sum(module.out_features for module in modules)
    inputs = sum(module.in_features for module in modules)
    rows = 0 if not train_projection else top_k if gate == "router" else r  # routing by A x reads all of A
    active = top_k * outputs + rows * inputs + gates
    return ParameterCount(r * outputs, gates, r * inputs, active, train_projection)


def lora_parameters(in_features: int, out_features: int, r: int) -> int:
    """Plain LoRA, for comparison: r * (d + o), all of them trainable, stored and active."""
    return r * (in_features + out_features)


def adapter_flops(
    in_features: int, out_features: int, r: int, gate: GateKind = "token", gate_dim: int = 64
) -> Flops:
    """One adapter with a gate of its own, a token: forward and backward (see `model_flops`)."""
    return model_flops([AdaptedModule("", in_features, out_features)], r, gate, gate_dim)


def model_flops(
    modules: Sequence[AdaptedModule],
    r: int,
    gate: GateKind = "token",
    gate_dim: int = 64,
    gate_sharing: GateSharing = "module",
) -> Flops:
    """Matrix products a token over a model's adapters, all r columns of B computed (a dense product).

    Forward: A 2rd, B 2ro, W1 2gd, W2 2rg. Backward: twice that, but for the frozen A no weight gradient, 2rd.
    Modules that read one tensor through one W1 (or one whole gate) compute it once.
    """
    down = 2 * r * sum(module.in_features for module in modules)
    up = 2 * r * sum(module.out_features for module in modules)
    products = 0
    if gate == "token":
        keyed = [(gate_keys(module, gate_sharing), module.reads or module.name, module) for module in modules]
        first = {(keys.first, reads): 2 * gate_dim * module.in_features for keys, reads, module in keyed}
        rest = {(keys.rest, reads): 2 * r * gate_dim for keys, reads, _ in keyed}
        products = sum(first.values()) + sum(rest.values())
    return Flops(down + up + products, down + 2 * (up + products))


def base_flops(in_features: int, out_features: int) -> Flops:
    """The frozen W0 a token: forward 2do, backward 2do (the gradient of its input alone)."""
    return Flops(2 * in_features * out_features, 2 * in_features * out_features)


def lora_flops(in_features: int, out_features: int, r: int) -> Flops:
    """Plain LoRA a token: forward 2r(d + o), backward 4r(d + o)."""
    forward = 2 * r * (in_features + out_features)
    return Flops(forward, 2 * forward)


def _gate_parts(d: int, r: int, gate: GateKind, g: int) -> tuple[int, int]:
    """Parameters of W1, and of the rest."""
    if gate == "router":
        return g * d, 0
    if gate == "token":
        return g * d, r * g + 2 * r
    return 0, r if gate == "static" else 0


def _check_ranks(r: int, top_k: int, gate: str) -> None:
    if not 1 <= top_k <= r:
        raise ConfigError(
            explain("Counting parameters", f"top_k is {top_k} and r is {r}", "Use 1 <= top_k <= r.")
        )
    if gate not in get_args(GateKind):
        do = f"Use one of {', '.join(get_args(GateKind))}."
        raise ConfigError(explain("Counting parameters", f"gate is {gate!r}", do))
