"""One token at a time: the packed path gives what the readable one gives, and never what is out of date."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from peft import get_peft_model
from torch import Tensor

from neurolora.core.kernels import use_kernels
from neurolora.core.kernels.decode_triton import TritonPack
from neurolora.tuner.auxiliary import adapter_layers, context_of

TOLERANCE = {"rtol": 1e-4, "atol": 1e-5}


def adapted(tiny: ModuleType, kind: str = "llama", **fields: Any) -> Any:
    config = tiny.make_config(kind, **{"init_weights": False, "gate_init": "paper", **fields})
    return get_peft_model(tiny.make(kind), config).eval()


def decode(model: Any, tokens: Tensor, between: Callable[[int], None] = lambda step: None) -> list[Tensor]:
    """The last logits of the prompt's first two tokens, then of each following token with a cache."""
    with torch.no_grad():
        output = model(input_ids=tokens[:, :2], use_cache=True)
        found = [output.logits[:, -1]]
        for step in range(2, tokens.shape[1]):
            between(step)
            output = model(
                input_ids=tokens[:, step : step + 1], past_key_values=output.past_key_values, use_cache=True
            )
            found.append(output.logits[:, -1])
    return found


def both(model: Any, tokens: Tensor, between: Callable[[int], None] = lambda step: None) -> None:
    """Decoded by the fast path and by the readable one, with the same things done in between."""
    state = {name: value.clone() for name, value in model.state_dict().items()}
    fast = decode(model, tokens, between)
    model.load_state_dict(state)
    with use_kernels("reference"):
        slow = decode(model, tokens, between)
    model.load_state_dict(state)
    for one, other in zip(fast, slow, strict=True):
        torch.testing.assert_close(one, other, **TOLERANCE)


def tokens_of(rows: int = 3) -> Tensor:
    return torch.randint(3, 30, (rows, 6), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("kind", ["llama", "gpt2", "opt"])
@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"gate": "none"},
        {"gate": "static"},
        {"gate_sharing": "input"},
        {"gate_sharing": "kind"},
        {"gate_sharing": "model"},
        {"routing": "signed"},
        {"load_balance_rate": 0.1},
        {"projection": "gaussian"},
        {"train_projection": True},
        {"top_k": 6},
    ],
    ids=str,
)
def test_decoding_is_the_readable_path_s(tiny: ModuleType, kind: str, fields: dict[str, Any]) -> None:
    both(adapted(tiny, kind, **fields), tokens_of())


@pytest.mark.parametrize("rows", [1, 32, 33])
def test_any_number_of_rows(tiny: ModuleType, rows: int) -> None:
    both(adapted(tiny), tokens_of(rows))


def test_a_bf16_base(tiny: ModuleType) -> None:
    """As near to the same weights in float32 as the readable path is: rounding changes some ranks in both."""
    model = get_peft_model(
        tiny.make("llama").to(torch.bfloat16), tiny.make_config("llama", init_weights=False)
    ).eval()
    exact = get_peft_model(tiny.make("llama"), tiny.make_config("llama", init_weights=False)).eval()
    exact.load_state_dict({name: value.float() for name, value in model.state_dict().items()}, strict=False)
    right, fast = decode(exact, tokens_of()), decode(model, tokens_of())
    with use_kernels("reference"):
        slow = decode(model, tokens_of())
    wrong = [
        float(sum((a - b).abs().mean() for a, b in zip(found, right, strict=True))) for found in (fast, slow)
    ]
    assert 0 < wrong[0] < 1.5 * wrong[1]


@pytest.mark.parametrize("part", ["neurolora_B", "neurolora_gate_W1", "neurolora_gate_gamma"])
def test_weights_that_change_between_two_tokens_are_seen(tiny: ModuleType, part: str) -> None:
    model = adapted(tiny)

    def change(step: int) -> None:
        if step == 4:
            with torch.no_grad():
                for _, layer in adapter_layers(model):
                    getattr(layer, part)["default"].mul_(-2.0)

    both(model, tokens_of(), change)


def test_another_adapter_and_none_between_two_tokens(tiny: ModuleType) -> None:
    model = adapted(tiny)
    model.add_adapter("other", tiny.make_config("llama", init_weights=False, init_seed=1))
    names = {2: ["default"], 3: ["other"], 4: ["default", "other"], 5: ["default"]}
    both(model, tokens_of(), lambda step: model.base_model.set_adapter(names[step]))
    with model.disable_adapter():
        plain = decode(model, tokens_of())
    expected = decode(tiny.make("llama").eval(), tokens_of())
    assert all(a.equal(b) for a, b in zip(plain, expected, strict=True))


def test_packs_live_from_token_to_token_and_no_longer(tiny: ModuleType) -> None:
    model = adapted(tiny)
    handover = context_of(model).handover  # type: ignore[union-attr]
    decode(model, tokens_of())
    assert len(handover.packs) == 2 * 2  # q with k and v, and o, in two layers
    assert not handover.waiting
    assert all(packed.x is None and packed.routing is None for packed in handover.packs.values())
    model(input_ids=tokens_of())
    assert not handover.packs


def test_one_token_with_gradient_or_in_training_is_no_decoding(tiny: ModuleType) -> None:
    model = adapted(tiny)
    model(input_ids=tokens_of()[:, :1]).logits.sum().backward()
    assert all(layer.neurolora_B["default"].grad is not None for _, layer in adapter_layers(model))
    model.train()
    with torch.no_grad():
        model(input_ids=tokens_of()[:, :1])
    assert not context_of(model).handover.packs  # type: ignore[union-attr]


@pytest.mark.parametrize("fields", [{}, {"gate": "none"}], ids=str)
def test_decoding_by_triton_s_kernels(
    tiny: ModuleType, fields: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("triton")
    monkeypatch.setenv("TRITON_INTERPRET", "1")  # read where kernels are declared, and by `triton_available`
    importlib.import_module("neurolora.core.kernels.triton_decode_device")
    model = adapted(tiny, **fields)
    both(model, tokens_of(2)[:, :4])
    decode(model, tokens_of(2)[:, :4])
    assert all(type(packed.pack) is TritonPack for packed in context_of(model).handover.packs.values())  # type: ignore[union-attr]
