"""The merged folder: what is in it, that it is there whole or not at all, and that PEFT loads it."""

import itertools
import json
import os
import signal
import subprocess
import sys
import textwrap

import pytest
import torch

from neurolora.errors import AdapterError, ConfigError, OutputError
from neurolora.files import atomic_folder
from neurolora.merging import METHODS, MergeRequest, Parent, merge_adapters, merge_request
from neurolora.merging.arithmetic import Coefficients
from neurolora.merging.by_tensor import gate_weights

SINGLE = [name for name, row in METHODS.items() if row.least == 1]


def bits(tensor):
    return tensor.flatten().view(torch.uint8).tolist()


@pytest.mark.parametrize("method", SINGLE)
def test_one_adapter_at_weight_1_comes_back_to_the_bit(make, tmp_path, method):
    folder = make.adapter("a")
    merge_adapters([folder], tmp_path / "out", method=method)
    before, after = make.load(folder), make.load(tmp_path / "out")
    assert list(before) == list(after)
    assert all(bits(before[key]) == bits(after[key]) for key in before)
    kept = {k: v for k, v in make.read_config(tmp_path / "out").items() if k != "neurolora_version"}
    assert kept == make.read_config(folder)


def test_linear_is_the_mean_of_every_part_and_a_is_copied(make, three, tmp_path):
    merge_adapters(three, tmp_path / "out")
    parents, merged = [make.load(folder) for folder in three], make.load(tmp_path / "out")
    for key, tensor in merged.items():
        if "neurolora_A" in key:
            assert torch.equal(tensor, parents[0][key])
        else:
            assert torch.allclose(tensor, sum(p[key].double() for p in parents).float() / 3, atol=1e-6)


@pytest.mark.parametrize("method", ["linear", "task_arithmetic", "ties", "magnitude_prune"])
def test_the_order_of_the_adapters_does_not_matter(make, three, tmp_path, method):
    weights, files = [0.5, 1.0, 2.0], set()
    for place, order in enumerate(itertools.permutations(range(3))):
        merge_adapters(
            [three[i] for i in order], tmp_path / str(place), method=method,
            weights=[weights[i] for i in order],
        )  # fmt: skip
        files.add((tmp_path / str(place) / "adapter_model.safetensors").read_bytes())
    assert len(files) == 1


def test_the_same_merge_gives_the_same_files(three, tmp_path):
    for name in ("one", "two"):
        merge_adapters(three, tmp_path / name / "out", method="dare_ties", density=0.5, seed=4)
    for path in (tmp_path / "one" / "out").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / "out" / path.name).read_bytes()
    merge_adapters(three, tmp_path / "three", method="dare_ties", density=0.5, seed=5)
    name = "adapter_model.safetensors"
    assert (tmp_path / "three" / name).read_bytes() != (tmp_path / "one" / "out" / name).read_bytes()


def test_only_b_is_summed_and_gates_are_averaged(make, three, tmp_path):
    merge_adapters(three, tmp_path / "out", method="task_arithmetic", weights=[1, 2, 1], lambda_=0.5)
    parents, merged = [make.load(folder) for folder in three], make.load(tmp_path / "out")
    B, gamma = make.key("neurolora_B"), make.key("neurolora_gate_gamma")
    weighted = {k: parents[0][k] + 2 * parents[1][k] + parents[2][k] for k in (B, gamma)}
    assert torch.allclose(merged[B], 0.5 * weighted[B], atol=1e-6)
    assert torch.allclose(merged[gamma], weighted[gamma] / 4, atol=1e-6)


@pytest.mark.parametrize(
    ("weights", "expected"),
    [((1, 3), (1, 3)), ((1, -3), (1, 3)), ((2, -2), (2, 2)), ((0, 0), (1, 1)), ((0, 2), (0, 2))],
)
def test_gates_go_by_the_size_of_the_weights(weights, expected):
    assert gate_weights(Coefficients(weights), 2, "task_arithmetic") == expected


def test_slerp_averages_gates_by_its_place(make, three, tmp_path):
    merge_adapters(three[:2], tmp_path / "out", method="slerp", t=0.25)
    parents, key = [make.load(folder) for folder in three], make.key("neurolora_gate_W1")
    expected = 0.75 * parents[0][key] + 0.25 * parents[1][key]
    assert torch.allclose(make.load(tmp_path / "out")[key], expected, atol=1e-6)


def test_routing_biases_are_averaged(make, tmp_path):
    folders = []
    for index in (0, 1):
        biases = {make.key("neurolora_bias", m): torch.full((8,), float(index)) for m in make.modules}
        folders.append(
            make.adapter(f"b{index}", tensors_=make.tensors(index) | biases, load_balance_rate=0.01)
        )
    merge_adapters(folders, tmp_path / "out", method="task_arithmetic", weights=[1, 3], dtype="bfloat16")
    bias = make.load(tmp_path / "out")[make.key("neurolora_bias")]
    assert bias.dtype == torch.float32
    assert bias.tolist() == [0.75] * 8


def test_another_alpha_is_folded_into_b(make, tmp_path):
    folders = [make.adapter("a", 0), make.adapter("b", 1, lora_alpha=32)]
    result = merge_adapters(folders, tmp_path / "out", method="task_arithmetic")
    key = make.key("neurolora_B")
    expected = make.tensors(0)[key] + 2 * make.tensors(1)[key]
    assert torch.allclose(make.load(tmp_path / "out")[key], expected, atol=1e-6)
    assert make.read_config(tmp_path / "out")["lora_alpha"] == 16
    assert "scaled" in result.notes[0]
    assert "scaled" in (tmp_path / "out" / "README.md").read_text()


def test_a_density_for_each_adapter(make, three, tmp_path):
    merge_adapters(three[:2], tmp_path / "out", method="magnitude_prune", density=[1.0, 0.01])
    key = make.key("neurolora_B")
    assert torch.equal(make.load(tmp_path / "out")[key], make.tensors(0)[key])


def test_dtype_is_that_of_b_and_the_gates(make, three, tmp_path):
    merge_adapters(three, tmp_path / "out", dtype="bfloat16")
    for key, tensor in make.load(tmp_path / "out").items():
        merged = key.endswith("_B") or "gate" in key
        assert (tensor.dtype == torch.bfloat16) == merged


def test_a_result_that_does_not_fit_its_dtype_is_refused(three, tmp_path):
    with pytest.raises(AdapterError, match="does not fit"):
        merge_adapters(three, tmp_path / "out", method="task_arithmetic", lambda_=1e6, dtype="float16")
    assert not (tmp_path / "out").exists()


def test_provenance_and_card(make, three, tmp_path):
    seen = []
    result = merge_adapters(
        three, tmp_path / "out", method="ties", weights=[1, 2, 3], density=0.5, base_model="other/base",
        progress=lambda done, total: seen.append((done, total)),
    )  # fmt: skip
    found = json.loads((tmp_path / "out" / "merge.json").read_text())
    assert found["recipe"]["merge_method"] == "ties"
    assert [parent["path"] for parent in found["parents"]] == [str(folder) for folder in three]
    assert len({parent["sha256"] for parent in found["parents"]}) == 3
    assert found["parents"][1] | {"sha256": ""} == {
        "path": str(three[1]), "weight": 2.0, "density": 0.5, "sha256": "",
        "projection_fingerprint": "a" * 16, "base_fingerprint": "b" * 16,
    }  # fmt: skip
    assert found["versions"]["safetensors"]
    card = (tmp_path / "out" / "README.md").read_text()
    assert "merge_method: ties" in card
    assert "'out'" in card
    assert found["parents"][0]["sha256"][:16] in card
    assert "Overridden" not in card
    assert make.read_config(tmp_path / "out")["base_model_name_or_path"] == "other/base"
    assert seen[-1] == (result.tensors, result.tensors)
    assert result.to_dict()["output"] == str(tmp_path / "out")


def test_the_recipe_of_the_card_makes_the_adapter_again(three, tmp_path):
    import yaml

    from neurolora.merging import load_recipe

    merge_adapters(three, tmp_path / "out", method="dare_linear", weights=[1, 2, 3], density=0.5, lambda_=0.3)
    card = (tmp_path / "out" / "README.md").read_text()
    text = card.partition("```yaml\n")[2].partition("```")[0]
    assert yaml.safe_load(text)["parameters"] == {"lambda": 0.3}
    (tmp_path / "r.yaml").write_text(text)
    merge_request(load_recipe(tmp_path / "r.yaml"), tmp_path / "again")
    name = "adapter_model.safetensors"
    assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "out" / name).read_bytes()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "tise"}, "did you mean ties"),
        ({"weights": [1.0]}, "1 weights for 3 adapters"),
        ({"density": [0.5, 0.5]}, "2 densities for 3 adapters"),
        ({"density": 0.5}, "linear takes no density"),
        ({"method": "ties", "density": 0.0}, r"density: must be in \(0, 1\], found 0.0"),
        ({"method": "ties", "density": 1.5}, "found 1.5"),
        ({"method": "ties", "lambda_": float("nan")}, "finite"),
        ({"method": "dare_ties", "seed": -1}, "at least 0"),
        ({"method": "dare_ties", "seed": True}, "whole number"),
        ({"method": "slerp"}, "slerp takes 2, found 3"),
        ({"dtype": "int8"}, "must be one of float32"),
        ({"normalize": 3}, "true or false"),
    ],
)
def test_requests_that_make_no_sense(three, tmp_path, changes, message):
    with pytest.raises(ConfigError, match=message):
        merge_adapters(three, tmp_path / "out", **changes)


def test_all_problems_of_a_request_at_once(tmp_path):
    request = MergeRequest(
        (Parent("a", density=2.0), Parent("b", weight=float("inf"))), "ties", t=0.5, dtype="x"
    )
    with pytest.raises(ConfigError, match="4 problems") as error:
        merge_request(request, tmp_path / "out")
    assert "models.1.parameters.weight" in str(error.value)


# ---- whole or not at all


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_full_output_is_refused_and_overwritten_when_asked(make, three, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "precious.txt").write_text("mine")
    with pytest.raises(OutputError, match="not empty"):
        merge_adapters(three, out)
    assert names(out) == ["precious.txt"]
    merge_adapters(three, out, overwrite=True)
    assert "precious.txt" not in names(out)
    assert "adapter_model.safetensors" in names(out)
    assert names(tmp_path) == ["a", "b", "c", "out"]


def test_a_full_folder_is_refused_before_any_work(tmp_path):
    (tmp_path / "x").write_text("mine")
    with pytest.raises(OutputError, match="not empty"), atomic_folder(tmp_path):
        pytest.fail("the block was entered")


def test_what_an_interrupted_overwriting_left_comes_back_before_any_work(three, tmp_path):
    aside = tmp_path / ".out.ab12cd34.replaced"
    aside.mkdir()
    (aside / "old.txt").write_text("old")

    def work(*_args):
        pytest.fail("work was begun")

    with pytest.raises(OutputError, match="not empty"):
        merge_adapters(three, tmp_path / "out", progress=work)
    assert names(tmp_path) == ["a", "b", "c", "out"]
    assert names(tmp_path / "out") == ["old.txt"]


def test_an_empty_output_folder_is_used(three, tmp_path):
    (tmp_path / "out").mkdir()
    merge_adapters(three, tmp_path / "out")
    assert "adapter_config.json" in names(tmp_path / "out")


def test_a_parent_is_never_overwritten(three, tmp_path):
    for out in (three[1], tmp_path):
        with pytest.raises(OutputError, match="lies there"):
            merge_adapters(three, out, overwrite=True)
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="is a file"):
        merge_adapters(three, tmp_path / "file")


@pytest.mark.parametrize("where", ["save_file", "write_json", "merge_card", "shutil.copyfile"])
@pytest.mark.parametrize("error", [RuntimeError("stop"), KeyboardInterrupt(), OSError(28, "No space left")])
def test_a_failure_while_writing_leaves_what_was_there(three, tmp_path, monkeypatch, where, error):
    def fail(*_args, **_kwargs):
        raise error

    (three[0] / "tokenizer.json").write_text("{}")
    out = tmp_path / "out"
    out.mkdir()
    (out / "old.txt").write_text("old")
    target = "safetensors.torch.save_file" if where == "save_file" else f"neurolora.merging.merge.{where}"
    monkeypatch.setattr(target, fail)
    with pytest.raises(OutputError if isinstance(error, OSError) else type(error)):
        merge_adapters(three, out, overwrite=True)
    assert names(out) == ["old.txt"]
    assert names(tmp_path) == ["a", "b", "c", "out"]


def test_a_failure_in_the_middle_of_reading_leaves_nothing(three, tmp_path):
    def stop(done, _total):
        if done == 7:
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        merge_adapters(three, tmp_path / "out", progress=stop)
    assert names(tmp_path) == ["a", "b", "c"]


@pytest.mark.parametrize("where", ["neurolora.merging.merge.write_json", "neurolora.files._put_in_place"])
def test_a_killed_process_leaves_no_half_adapter(three, tmp_path, where):
    code = f"""
        import os, signal, sys
        import neurolora.files, neurolora.merging.merge as m
        module, _, name = {where!r}.rpartition(".")
        setattr(sys.modules[module], name, lambda *a, **k: os.kill(os.getpid(), signal.SIGKILL))
        m.merge_adapters({[str(folder) for folder in three]!r}, {str(tmp_path / "out")!r})
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], env={**os.environ}, check=False)
    assert done.returncode == -signal.SIGKILL
    assert not (tmp_path / "out").exists()
    assert all(name.startswith(".out.") for name in set(names(tmp_path)) - {"a", "b", "c"})
    merge_adapters(three, tmp_path / "out")


# ---- PEFT


def trained(tiny, seed):
    """A tiny Llama with an adapter that is no longer at its start."""
    from peft import get_peft_model

    model = get_peft_model(tiny.make("llama"), tiny.make_config("llama", lora_alpha=12))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model


def test_a_merged_adapter_is_loaded_and_computes_what_its_tensors_say(tiny, tmp_path):
    from peft import PeftModel, get_peft_model

    models = [trained(tiny, seed) for seed in (1, 2, 3)]
    for index, model in enumerate(models):
        model.save_pretrained(tmp_path / str(index))
    folders = [tmp_path / str(index) for index in range(3)]
    merge_adapters(folders, tmp_path / "out", method="task_arithmetic", weights=[0.5, 0.2, 0.6], lambda_=0.7)
    loaded = PeftModel.from_pretrained(tiny.make("llama"), tmp_path / "out").eval()
    by_hand = get_peft_model(tiny.make("llama"), tiny.make_config("llama", lora_alpha=12)).eval()
    states = [dict(model.named_parameters()) for model in models]
    with torch.no_grad():
        for name, parameter in by_hand.named_parameters():
            if not parameter.requires_grad:
                continue
            total = sum(w * s[name] for w, s in zip((0.5, 0.2, 0.6), states, strict=True))
            parameter.copy_(0.7 * total if "neurolora_B" in name else total / 1.3)
    batch = tiny.inputs("llama")
    assert torch.allclose(tiny.outputs(loaded, batch), tiny.outputs(by_hand, batch), atol=1e-5)
    assert not torch.allclose(tiny.outputs(loaded, batch), tiny.outputs(models[0].eval(), batch), atol=1e-2)


@pytest.mark.parametrize("sharing", ["input", "kind", "model"])
def test_shared_gates_and_static_ones_are_merged_too(tiny, tmp_path, sharing):
    from peft import PeftModel, get_peft_model

    for gate in ("token", "static", "none"):
        for seed in (1, 2):
            config = tiny.make_config("llama", gate=gate, gate_sharing=sharing)
            get_peft_model(tiny.make("llama"), config).save_pretrained(tmp_path / gate / str(seed))
        out = tmp_path / gate / "out"
        merge_adapters([tmp_path / gate / "1", tmp_path / gate / "2"], out)
        PeftModel.from_pretrained(tiny.make("llama"), out)


def test_averaging_a_and_b_apart_is_not_the_mean_of_the_deltas():
    """What the official script does with plain LoRA: for four independent adapters the cosine is near 0.5."""
    generator = torch.Generator().manual_seed(0)
    A = torch.randn(4, 8, 256, generator=generator)
    B = torch.randn(4, 256, 8, generator=generator)
    apart, true = B.mean(0) @ A.mean(0), (B @ A).mean(0)
    cosine = torch.nn.functional.cosine_similarity(apart.flatten(), true.flatten(), dim=0)
    assert cosine.item() == pytest.approx(0.5, abs=0.05)


def test_the_room_imports_nothing_until_it_is_asked():
    code = "import sys, neurolora.merging; assert not {'torch', 'peft'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("method", "weights", "normalize", "told"),
    [
        ("ties", [0.5, 0.5, 0.5], None, True),
        ("ties", [0.5, 0.5, 0.5], True, False),
        ("ties", [0.5, 0.5, 0.5], False, False),
        ("ties", None, None, False),
        ("task_arithmetic", [0.5, 0.5, 0.5], None, False),
    ],
)
def test_ties_with_weights_says_that_mergekit_would_normalise(
    three, tmp_path, method, weights, normalize, told
):
    done = merge_adapters(three, tmp_path / "out", method=method, weights=weights, normalize=normalize)
    assert any("mergekit divides" in note for note in done.notes) == told
