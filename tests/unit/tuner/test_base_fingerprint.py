"""Another base warns and can be refused; a re-typed, resized or quantised copy of the same is the same."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model

from neurolora.errors import FingerprintMismatchError
from neurolora.tuner import base_difference, base_fingerprint, require_same_base


@pytest.fixture
def saved(tiny: ModuleType, tmp_path: Path) -> Path:
    get_peft_model(tiny.make("llama"), tiny.make_config("llama")).save_pretrained(tmp_path)
    return tmp_path


def test_other_weights_warn_naming_both(tiny: ModuleType, saved: Path) -> None:
    mine, other = base_fingerprint(tiny.make("llama")), base_fingerprint(tiny.make("llama", seed=7))
    with pytest.warns(UserWarning, match=f"{mine['digest']}.*{other['digest']}"):
        model = PeftModel.from_pretrained(tiny.make("llama", seed=7), saved)
    with pytest.raises(FingerprintMismatchError, match=f"{mine['digest']}.*{other['digest']}"):
        require_same_base(model.peft_config["default"].base_fingerprint, tiny.make("llama", seed=7))


def resized(model: Any) -> Any:
    model.resize_token_embeddings(57, mean_resizing=False)
    return model


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m,
        lambda m: m.to(torch.bfloat16),
        lambda m: m.half(),
        lambda m: m.double(),
        resized,
        lambda m: m.model,
    ],
    ids=["same", "bf16", "fp16", "fp64", "resized", "body alone"],
)
def test_a_copy_of_the_same_base_is_the_same(tiny: ModuleType, change: Any) -> None:
    fingerprint = base_fingerprint(tiny.make("llama"))
    assert base_difference(fingerprint, change(tiny.make("llama"))) is None
    assert base_difference(base_fingerprint(change(tiny.make("llama"))), tiny.make("llama")) is None


def test_loading_onto_a_bf16_copy_warns_of_nothing(tiny: ModuleType, saved: Path) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="Loading a NeuroLoRA adapter")
        PeftModel.from_pretrained(tiny.make("llama").to(torch.bfloat16), saved)


def test_an_adapter_in_the_model_and_its_training_change_nothing(tiny: ModuleType) -> None:
    model = get_peft_model(tiny.make("llama"), tiny.make_config("llama", modules_to_save=["lm_head"]))
    tiny.train(model, tiny.labelled("llama"), rate=0.1)
    assert base_difference(base_fingerprint(tiny.make("llama")), model.get_base_model()) is None
    assert base_difference(base_fingerprint(model.get_base_model()), tiny.make("llama")) is None


def test_another_architecture_is_named(tiny: ModuleType) -> None:
    difference = base_difference(base_fingerprint(tiny.make("llama")), tiny.make("gpt2"))
    assert difference is not None
    assert "'llama', 'gpt2'" in difference


def test_a_key_that_another_version_of_transformers_lacks_is_no_difference(tiny: ModuleType) -> None:
    fingerprint = copy.deepcopy(base_fingerprint(tiny.make("llama")))
    del fingerprint["architecture"]["head_dim"]
    fingerprint["architecture"]["d_ff"] = 3
    assert base_difference(fingerprint, tiny.make("llama")) is None


def test_where_nothing_is_known_nothing_is_said(tiny: ModuleType) -> None:
    assert base_difference(None, tiny.make("llama")) is None
    with torch.device("meta"):
        empty = type(tiny.make("llama"))(tiny.make("llama").config)
    assert base_difference(base_fingerprint(tiny.make("llama")), empty) is None


def test_a_model_with_a_quantised_mark_is_compared_by_what_quantisers_leave_alone(tiny: ModuleType) -> None:
    fingerprint, model = base_fingerprint(tiny.make("llama")), tiny.make("llama")
    for name, weight in model.named_parameters():
        if "proj" in name:
            weight.data = (weight.data * 8).round() / 8
    assert base_difference(fingerprint, model) is not None
    model.is_quantized = True
    assert base_difference(fingerprint, model) is None
