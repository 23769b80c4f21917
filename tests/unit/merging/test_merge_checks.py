"""Every reason to refuse a merge, alone and together; what can be overridden and what cannot."""

import copy
import re

import pytest
import torch

from neurolora.errors import AdapterError, ConfigError, FingerprintMismatchError
from neurolora.merging import examine_merge, merge_adapters
from neurolora.merging.likeness import base_difference
from neurolora.merging.request import MergeRequest, make_parents


def refused(make, tmp_path, *, kind=AdapterError, force=(), tensors=None, **changes):
    """Merge a good adapter with one that differs; the message. Nothing may be there afterwards."""
    first = make.adapter("first", 0)
    other = make.adapter("other", 1, tensors_=tensors, **changes)
    with pytest.raises(kind) as error:
        merge_adapters([first, other], tmp_path / "out", force=force)
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".out*"))
    return str(error.value)


def test_another_projection_names_both_and_points_to_concat(make, tmp_path):
    tensors = make.tensors(1, projection_seed=5)
    message = refused(make, tmp_path, kind=FingerprintMismatchError, tensors=tensors)
    for made in (make.tensors(0), tensors):
        assert bytes(made[make.key("neurolora_A_fingerprint")].tolist()).hex()[:16] in message
    assert "A differs in 3 of 3 modules" in message
    assert "merge_method: concat" in message


def test_a_projection_that_is_not_what_it_says(make, tmp_path):
    tensors = make.tensors(1)
    tensors[make.key("neurolora_A")] = make.tensors(1, projection_seed=5)[make.key("neurolora_A")]
    assert "(damaged)" in refused(make, tmp_path, kind=FingerprintMismatchError, tensors=tensors)


def test_a_first_parent_that_is_damaged(make, tmp_path):
    tensors = make.tensors(0)
    tensors[make.key("neurolora_A")] = make.tensors(0, projection_seed=5)[make.key("neurolora_A")]
    folder = make.adapter("bad", tensors_=tensors)
    with pytest.raises(FingerprintMismatchError, match="damaged"):
        merge_adapters([folder], tmp_path / "out")


def test_a_file_with_only_the_seed_fits_one_with_the_whole_a(make, tmp_path):
    short = {k: t for k, t in make.tensors(1).items() if not k.endswith("neurolora_A")}
    seed_only = make.adapter("s", tensors_=short, save_projection=False)
    whole = make.adapter("w", 0)
    for order in ([seed_only, whole], [whole, seed_only]):
        out = tmp_path / f"out-{order[0].name}"
        merge_adapters(order, out)
        assert (make.key("neurolora_A") in make.load(out)) == (order[0] == whole)
    other = {k: t for k, t in make.tensors(1, projection_seed=5).items() if not k.endswith("neurolora_A")}
    message = refused(make, tmp_path, tensors=other, save_projection=False)
    assert "A differs" in message


@pytest.mark.parametrize(
    ("changes", "name", "values"),
    [
        ({"r": 4}, "ranks", ("8", "4")),
        ({"top_k": 3}, "top_k", ("2", "3")),
        ({"routing": "signed"}, "routing", ("'abs'", "'signed'")),
        ({"gate": "none"}, "gate", ("'token'", "'none'")),
        ({"gate_sharing": "input"}, "gate", ("'module'", "'input'")),
        ({"gate_dim": 5}, "gate", ("4", "5")),
    ],
)
def test_other_settings_are_named_with_both_values(make, tmp_path, changes, name, values):
    message = refused(make, tmp_path, **changes)
    line = next(line for line in message.splitlines() if line.strip().startswith(f"- {name}:"))
    assert all(value in line for value in values)
    assert "first" in line
    assert "other" in line


def test_other_modules(make, tmp_path):
    message = refused(make, tmp_path, tensors=make.tensors(1, modules=make.modules[:2]))
    assert f"adapts {make.modules[2]}" in message


def test_other_shapes(make, tmp_path):
    tensors = make.tensors(1) | {make.key("neurolora_B"): torch.zeros(7, 8)}
    message = refused(make, tmp_path, tensors=tensors)
    assert "(10, 8)" in message
    assert "(7, 8)" in message


@pytest.mark.parametrize("part", ["B", "A", "A_scale", "A_fingerprint", "gate_W1", "gate_gamma"])
def test_missing_tensors(make, tmp_path, part):
    tensors = {k: t for k, t in make.tensors(1).items() if k != make.key(f"neurolora_{part}")}
    assert f"lacks {make.modules[0]}.neurolora_{part}" in refused(make, tmp_path, tensors=tensors)


def test_a_shared_gate_that_is_nowhere(make, tmp_path):
    tensors = {k: t for k, t in make.tensors(1).items() if "gate_W1" not in k}
    assert "gate_W1 (shared)" in refused(make, tmp_path, tensors=tensors, gate_sharing="input")


def test_a_missing_routing_bias(make, tmp_path):
    assert "neurolora_bias" in refused(make, tmp_path, load_balance_rate=0.01)


def test_another_kind_of_adapter(make, tmp_path):
    assert "of type LORA" in refused(make, tmp_path, peft_type="LORA")


def test_nan_is_refused_before_anything_is_there(make, tmp_path):
    tensors = make.tensors(1)
    tensors[make.key("neurolora_B")][0, 0] = float("nan")
    message = refused(make, tmp_path, tensors=tensors)
    assert make.key("neurolora_B") in message
    assert "other" in message


def other_base(make, **changes):
    return {"base_fingerprint": copy.deepcopy(make.base) | {"digest": "c" * 16} | changes}


def test_another_base(make, tmp_path):
    sample = {"layers.0.weight": [9.0, 8.0, 7.0, 6.0]}
    message = refused(make, tmp_path, kind=FingerprintMismatchError, **other_base(make, sample=sample))
    assert "b" * 16 in message
    assert "c" * 16 in message
    architecture = {"hidden_size": 24}
    message = refused(
        make, tmp_path, kind=FingerprintMismatchError, **other_base(make, architecture=architecture)
    )
    assert "hidden_size" in message


def test_a_base_is_compared_with_the_tuners_tolerance():
    first = {"architecture": {"a": 1}, "sample": {"w": [1.0, 2.0, 3.0, 4.0]}, "digest": "x"}
    rounded = {"architecture": {"b": 2}, "sample": {"w": [1.001, 2.0, 3.0, 4.0]}, "digest": "y"}
    assert base_difference(first, rounded) is None
    assert base_difference(first, rounded | {"sample": {"w": [1.1, 2.0, 3.0, 4.0]}}) is not None
    assert base_difference(first, rounded | {"sample": {"other": [9.0]}}) is None


def test_an_unknown_base_is_noted_and_not_compared(make, tmp_path):
    result = merge_adapters([make.adapter("a"), make.adapter("b", 1, base_fingerprint=None)], tmp_path / "o")
    assert "it was not compared" in result.notes[0]


def write_tokenizers(tmp_path, name, first, other):
    for folder, text in (("first", first), ("other", other)):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / name).write_text(text)


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_another_tokenizer(make, tmp_path, name):
    write_tokenizers(tmp_path, name, '{"bos": "<s>", "model": [1, 2]}', '{"model": [1, 2], "bos": "<b>"}')
    assert f'{name} of {tmp_path / "first"} and {tmp_path / "other"}: bos is "<s>" and "<b>"' in refused(
        make, tmp_path
    )
    write_tokenizers(tmp_path, name, f'{{"model": {[1] * 30}}}', f'{{"model": {[2] * 30}}}')
    assert re.search(r"model is [0-9a-f]{16} and [0-9a-f]{16}", refused(make, tmp_path))
    write_tokenizers(tmp_path, name, '{"a": 1}', "no json")
    assert re.search(r"fingerprints [0-9a-f]{16} and [0-9a-f]{16}", refused(make, tmp_path))


@pytest.mark.parametrize(
    ("name", "first", "other"),
    [
        (
            "tokenizer_config.json",
            '{"bos": 1, "local_files_only": true}',
            '{"local_files_only": false, "bos": 1}',
        ),
        ("tokenizer_config.json", '{"bos": 1, "name_or_path": "a"}', '{"bos": 1}'),
        (
            "tokenizer.json",
            '{"model": 1, "truncation": {"max_length": 8}}',
            '{"model": 1, "truncation": null}',
        ),
    ],
)
def test_a_tokenizer_that_was_only_loaded_otherwise_is_the_same(make, tmp_path, name, first, other):
    make.adapter("first")
    make.adapter("other", 1)
    write_tokenizers(tmp_path, name, first, other)
    merge_adapters([tmp_path / "first", tmp_path / "other"], tmp_path / "out")
    assert (tmp_path / "out" / name).read_text() == first


HEAD = "base_model.model.score.weight"


def test_equal_heads_are_kept_and_other_ones_refused(make, tmp_path):
    tensors = [make.tensors(i) | {HEAD: torch.ones(2, 3)} for i in (0, 1)]
    folders = [
        make.adapter(n, tensors_=t, modules_to_save=["score"]) for n, t in zip("ab", tensors, strict=True)
    ]
    merge_adapters(folders, tmp_path / "kept")
    assert torch.equal(make.load(tmp_path / "kept")[HEAD], torch.ones(2, 3))
    assert make.read_config(tmp_path / "kept")["modules_to_save"] == ["score"]
    tensors[1][HEAD] = torch.zeros(2, 3)
    make.adapter("b", tensors_=tensors[1], modules_to_save=["score"])
    with pytest.raises(AdapterError, match="score"):
        merge_adapters(folders, tmp_path / "no")
    result = merge_adapters(folders, tmp_path / "without", force=["heads"])
    assert HEAD not in make.load(tmp_path / "without")
    assert make.read_config(tmp_path / "without")["modules_to_save"] is None
    assert "heads" in result.forced[0]


def test_a_head_in_one_of_them_only(make, tmp_path):
    message = refused(make, tmp_path, tensors=make.tensors(1) | {HEAD: torch.ones(2, 3)})
    assert "in one of them only" in message


@pytest.mark.parametrize(
    ("name", "changes"), [("top_k", {"top_k": 3}), ("routing", {"routing": "signed"}), ("base", None)]
)
def test_force_overrides_what_it_names_and_the_card_says_so(make, tmp_path, name, changes):
    changes = changes or other_base(make, sample={"layers.0.weight": [9.0, 8.0, 7.0, 6.0]})
    folders = [make.adapter("a", 0), make.adapter("b", 1, **changes)]
    result = merge_adapters(folders, tmp_path / "out", force=[name])
    assert len(result.forced) == 1
    assert result.forced[0].startswith(f"{name}: ")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "Overridden checks" in card
    assert f"- {name}: " in card
    others = [check for check in ("top_k", "routing", "base") if check != name]
    with pytest.raises(AdapterError):
        merge_adapters(folders, tmp_path / "no", force=others)


@pytest.mark.parametrize("name", ["A", "shapes", "complete", "modules", "ranks", "gate", "method"])
def test_what_cannot_be_overridden(make, tmp_path, name):
    assert "cannot be overridden" in refused(make, tmp_path, kind=ConfigError, force=[name])


def test_a_check_that_there_is_not(make, tmp_path):
    assert "no such check" in refused(make, tmp_path, kind=ConfigError, force=["bse"])


def test_all_problems_are_in_one_message(make, tmp_path):
    changes = other_base(make, sample={"layers.0.weight": [9.0, 8.0, 7.0, 6.0]})
    tensors = make.tensors(1, projection_seed=5)
    message = refused(make, tmp_path, tensors=tensors, top_k=3, routing="signed", **changes)
    assert all(f"- {name}: " in message for name in ("A", "top_k", "routing", "base"))


def test_a_dry_run_tells_and_writes_nothing(make, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    request = MergeRequest(
        make_parents([str(make.adapter("a")), str(make.adapter("b", 1, top_k=3))], None, None)
    )
    plan = examine_merge(request)
    assert plan.modules == 3
    assert "top_k" in plan.verdict.problems[0]
    with pytest.raises(AdapterError):
        plan.verdict.require()
    assert len(sorted(tmp_path.rglob("*"))) == len(before) + 6
    bad = make.tensors(1)
    bad[make.key("neurolora_B")][0, 0] = float("nan")
    make.adapter("b", tensors_=bad)
    with pytest.raises(AdapterError, match="NaN"):
        examine_merge(request)
