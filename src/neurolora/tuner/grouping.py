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
    DecodePack,
    Routed,
    RouteSpec,
    decode_pack,
    join_blocks,
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


@dataclass
class Packed:
    """A group's weights put together for decoding, and the routing of the token at hand.

    members: the places of each module's blocks in the group, by name. parts: the weights as they were at
    `versions`. x: the input that `routing` was made from, until the forward ends.
    """

    pack: DecodePack
    members: dict[str, range]
    parts: tuple[Tensor, ...]
    versions: list[int]
    device: torch.device
    autocast: torch.dtype | None
    x: Tensor | None = None
    routing: Any = None

    def is_fresh(self) -> bool:
        """Whether nobody has written to the weights since, and autocast is as it was."""
        return self.autocast == autocast_dtype(self.device) and all(
            part._version == version for part, version in zip(self.parts, self.versions, strict=True)
        )


@dataclass
class Handover:
    """What waits, and what is packed, for each group of modules and adapter.

    Packs live from one decoded token to the next; any other forward lets go of them, and a token lets go of
    those whose weights have changed.
    """

    waiting: dict[tuple[object, ...], Waiting] = field(default_factory=dict)
    packs: dict[tuple[object, ...], Packed] = field(default_factory=dict)

    def begin(self, is_decoding: bool) -> None:
        """Before a forward: forget what waits, and the packs that it may not use."""
        self.waiting.clear()
        self.packs = {key: packed for key, packed in self.packs.items() if is_decoding and packed.is_fresh()}

    def end(self) -> None:
        """After a forward: forget what it left; the packs wait for the next token."""
        self.waiting.clear()
        for packed in self.packs.values():
            packed.x = packed.routing = None

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
    made = join_blocks(made, layer.settings[adapter].blocks)
    by_name = {member.name: one for member, one in zip(members, made, strict=True)}
    own = by_name.pop(layer.name)
    handover.leave(layer, adapter, x, by_name)
    return own


def add_while_decoding(
    result: Tensor, layer: NeuroLoraLayer, adapter: str, x: Tensor, *, in_place: bool
) -> Tensor:
    """result (..., o) + dy of x (..., d) in a module, while tokens are decoded one by one."""
    packs, key = layer.context.handover.packs, (layer.reads, adapter)
    packed = packs.get(key)
    if packed is None or layer.name not in packed.members:
        packed = packs[key] = _packed(layer, adapter, x)
    if packed.x is not x:
        packed.x, packed.routing = x, packed.pack.route(x.reshape(-1, x.shape[-1]))
    scaling = layer.settings[adapter].scaling
    for member in packed.members[layer.name]:
        result = packed.pack.add(result, packed.routing, member, scaling, in_place=in_place)
    return result


def _packed(layer: NeuroLoraLayer, adapter: str, x: Tensor) -> Packed:
    members = _members(layer, adapter)
    arguments = _arguments(members, adapter, x)
    blocks = layer.settings[adapter].blocks
    up = [part for member in members for part in member.neurolora_B[adapter].chunk(blocks, dim=1)]
    parts = (*arguments["projections"], *(part for parts in arguments["gates"] for part in parts), *up)
    pack = decode_pack(tokens=x[..., 0].numel(), **arguments, up=up, in_features=layer.in_features)
    tracked = tuple(part for part in parts if not part.is_inference())
    return Packed(
        pack,
        {member.name: range(i * blocks, (i + 1) * blocks) for i, member in enumerate(members)},
        tracked,
        [part._version for part in tracked],
        x.device,
        autocast_dtype(x.device),
    )


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
    """What `route` and `decode_pack` take of a group, besides x: every block is a member of its own."""
    first = members[0]
    settings, dtype = first.settings[adapter], first.neurolora_B[adapter].dtype
    gates = [list(part) for part in zip(*(m.gate_parameters(adapter) for m in members), strict=True)]
    if settings.blocks == 1 and len(gates) > 1 and all(W1 is gates[0][0] for W1 in gates[0]):
        gates[0] = gates[0][:1]
    gates = [_by_block(part, settings.blocks) for part in gates]
    biases = [b for m in members if (b := m.routing_bias(adapter)) is not None]
    spec = RouteSpec(
        members=len(members) * settings.blocks,
        r=settings.r // settings.blocks,
        top_k=settings.top_k,
        gate=settings.gate,
        routing=settings.routing,
        w1_count=len(gates[0]) if settings.gate == "token" else 0,
        dtype=dtype,
        compute=compute_dtype(x, dtype),
    )
    return {
        "spec": spec,
        "projections": _by_block([m.neurolora_A[adapter] for m in members], settings.blocks),
        "scales": [m.projection_scale[adapter] for m in members for _ in range(settings.blocks)],
        "gates": gates,
        "biases": _by_block(biases, settings.blocks) or None,
    }


def _by_block(tensors: list[Tensor], blocks: int) -> list[Tensor]:
    """Each tensor's rows in as many parts; one alone as it is, since its identity counts."""
    return tensors if blocks == 1 else [part for tensor in tensors for part in tensor.chunk(blocks)]


def compute_dtype(x: Tensor, dtype: torch.dtype) -> torch.dtype:
    """The dtype of the adapter's matrix products: the parameters', or autocast's."""
    return dtype if dtype == torch.float64 else autocast_dtype(x.device) or dtype


def autocast_dtype(device: torch.device) -> torch.dtype | None:
    """What autocast would compute in on a device now, if it is on."""
    kind = device.type
    if not (torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)):
        return None
    return torch.get_autocast_dtype(kind)


def _version(x: Tensor) -> int:
    return -1 if x.is_inference() else x._version


def _in_backward() -> bool:
    return torch._C._current_graph_task_id() != -1
