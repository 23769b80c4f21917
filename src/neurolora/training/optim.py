"""Parameter groups: B and the gate learn at different rates (Table 5).

Room: training. Called by `NeuroLoraTrainer`, and by people with a loop of their own. Parameters are told
apart by the container of the layer that holds them, never by parts of their names.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn

from neurolora.errors import ConfigError, explain
from neurolora.tuner import adapter_layers
from neurolora.tuner.layer import GATE_PARTS

LEARNING_RATE = 2e-4
GATE_LEARNING_RATE = 5e-4
WEIGHT_DECAY = 0.01


def create_optimizer_groups(
    model: nn.Module,
    lr: float = LEARNING_RATE,
    gate_lr: float = GATE_LEARNING_RATE,
    weight_decay: float = WEIGHT_DECAY,
) -> list[dict[str, Any]]:
    """Groups for any torch optimizer: each trainable parameter of `model` is in exactly one.

    | name | what | rate | decay |
    | `adapter` | B (and a trained A) of every adapter | `lr` | `weight_decay` |
    | `gate` | W1, W2 of the gates | `gate_lr` | `weight_decay` |
    | `gate_no_decay` | gamma, beta, a static gate: what has one dimension | `gate_lr` | 0 |
    | `other` | `modules_to_save`, parameters of other methods | `lr` | `weight_decay` |
    | `other_no_decay` | the same, with one dimension: biases and norms | `lr` | 0 |

    One-dimensional parameters are not decayed, as usual; for gamma this also matters, since decay would pull
    it from 2, where the gate does nothing, to 0, where the adapter does nothing. Empty groups are left out.
    Raises `ConfigError` if nothing in the model is trainable.
    """
    gates = _gate_ids(model)
    adapters = _adapter_ids(model) - gates
    rows: dict[str, dict[str, Any]] = {
        "adapter": {"lr": lr, "weight_decay": weight_decay},
        "gate": {"lr": gate_lr, "weight_decay": weight_decay},
        "gate_no_decay": {"lr": gate_lr, "weight_decay": 0.0},
        "other": {"lr": lr, "weight_decay": weight_decay},
        "other_no_decay": {"lr": lr, "weight_decay": 0.0},
    }
    members: dict[str, list[nn.Parameter]] = {name: [] for name in rows}
    for parameter in model.parameters():
        if parameter.requires_grad:
            members[_group_of(parameter, adapters, gates)].append(parameter)
    groups = [{"params": members[name], "name": name, **row} for name, row in rows.items() if members[name]]
    if not groups:
        do = (
            "Add an adapter that is not in inference mode (PeftModel.from_pretrained(..., is_trainable=True))"
        )
        raise ConfigError(explain("making parameter groups", "no parameter of the model is trainable", do))
    return groups


def _group_of(parameter: nn.Parameter, adapters: set[int], gates: set[int]) -> str:
    if id(parameter) in adapters:
        return "adapter"
    kind = "gate" if id(parameter) in gates else "other"
    return kind if parameter.dim() > 1 else f"{kind}_no_decay"


def _gate_ids(model: nn.Module) -> set[int]:
    """A shared gate lives in one layer only, so each is met once."""
    return {
        id(parameter)
        for _, layer in adapter_layers(model)
        for part in GATE_PARTS
        for parameter in layer.gate_container(part).values()
    }


def _adapter_ids(model: nn.Module) -> set[int]:
    return {
        id(parameter)
        for _, layer in adapter_layers(model)
        for name in layer.adapter_layer_names
        for parameter in getattr(layer, name).values()
    }


def learning_rates(groups: Iterable[dict[str, Any]]) -> dict[str, float]:
    """`learning_rate` and, where there is a gate, `gate_learning_rate`: the rates of this moment."""
    rates: dict[str, float] = {}
    for group in groups:
        name = "gate_learning_rate" if str(group.get("name", "")).startswith("gate") else "learning_rate"
        rates.setdefault(name, float(group["lr"]))
    return rates
