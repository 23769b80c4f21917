"""The one list of promised tensors: what the tuner saves is whole, and every tensor of it is missed."""

from __future__ import annotations

import itertools
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from peft import LoraConfig, get_peft_model

from neurolora.adapter_file import split_key
from neurolora.adapter_reader import AdapterReader
from neurolora.errors import AdapterError
from neurolora.merging.completeness import missing_parts, require_complete

GATES = ("token", "static", "none")
SHARINGS = ("module", "input", "kind", "model")
PROJECTIONS: tuple[dict[str, Any], ...] = (
    {},
    {"projection": "gaussian"},
    {"save_projection": False},
    {"train_projection": True},
)
BALANCES, BLOCKS = (0.0, 0.1), (1, 2)
ALL_LINEAR = {"target_modules": "all-linear", "gate_sharing": "model"}  # of two widths, so of two gates


def saved(tiny: ModuleType, folder: Path, **fields: Any) -> AdapterReader:
    get_peft_model(tiny.make("llama"), tiny.make_config("llama", **fields)).save_pretrained(folder)
    return AdapterReader(folder)


def without(source: AdapterReader, module: str, *gone: str) -> Any:
    """A stand-in for the file without these parts of a module."""
    rest = {part: key for part, key in source.modules[module].items() if part not in gone}
    modules = source.modules | {module: rest}
    return SimpleNamespace(config=source.config, modules=modules, shape_of=source.shape_of)


def check_each_is_missed(source: AdapterReader) -> None:
    assert missing_parts(source) == []
    for module, parts in source.modules.items():
        for part in parts:
            (found,) = missing_parts(without(source, module, part))
            assert found == f"{module}.{part}" or found.startswith(f"{part} (shared) of ")


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("sharing", SHARINGS)
def test_what_the_tuner_saves_is_whole_and_every_tensor_is_missed(
    tiny: ModuleType, tmp_path: Path, gate: str, sharing: str
) -> None:
    for place, (projection, balance, blocks) in enumerate(itertools.product(PROJECTIONS, BALANCES, BLOCKS)):
        fields = {"gate": gate, "gate_sharing": sharing, "load_balance_rate": balance, "blocks": blocks}
        with saved(tiny, tmp_path / str(place), **fields, **projection) as source:
            check_each_is_missed(source)


@pytest.mark.parametrize("projection", [PROJECTIONS[0], PROJECTIONS[1], PROJECTIONS[3]], ids=str)
def test_each_width_has_a_shared_gate_of_its_own(
    tiny: ModuleType, tmp_path: Path, projection: dict[str, Any]
) -> None:
    with saved(tiny, tmp_path, **ALL_LINEAR, **projection) as source:
        assert sum("gate_W1" in key for key in source.entries) == 2
        check_each_is_missed(source)


def test_a_gate_that_is_there_is_not_missed_where_no_width_is_known(tiny: ModuleType, tmp_path: Path) -> None:
    with saved(tiny, tmp_path, **ALL_LINEAR, save_projection=False) as source:
        assert missing_parts(source) == []


@pytest.mark.parametrize("fields", [{}, {"use_dora": True}], ids=str)
def test_both_halves_of_lora_and_the_magnitude_of_dora(
    tiny: ModuleType, tmp_path: Path, fields: dict[str, Any]
) -> None:
    get_peft_model(tiny.make("llama"), LoraConfig(**fields)).save_pretrained(tmp_path)
    with AdapterReader(tmp_path) as source:
        check_each_is_missed(source)
        module = next(iter(source.modules))
        if fields:
            left = without(source, module, "lora_A", "lora_B")
            assert missing_parts(left) == [f"{module}.lora_A", f"{module}.lora_B"]


def test_the_message_names_the_first_and_counts_the_others(stored: ModuleType, tmp_path: Path) -> None:
    folder = stored.routed(tmp_path)
    gone = [key for key in stored.read(folder) if "gate" in key and stored.MODULES[0] in key]
    gone += [key for key in stored.read(folder) if "gate" in key and stored.MODULES[1] in key]
    stored.change(folder, {key.removeprefix(stored.PREFIX): None for key in gone})
    with AdapterReader(folder) as source, pytest.raises(AdapterError, match="and 3 more") as error:
        require_complete(source)
    assert ".".join(split_key(sorted(gone)[0]) or ()) in str(error.value)
    assert str(source.path) in str(error.value)
