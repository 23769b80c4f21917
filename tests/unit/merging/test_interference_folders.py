"""Comparing folders: against a direct computation from their tensors, and with all that may be wrong."""

import itertools
import json
import math

import pytest
import torch

from neurolora.core.gate import modulation
from neurolora.core.routing import top_k_mask
from neurolora.errors import AdapterError, ConfigError, FingerprintMismatchError
from neurolora.merging.interference_collection import compare_adapters
from neurolora.merging.interference_report import InterferenceReport
from neurolora.merging.stored_adapter import adapters_to_compare, labels


def direct(stored, folder, name, with_A):
    """The delta from the file's tensors, formed whole in float64."""
    config = stored.read_config(folder)
    tensors = {key.removeprefix(f"{stored.PREFIX}{name}."): t for key, t in stored.read(folder).items()}
    if "lora_B.weight" in tensors:
        A, B = tensors["lora_A.weight"].double(), tensors["lora_B.weight"].double()
        return config["lora_alpha"] / B.shape[1] * B @ A
    B = config["lora_alpha"] / config["r"] * tensors["neurolora_B"].double()
    return B @ stored.projection_of(name, config).dense(torch.float64) if with_A else B


def check(stored, report, folders, with_A):
    modules = {module.name: module for module in report.modules}
    for name in stored.MODULES:
        deltas = [direct(stored, folder, name, with_A) for folder in folders]
        assert modules[name].energy == pytest.approx([float(delta.norm() ** 2) for delta in deltas])
        pairs = zip(modules[name].pairs, itertools.combinations(deltas, 2), strict=True)
        for pair, (one, two) in pairs:
            assert pair.cosine == pytest.approx(float((one * two).sum() / one.norm() / two.norm()))
            both = (one * two) != 0
            share = float((one * two < 0).sum() / both.sum())
            assert pair.signs.share == pytest.approx(share, abs=0.02)


def test_adapters_that_share_their_projection_are_compared_without_it(stored, tmp_path):
    folders = [stored.routed(tmp_path / str(seed), seed) for seed in range(3)]
    report = compare_adapters(folders)
    assert report.basis.startswith("scaling * B:")
    check(stored, report, folders, with_A=False)
    whole = torch.cat([direct(stored, folders[0], name, False) for name in stored.MODULES])
    assert report.adapters[0].energy == pytest.approx(float(whole.norm() ** 2))
    assert sum(one.energy_share for one in report.adapters) == pytest.approx(1.0)


def test_others_are_compared_by_their_whole_updates(stored, tmp_path):
    folders = [
        stored.routed(tmp_path / "a", 1),
        stored.routed(tmp_path / "b", 2, projection_seed=5),
        stored.lora(tmp_path / "c", 3),
    ]
    report = compare_adapters(folders)
    assert report.basis.startswith("scaling * B A:")
    check(stored, report, folders, with_A=True)
    assert [pair.routing_overlap is None for pair in report.pairs] == [False, True, True]


def test_an_adapter_beside_itself(stored, tmp_path):
    folder = stored.routed(tmp_path / "a")
    report = compare_adapters([folder, folder])
    assert [one.label for one in report.adapters] == ["a", "a (2)"]
    assert report.adapters[0].score == pytest.approx(0.0, abs=1e-9)
    for pair in (*report.pairs, *(module.pairs[0] for module in report.modules)):
        assert pair.cosine == pytest.approx(1.0)
        assert pair.signs.share == 0.0
        assert pair.smallest_angle == pytest.approx(0.0, abs=1e-4)
        assert pair.subspace_overlap == pytest.approx(1.0)
        assert pair.routing_overlap == 1.0
        assert 0 < pair.routing_chance < 1


def test_negated_and_orthogonal_updates(stored, tmp_path):
    first = stored.routed(tmp_path / "first")
    up = {f"{name}.neurolora_B": torch.eye(stored.OUT, stored.R) for name in stored.MODULES}
    up = {key: torch.cat([t[:, :4], torch.zeros(stored.OUT, 4)], dim=1) for key, t in up.items()}
    turned = {key: t.roll(4, dims=0) for key, t in up.items()}
    stored.change(first, up)
    negated = stored.change(stored.routed(tmp_path / "negated"), {key: -t for key, t in up.items()})
    other = stored.change(stored.routed(tmp_path / "other"), turned)
    against, beside = compare_adapters([first, negated, other]).pairs[:2]
    assert (against.cosine, against.signs.share, against.subspace_overlap) == pytest.approx((-1, 1, 1))
    assert (beside.cosine, beside.signs.entries) == (0.0, 0)
    assert beside.subspace_overlap == pytest.approx(0.0, abs=1e-12)
    assert beside.smallest_angle == pytest.approx(90.0)


def masks(stored, folder, name, x):
    """S by the equations, from the file's tensors."""
    config = stored.read_config(folder)
    part = {key.rpartition("neurolora_")[2]: t for key, t in stored.read(folder).items() if name in key}
    h = x @ stored.projection_of(name, config).dense().T
    m = modulation(x, *(part[f"gate_{which}"] for which in ("W1", "W2", "gamma", "beta")))
    return top_k_mask((h * m).abs(), config["top_k"])


def test_routing_sets_on_given_inputs(stored, tmp_path):
    folders = [stored.routed(tmp_path / str(seed), seed) for seed in range(2)]
    x = torch.randn(40, stored.WIDTH, generator=torch.Generator().manual_seed(9))
    report = compare_adapters(folders, inputs=dict.fromkeys(stored.MODULES, x))
    name = stored.MODULES[1]
    one, two = (masks(stored, folder, name, x) for folder in folders)
    expected = ((one & two).sum(-1) / (one | two).sum(-1)).double().mean()
    assert report.modules[1].pairs[0].routing_overlap == pytest.approx(float(expected))
    assert report.inputs == "the given texts"


def test_random_inputs_depend_on_their_seed_alone(stored, tmp_path):
    folders = [stored.routed(tmp_path / str(seed), seed) for seed in range(2)]
    first = compare_adapters(folders, seed=1).pairs[0].routing_overlap
    torch.manual_seed(77)
    assert compare_adapters(folders, seed=1).pairs[0].routing_overlap == first
    assert compare_adapters(folders, seed=2).pairs[0].routing_overlap != first


def test_the_report_says_what_was_drawn(stored, tmp_path):
    folders = [stored.routed(tmp_path / str(seed), seed) for seed in range(2)]
    report = compare_adapters(folders, tokens=7, seed=3)
    assert report.to_dict()["random_inputs"] == {"tokens": 7, "seed": 3}
    given = {name: torch.ones(2, stored.WIDTH) for name in stored.MODULES}
    assert compare_adapters(folders, inputs=given).random_inputs is None
    plain = [stored.lora(tmp_path / f"plain{seed}", seed) for seed in range(2)]
    assert compare_adapters(plain).random_inputs is None
    with pytest.raises(ConfigError, match="tokens is 0"):
        compare_adapters(folders, tokens=0)


def test_a_shared_gate_and_a_routing_bias_are_found(stored, tmp_path):
    own = stored.routed(tmp_path / "own")
    first, second, third = stored.MODULES
    tensors = stored.read(own)
    parts = ("W1", "W2", "gamma", "beta")
    for part in parts:  # the third module is the first one's kind
        tensors[f"{stored.PREFIX}{third}.neurolora_gate_{part}"] = tensors[
            f"{stored.PREFIX}{first}.neurolora_gate_{part}"
        ].clone()
    config = stored.read_config(own)
    stored.write(own, config, tensors)
    lent = stored.write(tmp_path / "lent", config, tensors)
    stored.change(lent, {f"{third}.neurolora_gate_{part}": None for part in parts}, gate_sharing="kind")
    assert compare_adapters([own, lent]).pairs[0].routing_overlap == 1.0
    stored.change(lent, {f"{second}.neurolora_bias": torch.arange(stored.R).float()})
    overlaps = [module.pairs[0].routing_overlap for module in compare_adapters([own, lent]).modules]
    assert overlaps[0] == overlaps[2] == 1.0
    assert overlaps[1] < 1.0


def test_only_seeds_were_saved(stored, tmp_path):
    whole = stored.routed(tmp_path / "whole", 1, projection_seed=3)
    other = stored.routed(tmp_path / "other", 2, projection_seed=4)
    expected = compare_adapters([whole, other])
    stored.change(whole, {f"{name}.neurolora_A": None for name in stored.MODULES}, save_projection=False)
    found = compare_adapters([whole, other])
    assert found.pairs == expected.pairs
    stored.change(whole, projection_seed=9)
    with pytest.raises(FingerprintMismatchError, match="save_projection"):
        compare_adapters([whole, other])


@pytest.mark.parametrize(
    ("config", "factor"),
    [
        ({}, 4.0),
        ({"use_rslora": True}, 8.0),
        ({"lora_alpha": 8}, 2.0),
        ({"alpha_pattern": {"q_proj": 2}}, 0.5),
        ({"alpha_pattern": {"k_proj": 2}}, 4.0),
    ],
)
def test_the_scaling_of_lora(stored, tmp_path, config, factor):
    with adapters_to_compare([stored.lora(tmp_path / "a", **config)]) as [adapter]:
        assert adapter.scaling("layers.0.self_attn.q_proj") == factor


def test_modules_that_not_all_have_are_named(stored, tmp_path):
    first = stored.routed(tmp_path / "a")
    second = stored.routed(tmp_path / "b", modules=(*stored.MODULES[:2], "layers.9.k_proj"))
    report = compare_adapters([first, second])
    assert [module.name for module in report.modules] == list(stored.MODULES[:2])
    assert report.left_out == {"a": [stored.MODULES[2]], "b": ["layers.9.k_proj"]}
    assert any("a: 1 modules" in note and stored.MODULES[2] in note for note in report.notes)


def test_nothing_in_common_is_an_error(stored, tmp_path):
    first, second = stored.routed(tmp_path / "a"), stored.routed(tmp_path / "b", modules=("other.k_proj",))
    with pytest.raises(AdapterError, match=r"b has 1, such as other\.k_proj"):
        compare_adapters([first, second])
    with pytest.raises(AdapterError, match="a 10, wide 20"):
        compare_adapters([first, stored.routed(tmp_path / "wide", out=20)])


def test_one_adapter_is_not_compared(stored, tmp_path):
    with pytest.raises(ConfigError, match="there are 1"):
        compare_adapters([stored.routed(tmp_path / "a")])


def test_what_is_left_out_is_said(stored, tmp_path):
    dora = stored.lora(tmp_path / "dora", use_dora=True)
    zero = {f"{name}.lora_B.weight": torch.zeros(stored.OUT, 4) for name in stored.MODULES}
    plain = stored.change(stored.lora(tmp_path / "plain"), zero | {"score.weight": torch.ones(2, 2)})
    stored.change(plain, base_model_name_or_path="another")
    report = compare_adapters([dora, plain])
    notes = " ".join(report.notes)
    assert "dora is a DoRA adapter: its magnitude is left out" in notes
    assert "plain: every B is zero" in notes
    assert "plain: 1 tensors beside the adapter" in notes
    assert "base models differ: another, base" in notes
    assert report.inputs is None
    assert [one.score is None for one in report.adapters] == [False, True]


def test_ranks_that_differ(stored, tmp_path):
    folders = [stored.routed(tmp_path / "a"), stored.routed(tmp_path / "b", r=4)]
    report = compare_adapters(folders)
    assert report.pairs[0].routing_overlap is None
    assert any("r differs" in note for note in report.notes)


@pytest.mark.parametrize("part", ["neurolora_B", "neurolora_gate_W2"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_is_refused_by_name(stored, tmp_path, part, value):
    first, second = stored.routed(tmp_path / "a"), stored.routed(tmp_path / "b")
    key = f"{stored.MODULES[1]}.{part}"
    tensor = stored.read(second)[stored.PREFIX + key].clone()
    tensor[0, 0] = value
    stored.change(second, {key: tensor})
    with pytest.raises(AdapterError, match="1 of its") as error:
        compare_adapters([first, second])
    assert key in str(error.value)
    assert str(second) in str(error.value)


def test_a_truncated_file_is_named(stored, tmp_path):
    first, second = stored.routed(tmp_path / "a"), stored.routed(tmp_path / "b")
    weights = second / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    with pytest.raises(AdapterError, match="truncated or damaged") as error:
        compare_adapters([first, second])
    assert str(weights) in str(error.value)


@pytest.mark.parametrize("part", ["neurolora_A", "neurolora_A_scale", "neurolora_B", "neurolora_gate_W1"])
def test_a_missing_tensor_is_named(stored, tmp_path, part):
    first, second = stored.routed(tmp_path / "a"), stored.routed(tmp_path / "b")
    stored.change(second, {f"{stored.MODULES[0]}.{part}": None})
    with pytest.raises(AdapterError, match=part):
        compare_adapters([first, second])


def test_other_methods_are_refused(stored, tmp_path):
    first, second = stored.routed(tmp_path / "a"), stored.lora(tmp_path / "b", peft_type="VERA")
    with pytest.raises(AdapterError, match="it is a VERA adapter"):
        compare_adapters([first, second])


def test_progress_is_told(stored, tmp_path):
    seen = []
    folders = [stored.routed(tmp_path / str(seed), seed) for seed in range(2)]
    compare_adapters(folders, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(0, 3), (1, 3), (2, 3), (3, 3)]


def test_labels_are_short_and_distinct(tmp_path):
    paths = [tmp_path / "x" / "final", tmp_path / "y" / "final", tmp_path / "y" / "last"]
    assert labels(paths) == ["x/final", "y/final", "y/last"]
    assert labels([tmp_path / "x", tmp_path / "x"]) == ["x", "x (2)"]


def test_the_report_is_plain_json(stored, tmp_path):
    folders = [stored.routed(tmp_path / str(seed), seed) for seed in range(2)]
    report = compare_adapters(folders)
    assert isinstance(report, InterferenceReport)
    found = json.loads(json.dumps(report.to_dict()))
    pair = found["modules"][0]["pairs"][0]
    assert math.isclose(sum(found["modules"][0]["energy_share"]), 1.0)
    assert {"cosine", "sign_conflict", "sign_conflict_weighted", "smallest_angle"} <= set(pair)
    assert {"score", "kept", "foreign", "mean_routing_overlap", "energy_share"} <= set(found["adapters"][0])
    assert "||M - D||^2" in found["prediction"]["formula"]
