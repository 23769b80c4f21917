"""`concat`: the merged adapter's output is the weighted sum of its parents', whatever the A of each."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model
from safetensors.torch import load_file

from neurolora.errors import AdapterError
from neurolora.merging import merge_adapters
from neurolora.tuner import adapter_layers

CLOSE = {"rtol": 1e-4, "atol": 1e-5}
KINDS: list[dict[str, Any]] = [
    {},
    {"gate": "none"},
    {"gate": "static"},
    {"gate_sharing": "input"},
    {"gate_sharing": "kind"},
    {"gate_sharing": "model"},
    {"routing": "signed"},
    {"load_balance_rate": 0.1},
    {"train_projection": True},
    {"projection": "gaussian"},
]
MIXES: list[list[dict[str, Any]]] = [
    [{}, {"projection_seed": 1}, {"projection_seed": 2}],
    [{}, {"projection": "gaussian"}, {"density": 0.5}],
    [{"projection_scale": "paper"}, {}, {"train_projection": True}],
    [{"lora_alpha": 3}, {"lora_alpha": 5, "projection_seed": 7}, {}],
]


def parents(tiny: Any, folder: Any, mix: list[dict[str, Any]], **common: Any) -> list[Any]:
    """Adapters with random B, gate and balance, saved by PEFT."""
    made = []
    for seed, own in enumerate(mix):
        fields = {"gate_init": "paper", "init_weights": False, "init_seed": seed, **common, **own}
        model = get_peft_model(tiny.make("llama"), tiny.make_config("llama", **fields))
        for _, layer in adapter_layers(model):
            for bias in layer.neurolora_bias.values():
                bias.copy_(torch.randn(len(bias), generator=torch.Generator().manual_seed(seed)))
        model.save_pretrained(folder / f"parent{seed}")
        made.append(folder / f"parent{seed}")
    return made


def updates(model: Any, x: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    """What each module's own update is for given inputs, apart from what other modules do."""
    generator = torch.Generator().manual_seed(5)
    found = []
    with torch.no_grad():
        for _, layer in adapter_layers(model):
            inputs = torch.randn(2, 3, layer.in_features, generator=generator)
            found.append(layer(inputs) - layer.base_layer(inputs))
    return found


def check(tiny: Any, folder: Any, paths: list[Any], weights: list[float], lambda_: float) -> None:
    out = folder / "merged"
    merge_adapters(paths, out, method="concat", weights=weights, lambda_=lambda_)
    merged = PeftModel.from_pretrained(tiny.make("llama"), out).eval()
    own = [updates(PeftModel.from_pretrained(tiny.make("llama"), path).eval(), {}) for path in paths]
    for i, found in enumerate(updates(merged, {})):
        expected = sum(lambda_ * w * each[i] for w, each in zip(weights, own, strict=True))
        torch.testing.assert_close(found, expected, **CLOSE)
        assert found.abs().max() > 1e-3


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_the_output_is_the_sum_of_the_parents_outputs(tiny: Any, tmp_path: Any, kind: dict[str, Any]) -> None:
    mix = [{"projection_seed": seed} for seed in range(3)]
    check(tiny, tmp_path, parents(tiny, tmp_path, mix, **kind), [1.0, 0.5, -2.0], 0.7)


@pytest.mark.parametrize("mix", MIXES, ids=str)
def test_any_mix_of_projections(tiny: Any, tmp_path: Any, mix: list[dict[str, Any]]) -> None:
    check(tiny, tmp_path, parents(tiny, tmp_path, mix), [1.0, 1.0, 1.0], 1.0)


def test_a_merged_adapter_can_be_a_parent_again(tiny: Any, tmp_path: Any) -> None:
    a, b, c = parents(tiny, tmp_path, [{"projection_seed": seed} for seed in range(3)])
    merge_adapters([a, b], tmp_path / "two", method="concat")
    check(tiny, tmp_path, [tmp_path / "two", c], [1.0, 1.0], 1.0)


def test_ternary_projections_of_one_scale_stay_packed(tiny: Any, tmp_path: Any) -> None:
    paths = parents(tiny, tmp_path, [{}, {"projection_seed": 1}])
    merge_adapters(paths, tmp_path / "merged", method="concat")
    tensors = load_file(tmp_path / "merged" / "adapter_model.safetensors")
    assert {v.dtype for k, v in tensors.items() if k.endswith("neurolora_A")} == {torch.uint8}


def test_only_the_seed_of_a_was_saved(tiny: Any, tmp_path: Any) -> None:
    paths = parents(tiny, tmp_path, [{}, {"projection_seed": 1}], save_projection=False)
    check(tiny, tmp_path, paths, [1.0, 1.0], 1.0)


@pytest.mark.parametrize(
    ("mix", "said"),
    [
        ([{}, {"r": 8}], "block_ranks"),
        ([{}, {"top_k": 3}], "top_k"),
        ([{}, {"gate": "none"}], "gate"),
        ([{}, {"routing": "signed"}], "routing"),
    ],
    ids=str,
)
def test_what_cannot_stand_side_by_side_is_refused(
    tiny: Any, tmp_path: Any, mix: list[dict[str, Any]], said: str
) -> None:
    with pytest.raises(AdapterError, match=said):
        merge_adapters(parents(tiny, tmp_path, mix), tmp_path / "merged", method="concat")
    assert not (tmp_path / "merged").exists()
