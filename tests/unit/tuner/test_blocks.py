"""Blocks: an adapter whose ranks lie in several parts is the sum of as many adapters."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model
from torch import Tensor

from neurolora.core.kernels import Kernels, use_kernels
from neurolora.errors import ConfigError
from neurolora.tuner import NeuroLoraConfig, get_auxiliary_loss
from neurolora.tuner.auxiliary import adapter_layers

NAMES = ("one", "two", "three")
FIELDS: list[dict[str, Any]] = [
    {},
    {"gate": "none"},
    {"gate": "static"},
    {"gate_sharing": "input"},
    {"gate_sharing": "kind"},
    {"routing": "signed"},
    {"projection": "gaussian"},
    {"load_balance_rate": 0.1},
]
CLOSE = {"rtol": 1e-4, "atol": 1e-6}


def parts(tiny: ModuleType, **fields: Any) -> Any:
    """Three adapters of rank 6 with an A and a gate of their own, all active."""
    model = None
    for seed, name in enumerate(NAMES):
        config = tiny.make_config(
            "llama", init_weights=False, gate_init="paper", projection_seed=seed, init_seed=seed, **fields
        )
        if model is None:
            model = get_peft_model(tiny.make("llama"), config, adapter_name=name)
        else:
            model.add_adapter(name, config)
    assert model is not None
    model.base_model.set_adapter(list(NAMES))
    for _, layer in adapter_layers(model):
        for name, bias in layer.neurolora_bias.items():
            bias.copy_(torch.randn(len(bias), generator=torch.Generator().manual_seed(len(name))))
    return model


def joined(tiny: ModuleType, model: Any, **fields: Any) -> Any:
    """The same as one adapter of three blocks, its tensors put together by hand."""
    config = tiny.make_config("llama", **{**fields, "r": 18, "lora_alpha": 48, "blocks": 3})
    made = get_peft_model(tiny.make("llama"), config)
    with torch.no_grad():
        for (_, layer), (_, sources) in zip(adapter_layers(made), adapter_layers(model), strict=True):
            layer.neurolora_B["default"].copy_(torch.cat([sources.neurolora_B[n] for n in NAMES], dim=1))
            for container in ("neurolora_A", "neurolora_bias", *tiny_gates(layer)):
                if "default" in getattr(layer, container):
                    stacked = torch.cat([getattr(sources, container)[n] for n in NAMES])
                    getattr(layer, container)["default"].copy_(stacked)
    return made


def tiny_gates(layer: Any) -> tuple[str, ...]:
    return tuple(name for name in layer.adapter_layer_names if name.startswith("neurolora_gate_"))


def tokens() -> Tensor:
    return torch.randint(3, 30, (3, 7), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("fields", FIELDS, ids=str)
@pytest.mark.parametrize("kernels", ["auto", "torch", "reference"])
def test_blocks_are_the_sum_of_adapters(tiny: ModuleType, fields: dict[str, Any], kernels: Kernels) -> None:
    model = parts(tiny, **fields).eval()
    made = joined(tiny, model, **fields).eval()
    with torch.no_grad(), use_kernels("reference"):
        expected = model(input_ids=tokens()).logits
    with torch.no_grad(), use_kernels(kernels):
        torch.testing.assert_close(made(input_ids=tokens()).logits, expected, **CLOSE)
        with made.disable_adapter():
            assert not torch.allclose(made(input_ids=tokens()).logits, expected, **CLOSE)


@pytest.mark.parametrize("fields", FIELDS[:5], ids=str)
def test_decoding_with_blocks(tiny: ModuleType, fields: dict[str, Any]) -> None:
    model = parts(tiny, **fields).eval()
    made = joined(tiny, model, **fields).eval()
    with torch.no_grad():
        expected = model(input_ids=tokens()).logits
        cache = made(input_ids=tokens()[:, :3], use_cache=True).past_key_values
        for step in range(3, 7):
            output = made(input_ids=tokens()[:, step : step + 1], past_key_values=cache, use_cache=True)
            torch.testing.assert_close(output.logits[:, -1], expected[:, step], **CLOSE)


@pytest.mark.parametrize("fields", FIELDS[:5], ids=str)
def test_gradients_of_blocks_are_those_of_the_adapters(tiny: ModuleType, fields: dict[str, Any]) -> None:
    model = parts(tiny, **fields)
    made = joined(tiny, model, **fields)
    for each in (model, made):
        each.eval()(input_ids=tokens()).logits.square().mean().backward()
    for (_, layer), (_, sources) in zip(adapter_layers(made), adapter_layers(model), strict=True):
        B = torch.cat([sources.neurolora_B[n].grad for n in NAMES], dim=1)
        torch.testing.assert_close(layer.neurolora_B["default"].grad, B, **CLOSE)
        for container in tiny_gates(layer):
            if "default" in getattr(layer, container):
                stacked = torch.cat([getattr(sources, container)[n].grad for n in NAMES])
                torch.testing.assert_close(getattr(layer, container)["default"].grad, stacked, **CLOSE)


def test_the_fast_path_and_the_readable_one_have_the_same_gradients(tiny: ModuleType) -> None:
    config = tiny.make_config("llama", init_weights=False, gate_init="paper", r=18, blocks=3)
    found = []
    for kernels in ("auto", "reference"):
        model = get_peft_model(tiny.make("llama"), config).train()
        with use_kernels(kernels):  # type: ignore[arg-type]
            loss = model(input_ids=tokens()).logits.square().mean() + get_auxiliary_loss(model)
            loss.backward()
        found.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert found[0].keys() == found[1].keys()
    for name, grad in found[0].items():
        torch.testing.assert_close(grad, found[1][name], **CLOSE)


def test_exactly_top_k_ranks_of_every_block_are_active(tiny: ModuleType) -> None:
    config = tiny.make_config("llama", init_weights=False, r=18, blocks=3, top_k=2)
    model = get_peft_model(tiny.make("llama"), config).eval()
    _, layer = next(adapter_layers(model))
    masks: list[Tensor] = []
    layer._note = lambda adapter, mask, m: masks.append(mask)  # type: ignore[method-assign]
    model(input_ids=tokens())
    assert masks[0].unflatten(-1, (3, 6)).sum(-1).eq(2).all()


def test_the_first_block_starts_as_an_adapter_without_blocks(tiny: ModuleType) -> None:
    plain = get_peft_model(tiny.make("llama"), tiny.make_config("llama", gate_init="paper"))
    made = get_peft_model(tiny.make("llama"), tiny.make_config("llama", r=12, blocks=2, gate_init="paper"))
    for (_, one), (_, two) in zip(adapter_layers(plain), adapter_layers(made), strict=True):
        A = two.projection("default").values
        assert A[:6].equal(one.projection("default").values)
        assert not A[6:].equal(A[:6])
        W1 = two.neurolora_gate_W1["default"]
        assert W1[:4].equal(one.neurolora_gate_W1["default"])
        assert not W1[4:].equal(W1[:4])


def test_an_adapter_with_blocks_is_saved_and_loaded(tiny: ModuleType, tmp_path: Any) -> None:
    config = tiny.make_config("llama", init_weights=False, r=12, blocks=2)
    model = get_peft_model(tiny.make("llama"), config).eval()
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(tiny.make("llama"), tmp_path).eval()
    assert loaded.peft_config["default"].blocks == 2
    assert loaded(input_ids=tokens()).logits.equal(model(input_ids=tokens()).logits)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"blocks": 0}, "`blocks` must be a whole number of at least 1"),
        ({"r": 8, "blocks": 3}, "`r` (8) must be a multiple of `blocks` (3)"),
        ({"r": 12, "blocks": 3, "top_k": 5}, "must not be larger than the ranks of a block (4)"),
    ],
    ids=str,
)
def test_settings_that_cannot_work(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as raised:
        NeuroLoraConfig(**fields)
    assert said in str(raised.value)
