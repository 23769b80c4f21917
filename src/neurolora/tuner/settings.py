"""Plain values of one adapter in one module, and how its tensors start.

Room: tuner. Made once by the layer from the configuration; the configuration itself stays outside.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from neurolora.core.gate import GateKind, initial_block_gates, initial_static_gate
from neurolora.core.projection import Projection, make_block_projections, private_generator
from neurolora.core.router import initial_router
from neurolora.tuner.config import NeuroLoraConfig


@dataclass(frozen=True)
class Draw:
    """A call kept for later, comparable and picklable, where a lambda is neither."""

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def __call__(self) -> Any:
        """Make the call."""
        return self.function(*self.args, **self.kwargs)


@dataclass(frozen=True)
class AdapterSettings:
    """Plain values of one adapter in one module; the configuration stays outside."""

    r: int
    blocks: int
    top_k: int
    scaling: float
    routing: Literal["abs", "signed"]
    gate: GateKind
    experts: int
    orthogonality_weight: float
    load_balance_rate: float
    balance_weight: float
    train_projection: bool
    make_projection: Callable[[], Projection]
    initial_B: Callable[[], Tensor]  # noqa: N815 - the paper's name
    initial_gate: Callable[[], dict[str, Tensor]]

    @property
    def route_key(self) -> tuple[object, ...]:
        """What modules must have in common to be routed together."""
        fixed = (self.r, self.blocks, self.top_k, self.routing, self.gate)
        return (*fixed, self.load_balance_rate > 0, self.train_projection)

    @property
    def is_readable_only(self) -> bool:
        """Whether no fast path can route it: those are for a frozen A and routing by its products."""
        return self.train_projection or self.gate == "router"

    @property
    def active(self) -> int:
        """Active ranks for each token, those of all blocks together."""
        return self.top_k * self.blocks

    def initial_projection(self) -> Projection:
        """A as the layer keeps it: with its scale apart, unless it is trained."""
        projection = self.make_projection()
        return Projection(projection.dense(), 1.0) if self.train_projection else projection


def adapter_settings(
    config: NeuroLoraConfig, *, in_features: int, out_features: int, name: str, gate_name: str
) -> AdapterSettings:
    """The settings of `config` for a module (o, d); `name` keys A and B, `gate_name` the gate."""
    projection = {
        "kind": config.projection,
        "density": config.density,
        "scale": config.projection_scale,
        "seed": config.projection_seed,
        "name": name,
    }
    up_projection = {"init": config.init_weights, "seed": config.init_seed, "name": name}
    return AdapterSettings(
        r=config.r,
        blocks=config.blocks,
        top_k=config.top_k,
        scaling=config.scaling,
        routing=config.routing,
        gate=config.gate,
        experts=config.experts,
        orthogonality_weight=config.orthogonality_weight,
        load_balance_rate=config.load_balance_rate,
        balance_weight=config.balance_weight,
        train_projection=config.train_projection,
        make_projection=Draw(
            make_block_projections, (config.blocks, config.r // config.blocks, in_features), projection
        ),
        initial_B=Draw(initial_up_projection, (out_features, config.r), up_projection),
        initial_gate=_gate_start(config, in_features, gate_name),
    )


def initial_up_projection(
    out_features: int, r: int, *, init: bool | Literal["gaussian"], seed: int, name: str
) -> Tensor:
    """B's start (o, r), float32 on the CPU: zeros (True), Kaiming uniform (False), N(0, 1/o) ("gaussian")."""
    generator = private_generator("B", int(seed), name, out_features, r)
    if init is True:
        return torch.tensor(0.0, dtype=torch.float32, device="cpu").repeat(out_features, r)
    if init == "gaussian":
        normal = torch.randn(out_features, r, generator=generator, dtype=torch.float32, device="cpu")
        return normal / math.sqrt(out_features)
    uniform = torch.rand(out_features, r, generator=generator, dtype=torch.float32, device="cpu")
    return (2.0 * uniform - 1.0) / math.sqrt(r)


def _gate_start(config: NeuroLoraConfig, in_features: int, name: str) -> Draw:
    if config.gate == "none":
        return Draw(dict, (), {})
    if config.gate == "static":
        return Draw(initial_static_gate, (config.r,), {})
    if config.gate == "router":
        return Draw(initial_router, (config.experts, in_features), {"seed": config.init_seed, "name": name})
    return Draw(
        initial_block_gates,
        (config.blocks, config.gate_dim, in_features, config.r // config.blocks),
        {"init": config.gate_init, "seed": config.init_seed, "name": name},
    )
