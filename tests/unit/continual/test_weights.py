"""What earlier tasks left, brought into a model."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file

from neurolora.continual.weights import go_on_from, put_beside, take_over

KINDS = ("neurolora", "lora")


def adapted(tiny: ModuleType, kind: str, seed: int, **fields: Any) -> Any:
    torch.manual_seed(seed)
    if kind == "lora":
        config: Any = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    else:
        config = tiny.make_config("llama", init_weights="gaussian", init_seed=seed, **fields)
    return get_peft_model(tiny.make("llama"), config)


@pytest.mark.parametrize("kind", KINDS)
def test_going_on_starts_at_the_very_bits(tiny: ModuleType, tmp_path: Path, kind: str) -> None:
    first, second = (adapted(tiny, kind, seed) for seed in (1, 2))
    first.save_pretrained(tmp_path)
    go_on_from(second, tmp_path)
    batch = tiny.inputs("llama")
    assert torch.equal(first.eval()(**batch).logits, second.eval()(**batch).logits)
    trained = [name for name, value in second.named_parameters() if value.requires_grad]
    assert trained == [name for name, value in first.named_parameters() if value.requires_grad]


@pytest.mark.parametrize("kind", KINDS)
def test_beside_it_the_past_is_summed_frozen_and_not_saved(
    tiny: ModuleType, tmp_path: Path, kind: str
) -> None:
    other = {"projection_seed": 7} if kind == "neurolora" else {}
    past, model = adapted(tiny, kind, 1), adapted(tiny, kind, 2, **other)
    past.save_pretrained(tmp_path / "past")
    model.save_pretrained(tmp_path / "alone")
    put_beside(model, tmp_path / "past")
    both = PeftModel.from_pretrained(tiny.make("llama"), tmp_path / "alone")
    both.load_adapter(str(tmp_path / "past"), "past")
    both.base_model.set_adapter(["default", "past"])
    batch = tiny.inputs("llama")
    assert torch.equal(model.eval()(**batch).logits, both.eval()(**batch).logits)
    trained = [name for name, value in model.named_parameters() if value.requires_grad]
    assert trained
    assert all(".default" in name for name in trained)
    model.save_pretrained(tmp_path / "saved")
    assert [path.name for path in (tmp_path / "saved").iterdir() if path.is_dir()] == []
    first, second = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("alone", "saved"))
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_whole_model_is_taken_over_to_the_very_bits(
    tiny: ModuleType, tmp_path: Path, dtype: torch.dtype
) -> None:
    first, second = (tiny.make("llama").to(dtype) for _ in range(2))
    with torch.no_grad():
        for value in first.parameters():
            value.add_(torch.randn_like(value))
    first.save_pretrained(tmp_path)
    take_over(second, tmp_path)
    state = second.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in first.state_dict().items())
    assert {value.dtype for value in state.values()} == {dtype}
