import json

import pytest
import torch
from safetensors.torch import save_file

from neurolora.adapter_file import split_key
from neurolora.core.accounting import AdaptedModule, model_parameters
from neurolora.errors import AdapterError, FingerprintMismatchError
from neurolora.report.inspection import inspect_adapter, mean_squared_cosine

R, K, WIDTH, OUT, BOTTLENECK = 8, 2, 12, 10, 4  # as conftest builds them


def drop(tensors, *endings):
    return {key: tensor for key, tensor in tensors.items() if not key.endswith(endings)}


def test_parameters_are_those_of_the_equations(adapter, make):
    modules = [AdaptedModule(name, WIDTH, OUT) for name in make.modules]
    expected = model_parameters(modules, R, K, "token", BOTTLENECK)
    counts = inspect_adapter(adapter).parameters
    assert (counts.trainable, counts.stored, counts.active) == (
        expected.trainable,
        expected.stored,
        expected.active,
    )


def test_norms_and_orthogonality_are_those_of_a_slow_loop(adapter, make):
    facts = inspect_adapter(adapter)
    for module in facts.modules:
        B = make.tensors()[f"base_model.model.{module.name}.neurolora_B"].double()
        columns = [B[:, i] for i in range(R)]
        cosines = [
            float(a @ b / (a.norm() * b.norm())) ** 2
            for i, a in enumerate(columns)
            for j, b in enumerate(columns)
            if i != j
        ]
        assert module.orthogonality == pytest.approx(sum(cosines) / len(cosines))
        assert module.rank_norms == pytest.approx([float(c.norm()) for c in columns])
        assert module.up_norm == pytest.approx(float((B**2).sum() ** 0.5))


def test_columns_of_zeros_count_as_orthogonal():
    assert mean_squared_cosine(torch.zeros(4, 3, dtype=torch.float64)) == 0.0
    assert mean_squared_cosine(torch.ones(4, 3, dtype=torch.float64)) == pytest.approx(1.0)
    assert mean_squared_cosine(torch.ones(4, 1, dtype=torch.float64)) == 0.0


def test_modules_come_in_the_models_order(adapter):
    numbers = [int(module.name.split(".")[2]) for module in inspect_adapter(adapter).modules]
    assert numbers == [0, 0, 1, 1, 2, 2, 10, 10]


def test_gate_ranges_are_told(adapter, make):
    tensors = make.tensors()
    name = make.modules[0]
    tensors[f"base_model.model.{name}.neurolora_gate_gamma"] = torch.linspace(-1, 3, R)
    make.adapter(adapter, tensors=tensors)
    gate = inspect_adapter(adapter).modules[0].gate
    assert (gate["gamma_min"], gate["gamma_max"], gate["beta_min"]) == (-1.0, 3.0, 0.0)
    W2 = tensors[f"base_model.model.{name}.neurolora_gate_W2"].double()
    assert gate["norm_W2"] == pytest.approx(float((W2**2).sum() ** 0.5))


def test_fingerprints_and_facts_are_passed_on(adapter):
    facts = inspect_adapter(adapter)
    assert facts.method == "NeuroLoRA"
    assert facts.base_model == "some/base"
    assert facts.fingerprints["projection"] == "a" * 16
    assert facts.fingerprints["base"]["weights"] == "c" * 16
    assert facts.file_bytes == (adapter / "adapter_model.safetensors").stat().st_size
    json.dumps(facts.to_dict())


def test_a_projection_without_a_gate_tells_its_width_by_its_fingerprint(tmp_path, make):
    tensors = {
        f"base_model.model.a.neurolora_{part}": tensor
        for part, tensor in make.projection("a", width=9).items()
    }
    tensors["base_model.model.a.neurolora_B"] = torch.ones(OUT, R)
    facts = inspect_adapter(make.adapter(tmp_path, make.config(gate="none"), tensors))
    assert facts.method == "FlyLoRA"
    assert facts.modules[0].in_features == 9
    assert facts.parameters.stored == R * OUT + R * 9


def test_only_a_seed_is_saved(tmp_path, make):
    tensors = drop(make.tensors(), "neurolora_A")
    facts = inspect_adapter(make.adapter(tmp_path, make.config(save_projection=False), tensors))
    assert facts.parameters.stored == facts.parameters.trainable
    assert facts.modules[0].in_features == WIDTH


def test_a_shared_gate_is_counted_once(tmp_path, make):
    tensors = drop(make.tensors(), "v_proj.neurolora_gate_W1")
    facts = inspect_adapter(make.adapter(tmp_path, make.config(gate_sharing="input"), tensors))
    whole = inspect_adapter(make.adapter(tmp_path / "whole"))
    saved = len(make.modules) // 2 * BOTTLENECK * WIDTH
    assert whole.parameters.trainable - facts.parameters.trainable == saved


def test_a_trained_projection_is_trainable(tmp_path, make):
    tensors = drop(make.tensors(), "neurolora_A")
    trained = {f"base_model.model.{name}.neurolora_A_trained": torch.ones(R, WIDTH) for name in make.modules}
    facts = inspect_adapter(make.adapter(tmp_path, make.config(train_projection=True), tensors | trained))
    modules = [AdaptedModule(name, WIDTH, OUT) for name in make.modules]
    expected = model_parameters(modules, R, K, "token", BOTTLENECK, train_projection=True)
    assert facts.parameters.trainable == facts.parameters.stored == expected.trainable
    assert facts.parameters.active == expected.active


def lora(make, folder, r=4):
    tensors = {
        "base_model.model.a.lora_A.weight": torch.ones(r, WIDTH),
        "base_model.model.a.lora_B.weight": torch.ones(OUT, r),
        "base_model.model.score.weight": torch.ones(2, 3),
    }
    return make.adapter(folder, {"peft_type": "LORA", "r": r}, tensors)


def test_plain_lora_is_read_too_and_other_tensors_are_counted(tmp_path, make):
    facts = inspect_adapter(lora(make, tmp_path))
    assert facts.method == "LoRA"
    assert facts.top_k is None
    assert facts.parameters.trainable == 4 * (WIDTH + OUT) + 6
    assert facts.parameters.active == 4 * (WIDTH + OUT)
    assert facts.parameters.other == 6
    assert facts.modules[0].in_features == WIDTH


def test_an_untrained_adapter_and_one_with_nan_are_pointed_out(tmp_path, make):
    zero = {k: torch.zeros_like(v) if k.endswith("_B") else v for k, v in make.tensors().items()}
    assert "has not been trained" in inspect_adapter(make.adapter(tmp_path / "z", tensors=zero)).notes[0]
    first = f"base_model.model.{make.modules[0]}.neurolora_B"
    one = make.tensors() | {first: torch.zeros(OUT, R)}
    assert "zero in 1 of 8" in inspect_adapter(make.adapter(tmp_path / "o", tensors=one)).notes[0]
    gate = first.replace("neurolora_B", "neurolora_gate_W2")
    wild = make.tensors() | {first: torch.full((OUT, R), float("nan"))}
    wild[gate] = torch.full((R, BOTTLENECK), float("inf"))
    assert "NaN or infinity in 1" in inspect_adapter(make.adapter(tmp_path / "n", tensors=wild)).notes[0]


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("base_model.model.a.b.neurolora_B", ("a.b", "neurolora_B")),
        ("base_model.model.a.neurolora_gate_W1", ("a", "neurolora_gate_W1")),
        ("base_model.model.a.b.lora_A.weight", ("a.b", "lora_A")),
        ("base_model.model.neurolora_B", ("", "neurolora_B")),
        ("base_model.model.score.weight", None),
    ],
)
def test_keys_are_split_into_module_and_part(key, expected):
    assert split_key(key) == expected


# ---- bad input: each with a message that names what is wrong


def test_no_folder(tmp_path):
    with pytest.raises(AdapterError, match="no such folder"):
        inspect_adapter(tmp_path / "absent")


def test_a_folder_that_is_no_adapter_gets_fitting_advice(tmp_path, make):
    with pytest.raises(AdapterError, match=r"no adapter_config\.json"):
        inspect_adapter(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(AdapterError, match="whole model"):
        inspect_adapter(tmp_path)
    make.adapter(tmp_path / "checkpoint-7")
    with pytest.raises(AdapterError, match="checkpoint-7"):
        inspect_adapter(tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"peft_type": 3}'])
def test_a_config_that_is_none(adapter, text):
    (adapter / "adapter_config.json").write_text(text)
    with pytest.raises(AdapterError, match=r"adapter_config\.json"):
        inspect_adapter(adapter)


@pytest.mark.parametrize("left", [0, 4, 100, -1])
def test_a_truncated_file(adapter, left):
    weights = adapter / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:left])
    with pytest.raises(AdapterError, match="truncated or damaged"):
        inspect_adapter(adapter)


@pytest.mark.parametrize("part", ["B", "A", "A_scale", "A_fingerprint", "gate_W1", "gate_gamma"])
def test_a_missing_tensor_is_named(adapter, make, part):
    key = f"base_model.model.{make.modules[3]}.neurolora_{part}"
    make.adapter(adapter, tensors={k: v for k, v in make.tensors().items() if k != key})
    with pytest.raises(AdapterError, match=f"missing: {make.modules[3]}.neurolora_{part}"):
        inspect_adapter(adapter)


def test_many_missing_tensors_are_counted(adapter, make):
    make.adapter(adapter, tensors=drop(make.tensors(), "neurolora_gate_W2"))
    with pytest.raises(AdapterError, match="and 3 more"):
        inspect_adapter(adapter)


def test_a_shared_gate_that_is_nowhere(adapter, make):
    tensors = drop(make.tensors(), "neurolora_gate_W1")
    make.adapter(adapter, make.config(gate_sharing="kind"), tensors)
    with pytest.raises(AdapterError, match=r"neurolora_gate_W1 \(shared\)"):
        inspect_adapter(adapter)


def test_half_of_a_plain_lora(tmp_path, make):
    folder = lora(make, tmp_path)
    save_file({"base_model.model.a.lora_B.weight": torch.ones(2, 2)}, folder / "adapter_model.safetensors")
    with pytest.raises(AdapterError, match=r"missing: a\.lora_A"):
        inspect_adapter(folder)


def test_a_file_without_any_adapter(adapter, make):
    make.adapter(adapter, tensors={"base_model.model.score.weight": torch.ones(2)})
    with pytest.raises(AdapterError, match="no tensor of a low-rank adapter"):
        inspect_adapter(adapter)


@pytest.mark.parametrize("part", ["neurolora_B", "neurolora_gate_beta", "neurolora_A"])
def test_an_empty_tensor_points_to_sharded_saving(adapter, make, part):
    key = f"base_model.model.{make.modules[0]}.{part}"
    make.adapter(adapter, tensors=make.tensors() | {key: torch.zeros(0)})
    with pytest.raises(AdapterError, match="ZeRO-3") as error:
        inspect_adapter(adapter)
    assert key in str(error.value)


def test_an_empty_tensor_beside_the_adapter_counts_too(tmp_path, make):
    folder = make.adapter(
        tmp_path, tensors=make.tensors() | {"base_model.model.score.weight": torch.zeros(0, 4)}
    )
    with pytest.raises(AdapterError, match=r"score\.weight"):
        inspect_adapter(folder)


def test_ranks_that_do_not_fit_each_other(adapter, make):
    key = f"base_model.model.{make.modules[0]}.neurolora_gate_gamma"
    make.adapter(adapter, tensors=make.tensors() | {key: torch.ones(R + 1)})
    with pytest.raises(AdapterError, match="B has 8 columns, but neurolora_gate_gamma"):
        inspect_adapter(adapter)


@pytest.mark.parametrize(("part", "shape"), [("neurolora_gate_beta", ()), ("neurolora_A", (R,))])
def test_a_tensor_with_too_few_dimensions(adapter, make, part, shape):
    key = f"base_model.model.{make.modules[0]}.{part}"
    make.adapter(adapter, tensors=make.tensors() | {key: torch.ones(shape, dtype=torch.uint8)})
    with pytest.raises(AdapterError, match=f"but {part}"):
        inspect_adapter(adapter)


def test_an_up_projection_that_is_no_matrix(adapter, make):
    key = f"base_model.model.{make.modules[0]}.neurolora_B"
    make.adapter(adapter, tensors=make.tensors() | {key: torch.ones(R)})
    with pytest.raises(AdapterError, match="B is no matrix"):
        inspect_adapter(adapter)


def test_another_projection_is_found_out(adapter, make):
    name = make.modules[0]
    other = make.projection("another name")["A"]
    make.adapter(adapter, tensors=make.tensors() | {f"base_model.model.{name}.neurolora_A": other})
    with pytest.raises(FingerprintMismatchError, match=name):
        inspect_adapter(adapter)
