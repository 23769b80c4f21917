"""The modulation gate (Eq. 3) and its start.

Room: core, maths on tensors alone. The tuner holds the parameters; the fast kernels are checked against this.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional

from neurolora.core.projection import block_names, private_generator
from neurolora.errors import ConfigError, explain

GateKind = Literal["token", "static", "none", "router"]
GateInit = Literal["identity", "paper"]

# sigmoid(0) = 1/2, so only gamma = 2 makes m = sigmoid(0) * gamma + 0 exactly one.
_IDENTITY_GAMMA = 2.0


def modulation(x: Tensor, W1: Tensor, W2: Tensor, gamma: Tensor, beta: Tensor, blocks: int = 1) -> Tensor:
    """m = sigmoid(W2 gelu(W1 x)) * gamma + beta (Eq. 3), with the exact GELU.

    x (..., d), W1 (blocks * g, d), W2 (r, g), gamma (r), beta (r), all of one dtype -> m (..., r).
    With several blocks, each r / blocks rows of W2 read g rows of W1 of their own.
    """
    bottleneck = functional.gelu(functional.linear(x, W1))
    if blocks == 1:
        logits = functional.linear(bottleneck, W2)
    else:
        pairs = zip(bottleneck.chunk(blocks, dim=-1), W2.chunk(blocks), strict=True)
        logits = torch.cat([functional.linear(part, rows) for part, rows in pairs], dim=-1)
    return torch.sigmoid(logits) * gamma + beta


def static_modulation(gamma: Tensor) -> Tensor:
    """m = gamma (r) for every token: the gate without context (Table 4's ablation), learned from 1."""
    return gamma


def initial_gate(g: int, d: int, r: int, *, init: GateInit, seed: int, name: str) -> dict[str, Tensor]:
    """float32 tensors `W1` (g, d), `W2` (r, g), `gamma` (r), `beta` (r) on the CPU, same bits everywhere.

    W1 is drawn as nn.Linear draws its weight: uniform within 1/sqrt(d).
    "identity": W2 = 0, gamma = 2, beta = 0, so m is 1.0 to the bit for every finite x.
    "paper": W2 drawn like W1, gamma = 1, beta = 0; m starts near 0.5, whatever the paper says.
    W1 and W2 come from generators of their own, so W1 does not depend on r, nor W2 on d.

    Raises ConfigError for an unknown `init` or a size below 1.
    """
    if init not in get_args(GateInit) or min(g, d, r) < 1:
        raise ConfigError(
            explain(
                "Starting a gate",
                f"gate_init is {init!r} and its sizes are g={g}, d={d}, r={r}",
                "gate_init is 'identity' or 'paper', and each size is at least 1.",
            )
        )
    identity = init == "identity"
    return {
        "W1": linear_weight(g, d, "W1", seed, name),
        "W2": _filled(0.0, r, g) if identity else linear_weight(r, g, "W2", seed, name),
        "gamma": _filled(_IDENTITY_GAMMA if identity else 1.0, r),
        "beta": _filled(0.0, r),
    }


def initial_block_gates(
    blocks: int, g: int, d: int, r: int, *, init: GateInit, seed: int, name: str
) -> dict[str, Tensor]:
    """`initial_gate` once for each block of r ranks, one below the other: W1 (blocks * g, d) and so on.

    The first block's is what the module would have without blocks; each other one has its own draw.
    """
    made = [initial_gate(g, d, r, init=init, seed=seed, name=each) for each in block_names(name, blocks)]
    return {part: torch.cat([gate[part] for gate in made]) for part in made[0]}


def initial_static_gate(r: int) -> dict[str, Tensor]:
    """The one parameter of a static gate: `gamma` (r) float32, all ones, so that m = 1 at the start."""
    return {"gamma": _filled(1.0, r)}


def linear_weight(rows: int, columns: int, part: str, seed: int, name: str) -> Tensor:
    """As nn.Linear starts: Kaiming-uniform with a = sqrt(5), which is uniform within 1/sqrt(fan_in)."""
    generator = private_generator("gate", part, int(seed), name, rows, columns)
    uniform = torch.rand(rows, columns, generator=generator, dtype=torch.float32, device="cpu")
    return (2.0 * uniform - 1.0) / math.sqrt(columns)


def _filled(value: float, *shape: int) -> Tensor:
    """A constant tensor, real even inside a `torch.device("meta")` context."""
    return torch.full(shape, value, dtype=torch.float32, device="cpu")
