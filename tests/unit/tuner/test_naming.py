"""Names: nesting changes nothing, gates are shared by what modules have in common, counts are the issue's."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
import torch
from peft import get_peft_model
from torch import nn

from neurolora import NeuroLoraConfig
from neurolora.errors import ConfigError, TargetError
from neurolora.tuner import adapter_layers
from neurolora.tuner.naming import canonical_name, gate_group, reads_encoder


@pytest.mark.parametrize(
    ("path", "prefix"),
    [
        ("layers.0.self_attn.q_proj", ""),
        ("model.layers.0.self_attn.q_proj", ""),
        ("base_model.model.model.layers.0.self_attn.q_proj", "model"),
        ("module.model.layers.0.self_attn.q_proj", ""),
        ("_orig_mod.model.layers.0._fsdp_wrapped_module.self_attn.q_proj", ""),
        ("transformer.layers.0.self_attn.q_proj", "transformer"),
        ("layers.0.self_attn.q_proj.base_layer", ""),
    ],
)
def test_wrappers_are_left_out_of_the_canonical_name(path: str, prefix: str) -> None:
    assert canonical_name(path, prefix) == "layers.0.self_attn.q_proj"


def test_the_last_part_stays_even_if_it_is_called_like_a_wrapper() -> None:
    assert canonical_name("model.module") == "module"


@pytest.mark.parametrize(
    ("one", "other", "sharing", "together"),
    [
        ("l.0.attn.q_proj", "l.0.attn.k_proj", "module", False),
        ("l.0.attn.q_proj", "l.0.attn.v_proj", "input", True),
        ("l.0.attn.q_proj", "l.0.attn.o_proj", "input", False),
        ("l.0.attn.q_proj", "l.1.attn.q_proj", "input", False),
        ("l.0.mlp.gate_proj", "l.0.mlp.up_proj", "input", True),
        ("d.0.encoder_attn.q_proj", "d.0.encoder_attn.k_proj", "input", False),
        ("d.0.encoder_attn.v_proj", "d.0.encoder_attn.k_proj", "input", True),
        ("l.0.attn.q_proj", "l.1.attn.q_proj", "kind", True),
        ("l.0.attn.q_proj", "l.0.attn.k_proj", "kind", False),
        ("l.0.attn.q_proj", "l.1.attn.o_proj", "model", True),
    ],
)
def test_who_shares_a_gate(one: str, other: str, sharing: str, together: bool) -> None:
    assert (gate_group(one, 16, sharing) == gate_group(other, 16, sharing)) is together


def test_other_input_widths_never_share() -> None:
    for sharing in ("input", "kind", "model"):
        assert gate_group("a.q_proj", 16, sharing) != gate_group("a.q_proj", 32, sharing)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("encoder.block.0.layer.0.SelfAttention.q", True),
        ("decoder.block.0.layer.0.SelfAttention.q", False),
        ("decoder.block.0.layer.1.EncDecAttention.q", False),
        ("decoder.block.0.layer.1.EncDecAttention.k", True),
        ("model.decoder.layers.0.encoder_attn.v_proj", True),
        ("model.decoder.layers.0.encoder_attn.out_proj", False),
    ],
)
def test_which_side_of_an_encoder_decoder_a_module_reads(name: str, expected: bool) -> None:
    assert reads_encoder(name) is expected


def test_the_same_module_gets_the_same_a_under_a_head_and_bare(tiny: ModuleType) -> None:
    config = {"target_modules": ["q_proj"]}
    head = get_peft_model(tiny.make("llama"), tiny.make_config("llama", **config))
    body = get_peft_model(tiny.make("llama").model, tiny.make_config("llama", task_type=None, **config))
    for (_, one), (_, other) in zip(adapter_layers(head), adapter_layers(body), strict=True):
        assert one.name == other.name
        assert one.neurolora_A["default"].equal(other.neurolora_A["default"])


B_OF_LLAMA_3_8B = 10_485_760
# method.md 9: totals with B; one gate of a 4096-wide projection has 264,256 parameters.
TOTALS = {
    "module": B_OF_LLAMA_3_8B + 128 * 264_256,
    "input": B_OF_LLAMA_3_8B + 64 * 64 * 4096 + 128 * (32 * 64 + 2 * 32),
    "kind": B_OF_LLAMA_3_8B + 4 * 264_256,
    "model": B_OF_LLAMA_3_8B + 264_256,
    None: B_OF_LLAMA_3_8B,
}


@pytest.fixture(scope="module")
def llama_3_8b() -> nn.Module:
    """Llama-3-8B's attention on the meta device, its other parts left as small as they may be."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=128, hidden_size=4096, intermediate_size=8, num_hidden_layers=32, num_attention_heads=32,
        num_key_value_heads=8,
    )  # fmt: skip
    with torch.device("meta"):
        return LlamaForCausalLM(config)


@pytest.mark.parametrize("sharing", list(TOTALS))
def test_the_parameters_of_llama_3_8b_are_those_of_the_method_s_page(
    llama_3_8b: nn.Module, sharing: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from neurolora.core.projection import Projection

    def empty_a(blocks: int, rows: int, columns: int, **_: Any) -> Projection:
        return Projection(torch.zeros(1, dtype=torch.int8).expand(blocks * rows, columns), 1.0)

    monkeypatch.setattr("neurolora.tuner.settings.make_block_projections", empty_a)  # drawing A takes seconds
    fields: dict[str, Any] = {"gate": "none"} if sharing is None else {"gate_sharing": sharing}
    model = get_peft_model(llama_3_8b, NeuroLoraConfig(**fields), low_cpu_mem_usage=True)
    assert model.get_nb_trainable_parameters()[0] == TOTALS[sharing]
    assert {p.device.type for p in model.parameters()} == {"meta"}
    model.unload()


def test_no_match_is_an_error_that_offers_names(tiny: ModuleType) -> None:
    with pytest.raises(TargetError, match=r"q_prj.*down_proj, gate_proj, k_proj") as caught:
        get_peft_model(tiny.make("llama"), tiny.make_config("llama", target_modules=["q_prj"]))
    assert isinstance(caught.value, ConfigError)


def test_an_unknown_architecture_needs_target_modules(tiny: ModuleType) -> None:
    with pytest.raises(TargetError, match=r"target_modules.*first, second"):
        get_peft_model(tiny.make("mlp"), tiny.make_config("mlp", target_modules=None))


class Strange(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(5, 4)
        self.picture = nn.Conv2d(3, 4, 1)
        self.norm = nn.LayerNorm(4)
        self.attention = nn.MultiheadAttention(4, 2)
        self.own = nn.Bilinear(2, 2, 2)


@pytest.mark.parametrize("name", ["words", "picture", "norm", "attention", "out_proj", "own"])
def test_a_module_of_an_unsupported_kind_is_named(tiny: ModuleType, name: str) -> None:
    with pytest.raises(TargetError, match=name):
        get_peft_model(Strange(), tiny.make_config("mlp", target_modules=[name]))
