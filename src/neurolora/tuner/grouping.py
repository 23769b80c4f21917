"""Modules that read one tensor, such as q, k and v: the first that is called routes for all of them.

Room: tuner. What it computed for the others waits in the forward context until they are called with the very
same tensor; whoever is called with another one computes for itself. Nothing outlives the forward, or the
backward that runs it again for activation checkpointing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from neurolora.core.kernels import (
    Decoded,
    DecodePack,
    Routed,
    RouteSpec,
    add_decoded,
    decode_pack,
    decode_route,
    route,
)

if TYPE_CHECKING:
    from neurolora.tuner.layer import NeuroLoraLayer


@dataclass
class Waiting:
    """Routings computed from `x` for modules that have not been called yet, by their names."""

    x: Tensor
    version: int
    routed: dict[str, Routed]


@dataclass(frozen=True)
class Packed:
    """A group's weights put together for decoding, for modules of these names."""

    pack: DecodePack
    names: tuple[str, ...]
    parts: tuple[Tensor, ...]
    versions: list[int]


@dataclass
class Handover:
    """What waits, and what is packed, for each group of modules and adapter.

    Packs live from one decoded token to the next; any other forward lets go of them.
    """

    waiting: dict[tuple[object, ...], Waiting] = field(default_factory=dict)
    packs: dict[tuple[object, ...], Packed] = field(default_factory=dict)
    decoded: dict[tuple[object, ...], tuple[Tensor, dict[str, Decoded], DecodePack]] = field(
        default_factory=dict
    )

    def clear(self, keep_packs: bool) -> None:
        """Forget what waits, and the packs unless the next forward decodes too."""
        self.waiting.clear()
        self.decoded.clear()
        if not keep_packs:
            self.packs.clear()

    def take(self, layer: NeuroLoraLayer, adapter: str, x: Tensor) -> Routed | None:
        """The routing of `x` that waits for this module, if there is one; it waits no longer."""
        key = (layer.reads, adapter)
        entry = self.waiting.get(key)
        if entry is None or entry.x is not x or entry.version != _version(x):
            return None
        found = entry.routed.pop(layer.name, None)
        if not entry.routed:
            del self.waiting[key]
        return found

    def leave(self, layer: NeuroLoraLayer, adapter: str, x: Tensor, routed: dict[str, Routed]) -> None:
        """Let routings of `x` wait for the other modules of a group."""
        if not routed:
            return
        if not self.waiting and _in_backward():
            torch.autograd.Variable._execution_engine.queue_callback(self.waiting.clear)
        self.waiting[(layer.reads, adapter)] = Waiting(x, _version(x), routed)


def routed(layer: NeuroLoraLayer, adapter: str, x: Tensor) -> Routed:
    """The routing of x (..., d) in a module: what an earlier one of its group left for it, or made now."""
    handover = layer.context.handover
    found = handover.take(layer, adapter, x)
    if found is not None:
        return found
    members = _members(layer, adapter)
    made = route(x.reshape(-1, x.shape[-1]), **_arguments(members, adapter, x))
    by_name = {member.name: one for member, one in zip(members, made, strict=True)}
    own = by_name.pop(layer.name)
    handover.leave(layer, adapter, x, by_name)
    return own


def add_while_decoding(
    result: Tensor, layer: NeuroLoraLayer, adapter: str, x: Tensor, *, in_place: bool
) -> Tensor:
    """result (..., o) + dy of x (..., d) in a module, while tokens are decoded one by one."""
    handover, key = layer.context.handover, (layer.reads, adapter)
    left = handover.decoded.get(key)
    if left is None or left[0] is not x or layer.name not in left[1]:
        packed = _packed(layer, adapter, x)
        made = decode_route(x.reshape(-1, x.shape[-1]), packed.pack)
        left = (x, dict(zip(packed.names, made, strict=True)), packed.pack)
        handover.decoded[key] = left
    scaling = layer.settings[adapter].scaling
    return add_decoded(result, left[1].pop(layer.name), left[2], scaling, in_place=in_place)


def _packed(layer: NeuroLoraLayer, adapter: str, x: Tensor) -> Packed:
    packs, key = layer.context.handover.packs, (layer.reads, adapter)
    found = packs.get(key)
    if found is None or layer.name not in found.names or not _is_fresh(found, layer, adapter, x):
        members = _members(layer, adapter)
        arguments = _arguments(members, adapter, x)
        up = [member.neurolora_B[adapter] for member in members]
        parts = (*arguments["projections"], *(part for parts in arguments["gates"] for part in parts), *up)
        pack = decode_pack(**arguments, up=up, in_features=layer.in_features)
        tracked = tuple(part for part in parts if not part.is_inference())
        found = Packed(pack, tuple(m.name for m in members), tracked, [part._version for part in tracked])
        packs[key] = found
    return found


def _is_fresh(packed: Packed, layer: NeuroLoraLayer, adapter: str, x: Tensor) -> bool:
    if packed.versions != [part._version for part in packed.parts]:
        return False
    return packed.pack.spec.compute == compute_dtype(x, layer.neurolora_B[adapter].dtype)


def _members(layer: NeuroLoraLayer, adapter: str) -> list[NeuroLoraLayer]:
    """The modules to route together: all of the group that take part in this forward, as they are now."""
    if not (layer.context.is_open or _in_backward()):
        return [layer]  # called by itself: nobody would clear what waits
    return [other for other in layer.context.family(layer) if other is layer or _alike(other, layer, adapter)]


def _alike(other: NeuroLoraLayer, layer: NeuroLoraLayer, adapter: str) -> bool:
    if adapter not in other.settings or other.disable_adapters or adapter not in other.active_adapters:
        return False
    B, own = other.neurolora_B[adapter], layer.neurolora_B[adapter]
    return (
        other.settings[adapter].route_key == layer.settings[adapter].route_key
        and (B.dtype, B.device) == (own.dtype, own.device)
        and all(part.numel() > 0 for part in other.gate_parameters(adapter))
    )


def _arguments(members: list[NeuroLoraLayer], adapter: str, x: Tensor) -> dict[str, Any]:
    """What `route` and `decode_pack` take of a group, besides x."""
    first = members[0]
    settings, dtype = first.settings[adapter], first.neurolora_B[adapter].dtype
    gates = [list(part) for part in zip(*(m.gate_parameters(adapter) for m in members), strict=True)]
    if len(gates) > 1 and all(W1 is gates[0][0] for W1 in gates[0]):
        gates[0] = gates[0][:1]
    spec = RouteSpec(
        members=len(members),
        r=settings.r,
        top_k=settings.top_k,
        gate=settings.gate,
        routing=settings.routing,
        w1_count=len(gates[0]) if settings.gate == "token" else 0,
        dtype=dtype,
        compute=compute_dtype(x, dtype),
    )
    return {
        "spec": spec,
        "projections": [m.neurolora_A[adapter] for m in members],
        "scales": [m.projection_scale[adapter] for m in members],
        "gates": gates,
        "biases": [b for m in members if (b := m.routing_bias(adapter)) is not None] or None,
    }


def compute_dtype(x: Tensor, dtype: torch.dtype) -> torch.dtype:
    """The dtype of the adapter's matrix products: the parameters', or autocast's."""
    kind = x.device.type
    if dtype != torch.float64 and torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
        return torch.get_autocast_dtype(kind)
    return dtype


def _version(x: Tensor) -> int:
    return -1 if x.is_inference() else x._version


def _in_backward() -> bool:
    return torch._C._current_graph_task_id() != -1
