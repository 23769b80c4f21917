"""Plain LoRA and DoRA: merged as the true deltas, never as A and B apart."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor

from neurolora.errors import AdapterError
from neurolora.merging import merge_adapters
from neurolora.merging.arithmetic import Coefficients, ties

TARGETS = ["q_proj", "v_proj"]
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


@pytest.fixture
def base(tiny: Any, tmp_path: Path) -> Path:
    tiny.make("llama").save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def load_base(base: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(base)


def make(base: Path, name: str, seed: int, **fields: Any) -> Path:
    torch.manual_seed(seed)
    config = LoraConfig(**{"r": 4, "lora_alpha": 8, "target_modules": TARGETS, **fields})
    model = get_peft_model(load_base(base), config)
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            if "lora_" in parameter_name:
                parameter.add_(0.3 * torch.randn_like(parameter))
    model.save_pretrained(base.parent / name)
    return base.parent / name


def deltas(base: Path, adapter: Path) -> dict[str, Tensor]:
    """What PEFT itself changes in the weights when it folds an adapter in."""
    before = dict(load_base(base).named_parameters())
    after = PeftModel.from_pretrained(load_base(base), adapter).merge_and_unload().named_parameters()
    return {name: (p - before[name]).detach() for name, p in after if any(t in name for t in TARGETS)}


def merged(base: Path, paths: list[Path], **how: Any) -> dict[str, Tensor]:
    merge_adapters(paths, base.parent / "merged", **how)
    return deltas(base, base.parent / "merged")


VARIANTS: list[dict[str, Any]] = [
    {},
    {"use_rslora": True},
    {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"v_proj": 3}},
    {"use_dora": True},
]


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
@pytest.mark.parametrize("method", ["linear", "task_arithmetic", "concat"])
def test_sums_are_those_of_the_deltas(base: Path, variant: dict[str, Any], method: str) -> None:
    paths = [make(base, f"p{seed}", seed, **variant) for seed in range(3)]
    weights = [1.0, 0.5, 2.0]
    found = merged(base, paths, method=method, weights=weights)
    own = [deltas(base, path) for path in paths]
    divisor = sum(weights) if method == "linear" else 1.0
    for name, delta in found.items():
        expected = sum(w * each[name] for w, each in zip(weights, own, strict=True)) / divisor
        torch.testing.assert_close(delta, expected, **CLOSE)


def test_ties_works_on_the_deltas_entry_by_entry(base: Path) -> None:
    """With ranks that add up to the width nothing is cut off, so the result is exact."""
    paths = [make(base, f"p{seed}", seed, r=8) for seed in range(3)]
    found = merged(base, paths, method="ties", density=0.4)
    own = [deltas(base, path) for path in paths]
    numbers = Coefficients((1.0,) * 3, (0.4,) * 3)
    for name, delta in found.items():
        torch.testing.assert_close(delta, ties([each[name] for each in own], numbers), rtol=1e-3, atol=1e-4)


def test_what_is_cut_off_is_said(base: Path) -> None:
    paths = [make(base, f"p{seed}", seed, r=1) for seed in range(2)]
    result = merge_adapters(paths, base.parent / "merged", method="ties", density=0.5)
    assert any("of their energy" in note for note in result.notes)


def test_averaging_a_and_b_apart_is_something_else(base: Path) -> None:
    """The way of FlyLoRA's published script, as a negative example: not even near the mean of the deltas."""
    generator = torch.Generator().manual_seed(0)
    pairs = [
        (torch.randn(64, 8, generator=generator), torch.randn(8, 64, generator=generator)) for _ in range(4)
    ]
    mean = sum(B @ A for B, A in pairs) / 4
    apart = (sum(B for B, _ in pairs) / 4) @ (sum(A for _, A in pairs) / 4)
    cosine = torch.nn.functional.cosine_similarity(mean.flatten(), apart.flatten(), dim=0)
    assert 0.4 < cosine < 0.6


def test_lora_and_routed_adapters_do_not_mix(base: Path, tiny: Any) -> None:
    get_peft_model(load_base(base), tiny.make_config("llama")).save_pretrained(base.parent / "routed")
    with pytest.raises(AdapterError, match="is of type NEUROLORA, not LORA"):
        merge_adapters([make(base, "plain", 0), base.parent / "routed"], base.parent / "merged")


def test_other_bases_and_other_modules_are_refused(base: Path) -> None:
    first, second = make(base, "a", 0), make(base, "b", 1, target_modules=["q_proj"])
    with pytest.raises(AdapterError, match="modules"):
        merge_adapters([first, second], base.parent / "merged")


def test_an_embedding_is_refused_by_its_name(base: Path) -> None:
    paths = [make(base, f"p{seed}", seed, target_modules=["embed_tokens"]) for seed in range(2)]
    with pytest.raises(AdapterError, match="embed_tokens"):
        merge_adapters(paths, base.parent / "merged", method="task_arithmetic")
    assert not (base.parent / "merged").exists()


def test_peft_loads_what_is_written_without_a_warning(base: Path) -> None:
    merge_adapters([make(base, "one", 1), make(base, "two", 2)], base.parent / "merged")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        LoraConfig.from_pretrained(base.parent / "merged")
