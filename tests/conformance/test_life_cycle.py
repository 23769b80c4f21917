"""What PEFT promises of every method, one body over many configurations and architectures."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from peft import AutoPeftModelForCausalLM, PeftModel, get_layer_status, get_model_status, get_peft_model
from torch import nn

from neurolora import FlyLoraConfig
from neurolora.errors import UnsupportedOperationError
from neurolora.tuner import adapter_layers

# Rows, not the product: each value of each field at least once, beside values of the others.
CONFIGS: dict[str, dict[str, Any]] = {
    "default": {},
    "flylora": {"gate": "none", "orthogonality_weight": 0.0},
    "static gate": {"gate": "static", "gate_sharing": "kind", "routing": "signed"},
    "paper": {"gate_init": "paper", "projection_scale": "paper", "init_weights": "gaussian"},
    "gaussian A, W1 shared": {"projection": "gaussian", "gate_sharing": "input"},
    "seed only, gate by kind": {"save_projection": False, "gate_sharing": "kind"},
    "trained A, one gate": {"train_projection": True, "gate_sharing": "model"},
    "balanced": {"load_balance_rate": 0.01, "density": 0.5, "gate": "none"},
    "mole": {
        "gate": "router",
        "experts": 3,
        "train_projection": True,
        "density": 1.0,
        "orthogonality_weight": 0.0,
        "balance_weight": 0.01,
    },
    "all ranks": {"top_k": 6, "init_weights": False},
}
KINDS = ["llama", "gpt2", "opt", "bert", "t5", "mlp"]


@pytest.fixture(params=list(CONFIGS))
def fields(request: pytest.FixtureRequest) -> dict[str, Any]:
    return CONFIGS[request.param]


def adapted(tiny: ModuleType, kind: str, fields: dict[str, Any], name: str = "default") -> Any:
    return get_peft_model(tiny.make(kind), tiny.make_config(kind, **fields), adapter_name=name).eval()


def trained(tiny: ModuleType, kind: str, fields: dict[str, Any]) -> Any:
    model = adapted(tiny, kind, fields)
    tiny.train(model, tiny.inputs(kind) if kind == "mlp" else tiny.labelled(kind))
    return model


@pytest.mark.parametrize("kind", KINDS)
def test_at_step_0_the_outputs_are_the_base_s_to_the_bit(
    tiny: ModuleType, kind: str, fields: dict[str, Any]
) -> None:
    batch = tiny.inputs(kind)
    expected = tiny.outputs(tiny.make(kind), batch)
    model = adapted(tiny, kind, {**fields, "init_weights": True})
    assert tiny.outputs(model, batch).equal(expected)


def test_at_step_0_neurolora_is_flylora_to_the_bit(tiny: ModuleType) -> None:
    batch = tiny.inputs("llama")
    neuro = adapted(tiny, "llama", {"init_weights": False})
    fly = get_peft_model(tiny.make("llama"), FlyLoraConfig(r=6, top_k=2, init_weights=False)).eval()
    assert tiny.outputs(neuro, batch).equal(tiny.outputs(fly, batch))
    assert not tiny.outputs(neuro, batch).equal(tiny.outputs(tiny.make("llama"), batch))


@pytest.mark.parametrize("kind", KINDS)
def test_only_b_and_the_gate_are_trained_and_the_base_stays(tiny: ModuleType, kind: str) -> None:
    model = adapted(tiny, kind, {"modules_to_save": None})
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    tiny.train(model, tiny.inputs(kind) if kind == "mlp" else tiny.labelled(kind), steps=4)
    heads = ("classifier", "score")  # PEFT trains the head of a classifier by itself
    for name, parameter in model.named_parameters():
        ours = ".neurolora_" in name or ("modules_to_save" in name and any(h in name for h in heads))
        assert parameter.requires_grad == ours, name
        assert parameter.equal(before[name]) != ours, name


@pytest.mark.parametrize("kind", ["llama", "gpt2", "bert", "t5", "mlp"])
@pytest.mark.parametrize("low_cpu_mem_usage", [False, True])
def test_saved_and_loaded_it_gives_the_same_bits(
    tiny: ModuleType, kind: str, fields: dict[str, Any], low_cpu_mem_usage: bool, tmp_path: Path
) -> None:
    if kind != "llama" and (low_cpu_mem_usage or len(fields) > 2):
        pytest.skip("the other architectures take a part of the rows")
    model, batch = trained(tiny, kind, fields), tiny.inputs(kind)
    model.save_pretrained(tmp_path)
    torch.manual_seed(99)
    again = PeftModel.from_pretrained(tiny.make(kind), tmp_path, low_cpu_mem_usage=low_cpu_mem_usage)
    assert tiny.outputs(again, batch).equal(tiny.outputs(model, batch))
    assert {p.device.type for p in again.parameters()} == {"cpu"}
    again.load_adapter(tmp_path, "again", low_cpu_mem_usage=low_cpu_mem_usage)
    again.set_adapter("again")
    assert tiny.outputs(again.eval(), batch).equal(tiny.outputs(model, batch))


def test_adapters_are_switched_disabled_deleted_and_added(tiny: ModuleType, fields: dict[str, Any]) -> None:
    batch = tiny.inputs("llama")
    base = tiny.outputs(tiny.make("llama"), batch)
    model = adapted(tiny, "llama", {**fields, "init_weights": False})
    first = tiny.outputs(model, batch)
    model.add_adapter("other", tiny.make_config("llama", **{**fields, "init_weights": False, "init_seed": 1}))
    assert tiny.outputs(model.eval(), batch).equal(first)
    model.set_adapter("other")
    second = tiny.outputs(model, batch)
    assert not second.equal(first)
    with model.disable_adapter():
        assert tiny.outputs(model, batch).equal(base)
    assert tiny.outputs(model, batch).equal(second)
    model.delete_adapter("other")
    model.set_adapter("default")
    assert tiny.outputs(model, batch).equal(first)
    assert not [key for key in model.state_dict() if "other" in key]
    assert tiny.outputs(model.unload(), batch).equal(base)


def test_two_active_adapters_add_up(tiny: ModuleType) -> None:
    batch = tiny.inputs("mlp")
    model = adapted(tiny, "mlp", {"init_weights": False, "target_modules": ["second"]})
    other = tiny.make_config("mlp", init_weights=False, init_seed=1, target_modules=["second"])
    model.add_adapter("other", other)
    base = tiny.outputs(tiny.make("mlp"), batch)
    one = tiny.outputs(model.eval(), batch) - base
    model.set_adapter("other")
    two = tiny.outputs(model, batch) - base
    model.base_model.set_adapter(["default", "other"])
    torch.testing.assert_close(tiny.outputs(model, batch), base + one + two)


def test_saving_one_of_two_adapters_writes_that_one_alone(tiny: ModuleType, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    model = adapted(tiny, "llama", {})
    model.add_adapter("other", tiny.make_config("llama", gate="none"))
    model.save_pretrained(tmp_path)
    both = (
        load_file(tmp_path / "adapter_model.safetensors"),
        load_file(tmp_path / "other/adapter_model.safetensors"),
    )
    assert any("gate" in key for key in both[0])
    assert not any("gate" in key for key in both[1])
    assert not any("other" in key or "default" in key for state in both for key in state)


def test_status_is_reported(tiny: ModuleType, fields: dict[str, Any]) -> None:
    model = adapted(tiny, "llama", fields)
    status = get_model_status(model)
    assert (status.adapter_model_type, status.peft_types) == ("NeuroLoraModel", {"default": "NEUROLORA"})
    assert (status.active_adapters, status.merged_adapters, status.num_adapter_layers) == (["default"], [], 8)
    assert len(get_layer_status(model)) == 8
    assert status.trainable_params == sum(p.numel() for p in model.parameters() if p.requires_grad)


def test_copies_and_pickles_work_and_are_apart(tiny: ModuleType, fields: dict[str, Any]) -> None:
    batch, model = tiny.inputs("llama"), trained(tiny, "llama", fields)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert tiny.outputs(other, batch).equal(tiny.outputs(model, batch))
        mine = {id(layer.context) for _, layer in adapter_layers(model)}
        its = {id(layer.context) for _, layer in adapter_layers(other)}
        assert len(mine) == len(its) == 1
        assert mine != its
        tiny.train(other, tiny.labelled("llama"))
        assert not tiny.outputs(other, batch).equal(tiny.outputs(model, batch))


@pytest.mark.parametrize("what", ["merge_and_unload", "merge_adapter"])
def test_merging_is_refused_with_the_reason_and_what_to_do(tiny: ModuleType, what: str) -> None:
    model = adapted(tiny, "llama", {})
    with pytest.raises(UnsupportedOperationError, match=r"function of the input.*unload\(\)"):
        getattr(model, what)()
    with pytest.raises(NotImplementedError):
        next(adapter_layers(model))[1].merge()
    model.unmerge_adapter()


def test_what_peft_has_for_lora_alone_is_a_clear_error(tiny: ModuleType, tmp_path: Path) -> None:
    from peft import PeftMixedModel
    from peft.utils.hotswap import hotswap_adapter

    model = adapted(tiny, "llama", {})
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"(?i)not supported|support"):
        hotswap_adapter(model, tmp_path, "default")
    with pytest.raises(ValueError, match=r"(?i)mixed|not supported|compatible"):
        PeftMixedModel(tiny.make("llama"), tiny.make_config("llama"))


def test_modules_to_save_are_trained_saved_and_loaded(tiny: ModuleType, tmp_path: Path) -> None:
    batch = tiny.inputs("llama")
    model = trained(tiny, "llama", {"modules_to_save": ["lm_head"]})
    model.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(tiny.make("llama"), tmp_path)
    assert tiny.outputs(again, batch).equal(tiny.outputs(model, batch))
    heads = [p for name, p in again.named_parameters() if "modules_to_save" in name]
    assert not heads[0].equal(tiny.make("llama").lm_head.weight)


def test_the_auto_class_and_transformers_load_the_same_adapter(
    tiny: ModuleType, fields: dict[str, Any], tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM

    folder, batch = tmp_path / "base", tiny.inputs("llama")
    tiny.make("llama").save_pretrained(folder)
    base = AutoModelForCausalLM.from_pretrained(folder)
    model = get_peft_model(base, tiny.make_config("llama", **fields)).eval()
    tiny.train(model, tiny.labelled("llama"))
    expected = tiny.outputs(model, batch)
    adapter = tmp_path / "adapter"
    model.save_pretrained(adapter)
    assert tiny.outputs(AutoPeftModelForCausalLM.from_pretrained(adapter).eval(), batch).equal(expected)
    assert tiny.outputs(AutoModelForCausalLM.from_pretrained(adapter).eval(), batch).equal(expected)
    loaded = AutoModelForCausalLM.from_pretrained(folder)
    loaded.load_adapter(adapter)
    assert tiny.outputs(loaded.eval(), batch).equal(expected)
    loaded.save_pretrained(tmp_path / "again")
    again = AutoModelForCausalLM.from_pretrained(folder)
    again.load_adapter(tmp_path / "again")
    assert tiny.outputs(again.eval(), batch).equal(expected)


def test_transformers_own_add_adapter_works_with_several(tiny: ModuleType) -> None:
    batch, model = tiny.inputs("llama"), tiny.make("llama")
    base = tiny.outputs(model, batch)
    model.add_adapter(tiny.make_config("llama", init_weights=False), "one")
    model.add_adapter(tiny.make_config("llama", init_weights=False, init_seed=1), "two")
    outputs = {}
    for name in ("one", "two"):
        model.set_adapter(name)
        outputs[name] = tiny.outputs(model, batch)
    assert not outputs["one"].equal(outputs["two"])
    model.disable_adapters()
    assert tiny.outputs(model, batch).equal(base)
    model.enable_adapters()
    model.delete_adapter("two")
    model.set_adapter("one")
    assert tiny.outputs(model, batch).equal(outputs["one"])


NAMES = {
    "llama": {"q_proj", "k_proj", "v_proj", "o_proj"},
    "gpt2": {"c_attn", "c_proj"},
    "opt": {"q_proj", "k_proj", "v_proj", "out_proj"},
    "bert": {"query", "key", "value", "dense"},
    "t5": {"q", "k", "v", "o"},
}


@pytest.mark.parametrize("kind", list(NAMES))
def test_by_default_the_attention_s_projections_are_adapted(tiny: ModuleType, kind: str) -> None:
    names = [name for name, _ in adapter_layers(adapted(tiny, kind, {}))]
    assert {name.rpartition(".")[2] for name in names} == NAMES[kind]
    assert not [name for name in names if "mlp" in name or "intermediate" in name or "pooler" in name]


@pytest.mark.parametrize(
    ("fields", "count"),
    [
        ({"target_modules": ["q_proj", "up_proj"]}, 4),
        ({"target_modules": r".*layers\.1\..*(q|v)_proj"}, 2),
        ({"target_modules": "all-linear"}, 14),
        ({"target_modules": ["q_proj", "v_proj"], "exclude_modules": ["layers.0.self_attn.q_proj"]}, 3),
        ({"target_modules": ["q_proj", "v_proj"], "layers_to_transform": 1}, 2),
        ({"target_modules": ["q_proj"], "layers_to_transform": [0, 1], "layers_pattern": "layers"}, 2),
    ],
)
def test_modules_are_chosen_as_peft_chooses_them(
    tiny: ModuleType, fields: dict[str, Any], count: int
) -> None:
    assert len(list(adapter_layers(adapted(tiny, "llama", fields)))) == count


@pytest.mark.parametrize("default_dtype", [torch.float32, torch.float64])
def test_the_same_config_gives_the_same_bits_whatever_is_around(
    tiny: ModuleType, fields: dict[str, Any], default_dtype: torch.dtype
) -> None:
    expected = dict(adapted(tiny, "mlp", fields).state_dict())
    base = tiny.make("mlp")
    torch.manual_seed(4711)
    torch.rand(3)
    before = torch.get_default_dtype()
    torch.set_default_dtype(default_dtype)
    try:
        model = get_peft_model(
            base, tiny.make_config("mlp", target_modules=["second"], gate="static"), "zero"
        )
        model.add_adapter("default", tiny.make_config("mlp", **fields))
    finally:
        torch.set_default_dtype(before)
    found = {
        key: value for key, value in model.state_dict().items() if ".neurolora_" in key and "zero" not in key
    }
    assert found.keys() == {key for key in expected if ".neurolora_" in key}
    for key, value in found.items():
        assert value.dtype == expected[key].dtype
        assert value.equal(expected[key]), key


def test_making_an_adapter_leaves_the_global_generator_alone(tiny: ModuleType) -> None:
    base = tiny.make("llama")
    torch.manual_seed(5)
    before = torch.get_rng_state()
    get_peft_model(base, tiny.make_config("llama", init_weights=False, gate_init="paper"))
    assert torch.get_rng_state().equal(before)


def test_a_base_on_the_meta_device_gets_its_adapter_when_it_leaves_it(tiny: ModuleType) -> None:
    for fields in CONFIGS.values():
        expected = adapted(tiny, "llama", fields).state_dict()
        source = tiny.make("llama")
        with torch.device("meta"):
            base = type(source)(source.config)
        model = get_peft_model(base, tiny.make_config("llama", **fields), low_cpu_mem_usage=True)
        model.to_empty(device="cpu")
        for key, value in model.state_dict().items():
            if ".neurolora_" in key:
                assert value.equal(expected[key]), key


def test_a_bare_layer_can_be_copied_without_its_model(tiny: ModuleType) -> None:
    _, layer = next(adapter_layers(adapted(tiny, "mlp", {"init_weights": False})))
    assert isinstance(layer, nn.Module)
    x = torch.randn(2, 8)
    assert copy.deepcopy(layer)(x).equal(layer(x))
