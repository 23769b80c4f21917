"""The one way to a module's A: the tuner's own, however it was saved, and nothing else."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from peft import get_peft_model

from neurolora.adapter_reader import AdapterReader
from neurolora.errors import AdapterError, FingerprintMismatchError
from neurolora.merging.interference_collection import compare_adapters
from neurolora.merging.projections import projection_of
from neurolora.tuner import adapter_layers

KINDS: list[dict[str, Any]] = [
    {},
    {"gate": "none"},
    {"projection": "gaussian"},
    {"train_projection": True},
    {"blocks": 2},
    {"save_projection": False},
    {"save_projection": False, "blocks": 2},
    {"save_projection": False, "projection": "gaussian", "projection_scale": "paper", "blocks": 3},
]


def saved(tiny: ModuleType, folder: Path, **fields: Any) -> Any:
    model = get_peft_model(tiny.make("llama"), tiny.make_config("llama", **fields))
    model.save_pretrained(folder)
    return model


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_it_is_the_tuner_s_own(tiny: ModuleType, tmp_path: Path, kind: dict[str, Any]) -> None:
    model = saved(tiny, tmp_path, **kind)
    with AdapterReader(tmp_path) as source:
        for path, layer in adapter_layers(model):
            found = projection_of(source, path.removeprefix("base_model.model."))
            own = layer.projection("default")
            assert found.scale == own.scale
            assert torch.equal(found.values, own.values)


def test_a_trained_one_that_is_not_what_it_says(tiny: ModuleType, stored: ModuleType, tmp_path: Path) -> None:
    for name in "ab":
        saved(tiny, tmp_path / name, train_projection=True, init_weights=False)
    key = next(key for key in stored.read(tmp_path / "b") if key.endswith("A_trained"))
    compare_adapters([tmp_path / "a", tmp_path / "b"])
    other = {key.removeprefix(stored.PREFIX): stored.read(tmp_path / "b")[key] + 1}
    stored.change(tmp_path / "b", other)
    with pytest.raises(FingerprintMismatchError, match="damaged"):
        compare_adapters([tmp_path / "a", tmp_path / "b"])


@pytest.mark.parametrize("shape", [(), (8,), (8, 2), (8, 3, 1)])
def test_a_stored_one_of_another_shape(stored: ModuleType, tmp_path: Path, shape: tuple[int, ...]) -> None:
    folder, module = stored.routed(tmp_path), stored.MODULES[0]
    stored.change(folder, {f"{module}.neurolora_A": torch.zeros(shape, dtype=torch.uint8)})
    with AdapterReader(folder) as source, pytest.raises(FingerprintMismatchError, match=module):
        projection_of(source, module)


def test_a_stored_one_of_another_width_than_the_gate_s(stored: ModuleType, tmp_path: Path) -> None:
    folder, module = stored.routed(tmp_path), stored.MODULES[0]
    stored.change(folder, {f"{module}.neurolora_gate_W1": torch.ones(stored.BOTTLENECK, stored.WIDTH - 1)})
    with AdapterReader(folder) as source, pytest.raises(FingerprintMismatchError, match=module):
        projection_of(source, module)


def test_the_width_of_one_that_was_not_saved_must_be_known(tiny: ModuleType, tmp_path: Path) -> None:
    saved(tiny, tmp_path, save_projection=False, gate="none")
    with AdapterReader(tmp_path) as source, pytest.raises(AdapterError, match="its width is not known"):
        projection_of(source, next(iter(source.modules)))
