"""How loud an adapter is, as a number and as a loss."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
import torch
from peft import get_peft_model

from neurolora.core.kernels import use_kernels
from neurolora.core.silence import loudness, routed_loudness
from neurolora.errors import ConfigError
from neurolora.tuner import adapter_layers, listening, take_silence_loss


def test_loudness_is_the_mean_ratio_of_energies() -> None:
    dy, base = (
        torch.tensor([[3.0, 4.0], [1.0, 0.0], [9.0, 9.0]]),
        torch.tensor([[5.0, 0.0], [2.0, 0.0], [1.0, 1.0]]),
    )
    keep = torch.tensor([True, True, False])
    assert loudness(dy, base, keep, eps=0.0).item() == pytest.approx((25 / 25 + 1 / 4) / 2)
    assert loudness(dy, base, eps=0.0).item() == pytest.approx((1 + 0.25 + 81) / 3)
    assert loudness(dy, base, torch.zeros(3, dtype=torch.bool)).item() == 0.0


def test_its_gradient_goes_to_the_update_alone() -> None:
    dy, base = torch.randn(3, 4, requires_grad=True), torch.randn(3, 4, requires_grad=True)
    loudness(dy, base).backward()
    assert dy.grad is not None
    assert base.grad is None


def test_padding_with_nan_stays_out() -> None:
    dy = torch.tensor([[1.0, 1.0], [float("nan"), 1.0]], requires_grad=True)
    loud = loudness(dy, torch.ones(2, 2), torch.tensor([True, False]))
    assert loud.item() == pytest.approx(1.0, rel=1e-5)


def adapted(tiny: ModuleType, **fields: Any) -> Any:
    config = tiny.make_config("llama", init_weights=False, gate_init="paper", **fields)
    return get_peft_model(tiny.make("llama"), config)


def test_the_loss_is_the_mean_over_modules_of_what_they_add(tiny: ModuleType) -> None:
    model, batch = adapted(tiny).eval(), tiny.inputs("llama")
    heard: list[float] = []
    hooks = []
    for _, layer in adapter_layers(model):

        def compare(module: Any, inputs: Any, output: Any) -> None:
            base = module.base_layer(inputs[0])
            heard.append(float(loudness(output - base, base)))

        hooks.append(layer.register_forward_hook(compare))
    expected = model(**batch).logits
    for hook in hooks:
        hook.remove()
    with listening(model):
        torch.testing.assert_close(model(**batch).logits, expected, rtol=1e-4, atol=1e-5)
        loss = take_silence_loss(model)
    assert loss.item() == pytest.approx(sum(heard) / len(heard), rel=1e-3)
    assert loss.item() > 0


def test_padding_does_not_count(tiny: ModuleType) -> None:
    model, batch = adapted(tiny).eval(), tiny.inputs("llama", rows=1, length=5)
    longer = {
        "input_ids": torch.cat([batch["input_ids"], torch.full((1, 3), 7)], dim=1),
        "attention_mask": torch.cat([batch["attention_mask"], torch.zeros(1, 3, dtype=torch.int64)], dim=1),
    }
    losses = []
    for each in (batch, longer):
        with listening(model):
            model(**each)
            losses.append(take_silence_loss(model).item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_it_trains_b_and_the_gate_and_is_forgotten(tiny: ModuleType) -> None:
    model = adapted(tiny).train()
    with listening(model):
        model(**tiny.inputs("llama"))
        take_silence_loss(model).backward()
    assert take_silence_loss(model).item() == 0.0
    for _, layer in adapter_layers(model):
        assert layer.neurolora_B["default"].grad.abs().sum() > 0
        assert layer.neurolora_gate_W2["default"].grad.abs().sum() > 0
    model(**tiny.inputs("llama"))
    assert take_silence_loss(model).item() == 0.0, "nobody was listening"


def test_a_model_without_adapters_is_refused(tiny: ModuleType) -> None:
    with pytest.raises(ConfigError, match="no routed adapter"), listening(tiny.make("llama")):
        pass


def test_what_is_only_listened_to_moves_no_balance_and_no_loss(tiny: ModuleType) -> None:
    model = adapted(tiny, load_balance_rate=0.1).train()
    with listening(model):
        model(**tiny.inputs("llama"))
    for _, layer in adapter_layers(model):
        assert not layer.records
        assert not layer.pending


@pytest.mark.parametrize(
    "fields", [{}, {"gate": "none"}, {"blocks": 2, "top_k": 2}, {"gate_sharing": "input"}]
)
def test_listening_by_the_fast_path_is_the_same(tiny: ModuleType, fields: dict[str, Any]) -> None:
    """The loss, what the model says, and every gradient of a sum of both losses."""
    found = []
    for kernels in ("torch", "reference"):
        torch.manual_seed(0)
        fields = {"gate_init": "identity", **fields} if fields.get("gate") == "none" else fields
        config = tiny.make_config("llama", **{"init_weights": "gaussian", "gate_init": "paper", **fields})
        model, batch = get_peft_model(tiny.make("llama"), config).train(), tiny.inputs("llama")
        batch["attention_mask"][0, -2:] = 0
        with use_kernels(kernels), listening(model):
            logits = model(**batch).logits
            loss = take_silence_loss(model)
        (3 * loss + logits.square().mean()).backward()
        grads = {name: value.grad for name, value in model.named_parameters() if value.requires_grad}
        found.append((loss.detach(), logits.detach(), grads))
    (loss, logits, grads), (slow_loss, slow_logits, slow_grads) = found
    assert float(loss) > 0
    torch.testing.assert_close(loss, slow_loss, rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(logits, slow_logits, rtol=1e-4, atol=1e-5)
    for name, expected in slow_grads.items():
        torch.testing.assert_close(grads[name], expected, rtol=2e-3, atol=1e-6, msg=name)


def test_routed_loudness_needs_no_update() -> None:
    torch.manual_seed(0)
    s, B, base = torch.randn(6, 4), torch.randn(5, 4), torch.randn(2, 3, 5)
    keep = torch.tensor([[True, True, False], [True, False, True]])
    dy = (0.7 * s @ B.T).view(2, 3, 5)
    torch.testing.assert_close(routed_loudness(s, B, 0.7, base, keep), loudness(dy, base, keep))


def test_a_frozen_adapter_beside_it_is_not_listened_to(tiny: ModuleType) -> None:
    model, batch = adapted(tiny).eval(), tiny.inputs("llama")
    with listening(model):
        model(**batch)
        alone = take_silence_loss(model)
    model.add_adapter("past", tiny.make_config("llama"))  # B = 0, so it changes nothing
    model.base_model.set_adapter(["default", "past"])
    for name, value in model.named_parameters():
        if ".past" in name:
            value.requires_grad_(False)
    with listening(model):
        model(**batch)
        torch.testing.assert_close(take_silence_loss(model), alone)
