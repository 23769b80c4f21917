"""MoLE in the tuner: what is trained, what the loss adds, what is refused."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
import torch
from peft import get_peft_model

from neurolora import MoleConfig, get_auxiliary_loss, routing_statistics
from neurolora.errors import ConfigError
from neurolora.tuner import adapter_layers
from neurolora.tuner.auxiliary import context_of

SMALL = {"r": 6, "top_k": 2, "experts": 3, "task_type": "CAUSAL_LM"}


@pytest.fixture
def adapted(tiny: ModuleType) -> Any:
    return get_peft_model(tiny.make("llama"), MoleConfig(**SMALL))


def test_a_b_and_the_router_are_trained(adapted: Any, tiny: ModuleType) -> None:
    tiny.train(adapted, tiny.labelled("llama"), steps=3)
    _, layer = next(adapter_layers(adapted))
    start = layer.settings["default"]
    assert layer.gate_parameters("default")[0].shape == (3, layer.in_features)
    assert not layer.gate_parameters("default")[0].equal(start.initial_gate()["W1"])
    assert not layer.neurolora_A_trained["default"].equal(start.initial_projection().values)
    assert layer.neurolora_B["default"].abs().sum() > 0


def test_whole_experts_are_active(adapted: Any, tiny: ModuleType) -> None:
    with torch.no_grad(), routing_statistics(adapted) as statistics:
        adapted(**tiny.inputs("llama"))
    rows = statistics.summary()["layers"]
    assert rows
    for row in rows:
        frequency = row["active_frequency"]
        assert frequency[0::2] == frequency[1::2]
        assert sum(frequency) == pytest.approx(2.0, abs=1e-3)


def test_the_loss_holds_the_weighted_balance_and_reaches_the_router(adapted: Any, tiny: ModuleType) -> None:
    adapted.train()
    outputs = adapted(**tiny.labelled("llama"))
    added = get_auxiliary_loss(adapted)
    context = context_of(adapted)
    assert context is not None
    assert context.task_loss is not None
    assert 0.01 <= added.item() <= 0.03  # balance_weight, times one to E / k
    torch.testing.assert_close(outputs.loss, context.task_loss + added)
    added.backward()
    _, layer = next(adapter_layers(adapted))
    assert layer.gate_parameters("default")[0].grad.abs().sum() > 0


def test_the_loss_survives_activation_checkpointing(tiny: ModuleType) -> None:
    gradients = []
    for checkpointed in (False, True):
        model = get_peft_model(tiny.make("llama"), MoleConfig(**SMALL)).train()
        if checkpointed:
            model.enable_input_require_grads()
            model.gradient_checkpointing_enable({"use_reentrant": False})
        model(**tiny.labelled("llama")).loss.backward()
        gradients.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient)


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"experts": 4}, "`r` .6. must be a multiple of `experts` .4."),
        ({"experts": 2}, "`top_k` .2. must be a multiple of the ranks of an expert .3."),
        ({"routing": "signed"}, "`routing` must be 'abs' with `gate='router'`, found 'signed'"),
        ({"load_balance_rate": 0.1}, "`load_balance_rate` must be 0"),
        ({"blocks": 2, "top_k": 2}, "`blocks` must be 1"),
        ({"experts": 0}, "`experts` must be a whole number of at least 1"),
        ({"balance_weight": -1.0}, "`balance_weight` must be a finite number"),
        ({"gate": "none"}, "`balance_weight` is a router's"),
    ],
)
def test_what_cannot_work_is_refused(fields: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        MoleConfig(**{**SMALL, **fields})
