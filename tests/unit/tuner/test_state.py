"""The adapter's file: what is in it, and everything that can be wrong with it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import Tensor

import neurolora
from neurolora.core.projection import fingerprint
from neurolora.errors import AdapterError, FingerprintMismatchError
from neurolora.tuner import adapter_layers
from neurolora.tuner.fingerprint import combined_fingerprint

Q = "base_model.model.model.layers.0.self_attn.q_proj"


def adapted(tiny: ModuleType, **fields: Any) -> Any:
    return get_peft_model(tiny.make("llama"), tiny.make_config("llama", **{"init_weights": False, **fields}))


def state_of(model: Any) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in get_peft_model_state_dict(model).items()}


@pytest.mark.parametrize(
    ("fields", "name", "dtype"),
    [
        ({}, "neurolora_A", torch.uint8),
        ({"projection": "gaussian"}, "neurolora_A", torch.float32),
        ({"train_projection": True}, "neurolora_A_trained", torch.float32),
        ({"save_projection": False}, "neurolora_A", None),
    ],
)
def test_a_is_saved_as_signs_in_full_or_not_at_all(
    tiny: ModuleType, fields: dict[str, Any], name: str, dtype: torch.dtype | None
) -> None:
    state = state_of(adapted(tiny, **fields))
    found = [key for key in state if key.startswith(f"{Q}.neurolora_A") and key.endswith(("_A", "trained"))]
    assert found == ([f"{Q}.{name}"] if dtype else [])
    if dtype:
        width = 16 // 4 if dtype == torch.uint8 else 16
        assert (state[found[0]].dtype, tuple(state[found[0]].shape)) == (dtype, (6, width))
    assert state[f"{Q}.neurolora_A_scale"].dtype == torch.float64
    assert state[f"{Q}.neurolora_A_fingerprint"].numel() == 32


def test_every_tensor_of_the_file_is_one_of_the_model(tiny: ModuleType) -> None:
    """transformers' own loader puts tensors in place by name and shape, and asks nobody."""
    for fields in ({}, {"projection": "gaussian"}, {"train_projection": True}, {"save_projection": False}):
        model = adapted(tiny, load_balance_rate=0.1, **fields)
        own = {key.removesuffix(".default"): value for key, value in model.state_dict().items()}
        for key, value in state_of(model).items():
            assert (own[key].shape, own[key].dtype) == (value.shape, value.dtype), key


def test_fingerprints_and_the_version_are_in_the_configuration(tiny: ModuleType, tmp_path: Path) -> None:
    model = adapted(tiny)
    model.save_pretrained(tmp_path)
    config = model.peft_config["default"]
    parts = {layer.name: fingerprint(layer.projection("default")) for _, layer in adapter_layers(model)}
    assert config.projection_fingerprint == combined_fingerprint(parts)
    assert config.neurolora_version == neurolora.__version__
    assert config.base_fingerprint["architecture"]["hidden_size"] == 16


@pytest.mark.parametrize(
    ("sharing", "own"), [("module", 8), ("input", 4), ("kind", 4), ("model", 1)]
)  # q, k, v read the same tensor and o another: two W1 for each of two layers
def test_a_shared_gate_is_stored_once(tiny: ModuleType, sharing: str, own: int) -> None:
    state = state_of(adapted(tiny, gate_sharing=sharing))
    assert len([key for key in state if key.endswith("gate_W1")]) == own
    assert len([key for key in state if key.endswith("gate_W2")]) == (8 if sharing == "input" else own)


def test_the_lender_is_the_first_adapted_module_of_each_adapter(tiny: ModuleType) -> None:
    model = adapted(tiny, gate_sharing="kind", layers_to_transform=[1])
    model.add_adapter("other", tiny.make_config("llama", gate_sharing="model", init_seed=3))
    layers = dict(adapter_layers(model))
    first, second = f"{Q}", f"{Q}".replace("layers.0", "layers.1")
    assert "default" not in layers[first].settings
    assert layers[second].gate_lender["default"] is None
    assert layers[second].gate_lender["other"] is layers[first]
    model.delete_adapter("other")
    model.add_adapter("other", tiny.make_config("llama", gate_sharing="model", layers_to_transform=[1]))
    assert layers[second].gate_lender["other"] is None
    batch = tiny.inputs("llama")
    model.set_adapter("other")
    tiny.outputs(model, batch)


def damaged(state: dict[str, Tensor], **changes: Any) -> dict[str, Tensor]:
    state = dict(state)
    for key, value in changes.items():
        name = f"{Q}.{key}"
        if value is None:
            del state[name]
        else:
            state[name] = value(state[name])
    return state


BAD: list[tuple[str, dict[str, Callable[[Tensor], Tensor] | None], str]] = [
    ("no B", {"neurolora_B": None}, "neurolora_B is missing"),
    (
        "no A, no fingerprint",
        {"neurolora_A": None, "neurolora_A_fingerprint": None},
        "neurolora_A_fingerprint",
    ),
    ("no scale", {"neurolora_A_scale": None}, "neurolora_A_scale is missing"),
    ("no fingerprint", {"neurolora_A_fingerprint": None}, "neurolora_A_fingerprint is missing"),
    ("short fingerprint", {"neurolora_A_fingerprint": lambda t: t[:5]}, r"\(5,\).*needs \(32,\)"),
    ("no gate", {"neurolora_gate_W2": None}, "neurolora_gate_W2 is missing"),
    ("B cut short", {"neurolora_B": lambda t: t[:-1]}, r"\(15, 6\).*needs \(16, 6\)"),
    ("A cut short", {"neurolora_A": lambda t: t[:, :-1]}, r"\(6, 3\).*needs \(6, 4\)"),
    ("B empty", {"neurolora_B": lambda t: t[:0]}, "no elements.*neurolora_B"),
    ("A of floats", {"neurolora_A": lambda t: torch.ones(6, 4)}, "needs torch.uint8"),
    ("A with damage", {"neurolora_A": lambda t: t ^ 3}, "damaged"),
    ("A with no entries", {"neurolora_A": lambda t: t | 2}, "damaged"),
]


@pytest.mark.parametrize(("changes", "says"), [row[1:] for row in BAD], ids=[row[0] for row in BAD])
def test_a_damaged_file_is_refused_naming_the_tensor(tiny: ModuleType, changes: Any, says: str) -> None:
    state = state_of(adapted(tiny))
    with pytest.raises(AdapterError, match=says):
        set_peft_model_state_dict(adapted(tiny), damaged(state, **changes))


@pytest.mark.parametrize(
    "key", [f"{Q}.neurolora_C", f"{Q}x.neurolora_B", "base_model.model.nowhere.weight", "x"]
)
def test_a_tensor_too_many_is_refused(tiny: ModuleType, key: str) -> None:
    state = {**state_of(adapted(tiny)), key: torch.ones(2)}
    with pytest.raises(AdapterError, match="belongs to no module"):
        set_peft_model_state_dict(adapted(tiny), state)


def test_several_problems_come_together(tiny: ModuleType) -> None:
    state = damaged(state_of(adapted(tiny)), neurolora_B=None, neurolora_gate_W1=None)
    with pytest.raises(AdapterError, match=r"neurolora_B is missing.*neurolora_gate_W1 is missing"):
        set_peft_model_state_dict(adapted(tiny), state)


def test_a_truncated_file_is_an_error(tiny: ModuleType, tmp_path: Path) -> None:
    adapted(tiny).save_pretrained(tmp_path)
    path = tmp_path / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(Exception, match=r"(?i)header|incomplete|invalid|metadata"):
        PeftModel.from_pretrained(tiny.make("llama"), tmp_path)


def test_another_a_is_refused_naming_both(tiny: ModuleType) -> None:
    mine, other = adapted(tiny), adapted(tiny, projection_seed=1)
    state = state_of(mine)
    state[f"{Q}.neurolora_A"] = state_of(other)[f"{Q}.neurolora_A"]
    layers = dict(adapter_layers(mine)), dict(adapter_layers(other))
    wanted, found = (fingerprint(named[Q].projection("default"))[:16] for named in layers)
    with pytest.raises(FingerprintMismatchError, match=f"{wanted}.*{found}"):
        set_peft_model_state_dict(adapted(tiny), state)


def test_another_seed_without_a_saved_a_is_refused_naming_both(tiny: ModuleType) -> None:
    mine, other = (
        adapted(tiny, save_projection=False),
        adapted(tiny, save_projection=False, projection_seed=1),
    )
    layers = dict(adapter_layers(mine)), dict(adapter_layers(other))
    wanted, found = (fingerprint(named[Q].projection("default"))[:16] for named in layers)
    with pytest.raises(FingerprintMismatchError, match=f"{wanted}.*{found}"):
        set_peft_model_state_dict(other, state_of(mine))


def test_a_saved_a_wins_over_the_seed(tiny: ModuleType) -> None:
    mine, other = adapted(tiny), adapted(tiny, projection_seed=1)
    set_peft_model_state_dict(other, state_of(mine))
    batch = tiny.inputs("llama")
    assert tiny.outputs(other.eval(), batch).equal(tiny.outputs(mine.eval(), batch))
    other.peft_config["default"].save_projection = False
    with pytest.raises(AdapterError, match="loaded from elsewhere"):
        get_peft_model_state_dict(other)


def test_modules_saved_in_full_are_no_strangers(tiny: ModuleType, tmp_path: Path) -> None:
    model = adapted(tiny, modules_to_save=["lm_head"])
    model.save_pretrained(tmp_path)
    assert "base_model.model.lm_head.weight" in load_file(tmp_path / "adapter_model.safetensors")
    PeftModel.from_pretrained(tiny.make("llama"), tmp_path)


def test_a_base_of_another_shape_is_an_error_that_names_both_shapes(tiny: ModuleType, tmp_path: Path) -> None:
    adapted(tiny).save_pretrained(tmp_path)
    base = tiny.make("llama")
    config = copy.deepcopy(base.config)
    config.hidden_size = 32
    with pytest.raises(AdapterError, match=r"\(16, 6\).*needs \(32, 6\)"):
        PeftModel.from_pretrained(type(base)(config), tmp_path)


def test_half_keeps_a_and_its_fingerprint(tiny: ModuleType) -> None:
    model = adapted(tiny, projection="gaussian", load_balance_rate=0.1)
    before = state_of(model)[f"{Q}.neurolora_A"]
    model.half()
    model.to(torch.bfloat16)
    layer = dict(adapter_layers(model))[Q]
    assert layer.neurolora_A["default"].equal(before)
    assert layer.neurolora_bias["default"].dtype == torch.float32
    assert layer.neurolora_B["default"].dtype == torch.bfloat16


def test_a_safetensors_file_of_the_state_loads_again(tiny: ModuleType, tmp_path: Path) -> None:
    model = adapted(tiny, train_projection=True)
    save_file(state_of(model), tmp_path / "state.safetensors")
    other = adapted(tiny, train_projection=True, projection_seed=5)
    set_peft_model_state_dict(other, load_file(tmp_path / "state.safetensors"))
    batch = tiny.inputs("llama")
    assert tiny.outputs(other.eval(), batch).equal(tiny.outputs(model.eval(), batch))


def test_a_trained_a_has_the_fingerprint_of_what_is_saved(tiny: ModuleType) -> None:
    model = adapted(tiny, train_projection=True)
    before = dict(model.state_dict())
    at_start = before[f"{Q}.neurolora_A_fingerprint.default"].clone()
    tiny.train(model, tiny.labelled("llama"))
    state = state_of(model)
    A = state[f"{Q}.neurolora_A_trained"]
    digest = list(bytes.fromhex(fingerprint(A, 1.0)))
    assert state[f"{Q}.neurolora_A_fingerprint"].tolist() == digest
    assert before[f"{Q}.neurolora_A_fingerprint.default"].tolist() == digest
    assert at_start.tolist() != digest
