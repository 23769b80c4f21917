"""Each assumption about PEFT that the registration rests on, by name: what is red is what PEFT changed."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import peft
import pytest
from packaging.specifiers import SpecifierSet
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_PREFIX_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from peft.utils.peft_types import PeftType, register_peft_method

from neurolora import autoregister
from neurolora.errors import NeuroLoraError
from neurolora.tuner import FlyLoraConfig, NeuroLoraConfig, NeuroLoraModel
from neurolora.tuner.registration import PREFIX, SUPPORTED_PEFT, peft_type, register


def test_this_peft_is_a_supported_one() -> None:
    assert peft.__version__ in SpecifierSet(SUPPORTED_PEFT)


def test_peft_still_refuses_a_name_that_is_not_in_its_enum() -> None:
    """If this fails, PEFT takes methods from outside and our one private step can go."""
    with pytest.raises((KeyError, ValueError)):
        register_peft_method(name="nobody", config_cls=NeuroLoraConfig, model_cls=NeuroLoraModel)


def test_the_enum_has_our_member_by_name_by_value_and_by_iteration() -> None:
    member = peft_type()
    assert PeftType["NEUROLORA"] is member
    assert PeftType("NEUROLORA") is member
    assert member in list(PeftType)
    assert member == "NEUROLORA"
    assert member.value == "NEUROLORA"
    assert peft_type() is member


def test_register_peft_method_has_the_arguments_that_we_give() -> None:
    names = inspect.signature(register_peft_method).parameters
    assert {"name", "config_cls", "model_cls", "prefix", "is_mixed_compatible"} <= set(names)


def test_all_three_tables_of_peft_know_the_method_by_the_enum_member() -> None:
    assert PEFT_TYPE_TO_CONFIG_MAPPING[peft_type()] is NeuroLoraConfig
    assert PEFT_TYPE_TO_TUNER_MAPPING[peft_type()] is NeuroLoraModel
    assert PEFT_TYPE_TO_PREFIX_MAPPING[peft_type()] == PREFIX


def test_the_prefix_holds_the_lower_cased_type_name() -> None:
    assert peft_type().value.lower() in PREFIX


def test_registering_again_changes_nothing() -> None:
    register(NeuroLoraConfig, NeuroLoraModel)
    assert PEFT_TYPE_TO_CONFIG_MAPPING[peft_type()] is NeuroLoraConfig


def test_a_peft_that_refuses_us_is_named_with_the_supported_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: object) -> None:
        raise KeyError("Unknown PEFT type")

    monkeypatch.setattr("neurolora.tuner.registration.register_peft_method", refuse)
    with pytest.raises(NeuroLoraError) as caught:
        register(FlyLoraConfig, NeuroLoraModel)
    assert peft.__version__ in str(caught.value)
    assert SUPPORTED_PEFT in str(caught.value)


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (BaseTuner, "_get_adapter_state_dict"),
        (BaseTuner, "_remap_adapter_state_dict_for_load"),
        (BaseTuner, "_check_merge_allowed"),
        (BaseTuner, "inject_adapter"),
        (BaseTuner, "merge_and_unload"),
        (BaseTuner, "unload"),
        (BaseTunerLayer, "_move_adapter_to_device_of_base_layer"),
        (BaseTunerLayer, "get_base_layer"),
        (BaseTunerLayer, "_cast_input_dtype"),
    ],
)
def test_what_we_override_is_there_to_be_overridden(owner: type, name: str) -> None:
    assert hasattr(owner, name), f"PEFT no longer has {owner.__name__}.{name}"


def test_the_two_state_hooks_have_the_arguments_that_we_pass_on() -> None:
    save = inspect.signature(BaseTuner._get_adapter_state_dict).parameters
    load = inspect.signature(BaseTuner._remap_adapter_state_dict_for_load).parameters
    assert {"model", "config", "adapter_name", "state_dict", "unwanted_adapter_names"} <= set(save)
    assert {"model", "config", "adapter_name", "state_dict"} <= set(load)


def test_the_name_that_means_no_adapter_is_still_peft_s() -> None:
    from peft.tuners.lora import layer as lora_layer

    assert '"__base__"' in inspect.getsource(lora_layer)


def test_forward_hooks_of_a_wrapper_still_go_through_the_tuner() -> None:
    assert "_enable_peft_forward_hooks" in inspect.getsource(peft.PeftModel.forward)


@pytest.fixture
def stand_ins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Small modules in the places of PEFT and of the tuner; the second writes down that it was imported."""
    (tmp_path / "stand_in_peft.py").write_text("loaded = True\n")
    (tmp_path / "stand_in_tuner.py").write_text("import stand_in_peft\nregistered = stand_in_peft.loaded\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(autoregister, "WATCHED", "stand_in_peft")
    monkeypatch.setattr(autoregister, "TUNER", "stand_in_tuner")
    before = list(sys.meta_path)
    yield tmp_path
    sys.meta_path[:] = before
    for name in ("stand_in_peft", "stand_in_tuner"):
        sys.modules.pop(name, None)


def ask_for_the_spec() -> None:
    """As transformers does, to see whether PEFT is installed, without importing it."""
    assert importlib.util.find_spec("stand_in_peft") is not None


@pytest.mark.parametrize(
    "steps",
    [
        ("register", "peft"),
        ("peft", "register"),
        ("register", "tuner"),
        ("register", "ask", "peft"),
        ("register", "ask", "ask", "tuner"),
        ("register", "register", "peft"),
    ],
)
def test_the_tuner_is_imported_with_peft_whatever_comes_first(
    stand_ins: Path, steps: tuple[str, ...]
) -> None:
    actions = {
        "register": autoregister.register_with_peft,
        "peft": lambda: importlib.import_module("stand_in_peft"),
        "tuner": lambda: importlib.import_module("stand_in_tuner"),
        "ask": ask_for_the_spec,
    }
    for step in steps:
        actions[step]()
    assert sys.modules["stand_in_tuner"].registered
    assert not any(type(finder).__name__ == "_PeftFinder" for finder in sys.meta_path)


def test_until_peft_is_imported_the_tuner_is_not(stand_ins: Path) -> None:
    autoregister.register_with_peft()
    ask_for_the_spec()
    assert "stand_in_tuner" not in sys.modules


def test_importing_neurolora_alone_imports_no_peft() -> None:
    code = "import sys, neurolora; print('peft' in sys.modules, 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
