"""The configuration: everything wrong is said at once, and what is right survives being saved."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest
from peft import PeftConfig, PeftModel, get_peft_model

from neurolora import FlyLoraConfig, NeuroLoraConfig
from neurolora.errors import ConfigError


def test_defaults_are_table_5_of_the_paper() -> None:
    config = NeuroLoraConfig()
    assert (config.r, config.top_k, config.lora_alpha, config.density, config.gate_dim) == (
        32,
        8,
        16,
        0.25,
        64,
    )
    assert config.orthogonality_weight == 0.1
    assert config.scaling == 0.5


def test_flylora_has_no_gate_and_no_orthogonality_loss() -> None:
    config = FlyLoraConfig()
    assert (config.gate, config.orthogonality_weight, config.peft_type) == ("none", 0.0, "NEUROLORA")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("r", 0), ("r", 2.5), ("r", True), ("top_k", 0), ("top_k", 33), ("gate_dim", 0), ("density", 0),
        ("density", 1.5), ("density", float("nan")), ("density", "much"), ("lora_alpha", 0),
        ("lora_alpha", float("inf")), ("load_balance_rate", -1), ("orthogonality_weight", float("nan")),
        ("projection", "dense"), ("projection_scale", "none"), ("gate", "mlp"), ("gate_init", "zeros"),
        ("gate_sharing", "layer"), ("routing", "random"), ("init_weights", "zeros"), ("init_weights", 1),
        ("projection_seed", -1), ("init_seed", "a"), ("layers_pattern", "layers"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(ConfigError, match=f"`{field}`"):
        NeuroLoraConfig(**{field: value})


def test_all_problems_come_in_one_message() -> None:
    with pytest.raises(ConfigError) as caught:
        NeuroLoraConfig(r=4, top_k=8, density=2.0, gate="mlp", save_projection=False, train_projection=True)
    for word in ("`top_k` (8)", "`density`", "`gate`", "`save_projection=False`"):
        assert word in str(caught.value)


def test_saved_and_loaded_it_is_the_same(tmp_path: Path) -> None:
    config = NeuroLoraConfig(
        r=8, top_k=4, target_modules=["v_proj", "q_proj"], gate_sharing="kind", init_weights="gaussian"
    )
    config.save_pretrained(tmp_path)
    assert PeftConfig.from_pretrained(tmp_path).to_dict() == config.to_dict()


def test_the_file_has_the_modules_in_order_of_their_names() -> None:
    """PEFT writes a set as it comes, which the hash seed decides."""
    names = [f"module_{i}" for i in range(20)]
    assert NeuroLoraConfig(target_modules=names[::-1]).to_dict()["target_modules"] == sorted(names)


@pytest.mark.parametrize(
    "name", ["self_attn", "layers", "0", "", "a.b", "__base__", "neurolora", "neurolora_B"]
)
def test_an_adapter_name_that_saving_could_not_tell_apart_is_refused(tiny: ModuleType, name: str) -> None:
    with pytest.raises(ConfigError, match="adapter"):
        get_peft_model(tiny.make("llama"), tiny.make_config("llama"), adapter_name=name)
    model = get_peft_model(tiny.make("llama"), tiny.make_config("llama"))
    with pytest.raises(ConfigError, match="adapter"):
        model.add_adapter(name, model.peft_config["default"])


@pytest.mark.parametrize("name", ["self", "task_1", "gsm8k"])
def test_any_other_adapter_name_saves_and_loads_everything(
    tiny: ModuleType, name: str, tmp_path: Path
) -> None:

    model = get_peft_model(
        tiny.make("llama"), tiny.make_config("llama", init_weights=False), adapter_name=name
    )
    batch = tiny.inputs("llama")
    expected = tiny.outputs(model.eval(), batch)
    model.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(tiny.make("llama"), tmp_path / name, adapter_name=name)
    assert tiny.outputs(again, batch).equal(expected)
