"""Padding masks: which tokens of which module's input are real."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
import torch
from peft import get_peft_model
from torch import Tensor

from neurolora.tuner import adapter_layers, routing_statistics
from neurolora.tuner.context import ForwardContext


def records(model: Any, batch: dict[str, Tensor]) -> dict[str, tuple[Tensor, int]]:
    model(**batch)
    return {
        name: (layer.records["default"].coactivation.clone(), int(layer.records["default"].tokens))
        for name, layer in adapter_layers(model)
    }


def adapted(tiny: ModuleType, kind: str, **fields: Any) -> Any:
    return get_peft_model(tiny.make(kind), tiny.make_config(kind, init_weights=False, **fields)).train()


def padded(batch: dict[str, Tensor], more: int) -> dict[str, Tensor]:
    fill = {"input_ids": 0, "attention_mask": 0, "labels": -100, "decoder_input_ids": 0}
    return {
        key: torch.nn.functional.pad(value, (0, more), value=fill[key]) if value.dim() == 2 else value
        for key, value in batch.items()
    }


@pytest.mark.parametrize("kind", ["llama", "gpt2", "opt", "bert", "t5"])
def test_a_padded_batch_records_what_the_unpadded_one_does(tiny: ModuleType, kind: str) -> None:
    model, batch = adapted(tiny, kind), tiny.labelled(kind)
    expected, found = records(model, batch), records(model, padded(batch, 3))
    assert found.keys() == expected.keys()
    for name, (coactivation, tokens) in expected.items():
        assert found[name][1] == tokens, name
        assert found[name][0].equal(coactivation), name


def test_a_decoder_is_not_masked_by_its_encoder_s_padding(tiny: ModuleType) -> None:
    model, batch = adapted(tiny, "t5"), tiny.labelled("t5", rows=2, length=4)
    batch["attention_mask"][:, 2:] = 0
    for name, (_, tokens) in records(model, batch).items():
        reads_encoder = ".encoder." in name or name.endswith(("EncDecAttention.k", "EncDecAttention.v"))
        assert tokens == (4 if reads_encoder else 8), name


def test_a_decoder_mask_of_its_own_wins_over_labels(tiny: ModuleType) -> None:
    model, batch = adapted(tiny, "t5"), tiny.labelled("t5", rows=2)
    batch["decoder_attention_mask"] = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 0]])
    found = records(model, batch)
    assert {
        tokens for name, (_, tokens) in found.items() if "SelfAttention" in name and ".decoder." in name
    } == {5}


def opened(mask: Tensor | None, two_sided: bool = False, **inputs: Any) -> ForwardContext:
    context = ForwardContext(two_sided=two_sided)
    context.begin({"attention_mask": mask, **inputs})
    return context


def test_a_longer_mask_fits_only_with_a_cache() -> None:
    """Else it is another sequence's, such as the text's beside an image's patches."""
    mask = torch.tensor([[0, 1, 1, 0]])
    assert opened(mask).keep(torch.Size([1, 2]), False) is None
    assert opened(mask, past_key_values=object()).keep(torch.Size([1, 2]), False).tolist() == [[True, False]]


def test_tokens_flattened_into_one_dimension_and_float_masks_are_understood() -> None:
    mask = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    assert opened(mask).keep(torch.Size([4]), False).tolist() == [True, False, True, True]
    assert opened(mask).keep(torch.Size([2]), False) is None


@pytest.mark.parametrize("mask", [None, {"full": 1}, torch.zeros(1, 1, 4, 4)])
def test_what_is_no_padding_mask_says_nothing(mask: Any) -> None:
    assert opened(mask).keep(torch.Size([1, 4]), False) is None


def test_the_context_is_closed_after_an_error(tiny: ModuleType) -> None:
    model = adapted(tiny, "llama")
    with pytest.raises(IndexError):
        model(input_ids=torch.tensor([[10_000]]))
    context = next(layer.context for _, layer in adapter_layers(model))
    assert not context.is_open
    assert context.encoder_keep is None


def test_hooks_and_layers_are_gone_after_unload(tiny: ModuleType) -> None:
    model = adapted(tiny, "llama")
    context = next(layer.context for _, layer in adapter_layers(model))
    base = model.unload()
    assert not base._forward_hooks
    assert not base._forward_pre_hooks
    assert context.layers == []


def test_two_adapters_share_one_pair_of_hooks(tiny: ModuleType) -> None:
    model = adapted(tiny, "llama")
    model.add_adapter("other", tiny.make_config("llama"))
    assert len(model.get_base_model()._forward_hooks) == 1


def test_routing_statistics_are_counted_over_real_tokens(tiny: ModuleType) -> None:
    model, batch = adapted(tiny, "llama", gate_init="paper").eval(), tiny.inputs("llama", rows=2)
    batch["attention_mask"][1, 2:] = 0
    with routing_statistics(model) as statistics:
        model(**batch)
        model(**batch)
    summary = statistics.summary()
    assert (summary["r"], summary["top_k"], len(summary["layers"])) == (6, 2, 8)
    for row in summary["layers"]:
        assert row["tokens"] == 2 * 7
        assert sum(row["active_frequency"]) == pytest.approx(2)
        assert row["gate_min"] <= min(row["gate_mean"])
        assert max(row["gate_mean"]) <= row["gate_max"]
        assert 0 <= row["orthogonality"] <= 1
    model(**batch)
    assert statistics.summary() == summary


def test_routing_statistics_without_a_gate_have_no_gate_figures(tiny: ModuleType) -> None:
    model = adapted(tiny, "llama", gate="none")
    with routing_statistics(model) as statistics:
        model(**tiny.inputs("llama"))
    assert {row["gate_mean"] for row in statistics.summary()["layers"]} == {None}


def test_statistics_of_a_recomputed_forward_count_once(tiny: ModuleType) -> None:
    model = adapted(tiny, "llama")
    model.enable_input_require_grads()
    model.gradient_checkpointing_enable({"use_reentrant": False})
    with routing_statistics(model) as statistics:
        model(**tiny.labelled("llama", rows=2)).loss.backward()
    assert {row["tokens"] for row in statistics.summary()["layers"]} == {10}
