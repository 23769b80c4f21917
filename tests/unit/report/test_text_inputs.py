"""Inputs of adapted modules on texts: those of the base, whatever the adapter does."""

import pytest
import torch
from peft import get_peft_model
from transformers import AutoModelForCausalLM

from neurolora import NeuroLoraConfig
from neurolora.errors import ConfigError, DataError
from neurolora.merging.interference_collection import compare_adapters
from neurolora.report.text_inputs import collect_inputs, inputs_from_texts

TEXT = " ".join(f"w{i % 60}" for i in range(300))


@pytest.fixture
def base(tiny_llama, tmp_path):
    return tiny_llama.make_model(tmp_path / "model")


def adapted(base, seed):
    config = NeuroLoraConfig(
        r=8, top_k=2, gate_dim=4, init_weights=False, init_seed=seed, gate_sharing="kind"
    )
    return get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)


@pytest.fixture
def folders(base, tmp_path):
    made = []
    for seed in range(2):
        made.append(tmp_path / f"adapter{seed}")
        adapted(base, seed).save_pretrained(made[-1])
    return made


def test_inputs_are_those_of_the_base_alone(base):
    model, plain = adapted(base, 0).eval(), AutoModelForCausalLM.from_pretrained(base).eval()
    blocks = [[3, 4, 5], [6, 7, 8, 9]]
    seen = []
    plain.model.layers[1].self_attn.v_proj.register_forward_pre_hook(lambda _, x: seen.append(x[0][0]))
    with torch.no_grad():
        for block in blocks:
            plain(input_ids=torch.tensor([block]))
    found = collect_inputs(model, blocks, keep=4)
    expected = torch.cat(seen)[::2]  # every second of seven, counted over both blocks
    torch.testing.assert_close(found["model.layers.1.self_attn.v_proj"], expected)
    assert len(found) == 8
    same = found["model.layers.1.self_attn.q_proj"]
    assert same.data_ptr() == found["model.layers.1.self_attn.v_proj"].data_ptr()


def test_two_saved_adapters_on_a_text(base, folders):
    inputs = inputs_from_texts(folders, [TEXT], max_tokens=280, device="cpu")
    assert {x.shape for x in inputs.values()} == {(280, 16)}
    report = compare_adapters(folders, inputs=inputs)
    assert len(report.modules) == 8
    assert all(module.pairs[0].routing_overlap > 0 for module in report.modules)
    assert report.basis.startswith("scaling * B:")


def test_what_cannot_be_run(folders, stored, tmp_path):
    with pytest.raises(DataError, match="no token"):
        inputs_from_texts(folders, [""])
    with pytest.raises(ConfigError, match="LORA adapters"):
        inputs_from_texts([stored.lora(tmp_path / "a"), stored.lora(tmp_path / "b")], [TEXT])
