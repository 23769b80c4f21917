"""Parameter groups: every trainable parameter once, by its container and not by its name."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from neurolora.errors import ConfigError
from neurolora.training.optim import create_optimizer_groups, learning_rates
from neurolora.tuner import FlyLoraConfig, NeuroLoraConfig


class Small(nn.Module):
    """Names chosen to mislead: a base module is called as the gate's parameters are."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 8)
        self.second = nn.Linear(8, 6)
        self.neurolora_gate_W1_head = nn.Linear(6, 3)
        self.norm = nn.LayerNorm(6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.neurolora_gate_W1_head(self.norm(self.second(self.first(x))))


def adapted(config: Any) -> nn.Module:
    return get_peft_model(Small(), config)


def sizes(model: nn.Module) -> dict[str, int]:
    return {
        group["name"]: sum(p.numel() for p in group["params"]) for group in create_optimizer_groups(model)
    }


def config(**changes: Any) -> NeuroLoraConfig:
    return NeuroLoraConfig(
        **{"r": 4, "top_k": 2, "gate_dim": 3, "target_modules": ["first", "second"], **changes}
    )


def test_b_and_gate_are_told_apart_and_each_parameter_is_met_once() -> None:
    model = adapted(config(modules_to_save=["neurolora_gate_W1_head", "norm"]))
    groups = create_optimizer_groups(model, lr=1.0, gate_lr=2.0, weight_decay=3.0)
    by_name = {group["name"]: (group["lr"], group["weight_decay"]) for group in groups}
    assert by_name == {
        "adapter": (1.0, 3.0),
        "gate": (2.0, 3.0),
        "gate_no_decay": (2.0, 0.0),
        "other": (1.0, 3.0),
        "other_no_decay": (1.0, 0.0),
    }
    listed = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(listed) == sorted(id(p) for p in model.parameters() if p.requires_grad)
    assert len(set(listed)) == len(listed)
    b = 4 * (8 + 6)
    gates = 3 * 6 + 4 * 3 + 3 * 8 + 4 * 3
    assert sizes(model) == {
        "adapter": b, "gate": gates, "gate_no_decay": 4 * 4, "other": 6 * 3, "other_no_decay": 3 + 2 * 6,
    }  # fmt: skip


def test_a_shared_gate_is_one_and_flylora_has_none() -> None:
    twins = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6))
    own = get_peft_model(copy.deepcopy(twins), config(target_modules=["0", "1"]))
    one = get_peft_model(copy.deepcopy(twins), config(target_modules=["0", "1"], gate_sharing="model"))
    assert sizes(own)["gate"] == 2 * sizes(one)["gate"] == 2 * (3 * 6 + 4 * 3)
    assert set(sizes(adapted(FlyLoraConfig(r=4, top_k=2, target_modules=["first"])))) == {"adapter"}


def test_a_static_gate_and_a_trained_projection() -> None:
    assert sizes(adapted(config(gate="static"))) == {"adapter": 56, "gate_no_decay": 8}
    assert sizes(adapted(config(gate="none", train_projection=True)))["adapter"] == 56 + 4 * (6 + 8)


def test_several_adapters() -> None:
    model = adapted(config())
    model.add_adapter("other", config(r=6))
    model.set_adapter("other")
    assert sizes(model)["adapter"] == 6 * (8 + 6)


def test_other_methods_go_by_the_first_rate() -> None:
    groups = create_optimizer_groups(adapted(LoraConfig(r=2, target_modules=["first"])), lr=1.0)
    assert [(group["name"], group["lr"]) for group in groups] == [("other", 1.0)]


def test_nothing_trainable_is_an_error() -> None:
    with pytest.raises(ConfigError, match="no parameter of the model is trainable"):
        create_optimizer_groups(Small().requires_grad_(False))


def test_learning_rates_of_a_moment() -> None:
    groups = create_optimizer_groups(adapted(config()), lr=1.0, gate_lr=2.0)
    assert learning_rates(torch.optim.AdamW(groups).param_groups) == {
        "learning_rate": 1.0, "gate_learning_rate": 2.0,
    }  # fmt: skip
