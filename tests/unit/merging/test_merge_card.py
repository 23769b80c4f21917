"""The model card's snippet, run as it is printed."""

import json
import os
import re
import subprocess
import sys

import pytest
import torch
import yaml
from safetensors.torch import load_file

from neurolora.merging import merge_adapters
from neurolora.merging.card import front_matter, merge_card
from neurolora.world import MODEL_ALIAS, bundled_model_path

ELSEWHERE = "/home/somebody/env/lib/python3.13/site-packages/neurolora/world/bundled"


def snippet(card):
    return re.fullmatch(r".*?```python\n(.*?)```\n.*", card, flags=re.DOTALL)[1]


def two_adapters_of_the_world(folder, method):
    """As `neurolora train` leaves them: the base is named by its alias."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    from neurolora import NeuroLoraConfig

    common = {"task_type": "CAUSAL_LM", "r": 4, "target_modules": ["q_proj", "v_proj"]}
    for seed in range(2):
        torch.manual_seed(seed)
        config = (
            NeuroLoraConfig(top_k=2, gate_dim=4, **common) if method == "NeuroLoRA" else LoraConfig(**common)
        )
        base = AutoModelForCausalLM.from_pretrained(bundled_model_path())
        model = get_peft_model(base, config)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.add_(0.1 * torch.randn_like(parameter))
        model.save_pretrained(folder / str(seed))
        path = folder / str(seed) / "adapter_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"base_model_name_or_path": MODEL_ALIAS}))
    return [folder / "0", folder / "1"]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["NeuroLoRA", "LoRA"])
def test_the_snippet_for_the_bundled_base_runs_as_printed(tmp_path, method):
    merge_adapters(two_adapters_of_the_world(tmp_path, method), tmp_path / "merged")
    card = (tmp_path / "merged" / "README.md").read_text(encoding="utf-8")
    assert "the model bundled with neurolora" in card
    assert "base_model" not in yaml.safe_load(card.split("---\n")[1])
    code = snippet(card) + "\nmodel.save_pretrained('again')\n"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env={**os.environ, "HF_HUB_OFFLINE": "1"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    merged, again = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("merged", "again"))
    assert merged.keys() == again.keys()
    assert all(torch.equal(tensor, again[name]) for name, tensor in merged.items())


def card_of(make, folder, **config):
    """The card of a merge of two, and the folder in which the snippet runs."""
    parents = [make.adapter(f"{folder}/{name}", seed, **config) for seed, name in enumerate("ab")]
    merge_adapters(parents, parents[0].parent / "merged")
    return (parents[0].parent / "merged" / "README.md").read_text(encoding="utf-8"), parents[0].parent


@pytest.mark.parametrize("base", [MODEL_ALIAS, str(bundled_model_path()), ELSEWHERE])
@pytest.mark.parametrize(
    ("task", "loader"),
    [
        ("CAUSAL_LM", "AutoModelForCausalLM"),
        (None, "AutoModelForCausalLM"),
        ("SEQ_CLS", "AutoModelForSequenceClassification"),
    ],
)
def test_the_bundled_base_is_known_by_all_its_names(make, base, task, loader):
    card, _ = card_of(make, "of", base_model_name_or_path=base, task_type=task)
    assert f"base = {loader}.from_pretrained(bundled_model_path())" in snippet(card)
    assert "AutoPeft" not in card
    assert "somebody" not in card.split("## Recipe")[0]
    compile(snippet(card), "card", "exec")


class Asked(Exception):  # noqa: N818  (it ends the snippet where the base would be loaded)
    pass


@pytest.mark.parametrize(
    ("task", "target"),
    [
        ("CAUSAL_LM", "AutoModelForCausalLM"),
        ("SEQ_CLS", "AutoModelForSequenceClassification"),
        ("TOKEN_CLS", "AutoModelForTokenClassification"),
    ],
)
def test_the_snippet_for_another_base_asks_for_its_id(make, monkeypatch, task, target):
    import transformers

    def asked(name, *_args, **_kwargs):
        raise Asked(name)

    card, folder = card_of(make, "other", base_model_name_or_path="some/base", task_type=task)
    assert "bundled" not in card
    assert "A NeuroLoRA adapter for some/base, merged" in card
    assert yaml.safe_load(card.split("---\n")[1])["base_model"] == "some/base"
    monkeypatch.chdir(folder)
    monkeypatch.setattr(getattr(transformers, target), "from_pretrained", asked)
    with pytest.raises(Asked, match=r"^some/base$"):
        exec(snippet(card), {})


def test_a_folder_that_ends_alike_is_not_the_bundled_base(make):
    for base in ("other/world/bundled", "/data/world/bundled", "neurolora/world/bundled"):
        card, _ = card_of(make, base.replace("/", "-"), base_model_name_or_path=base)
        assert "bundled_model_path" not in card
    assert "base_model: some/base" in front_matter({"base_model_name_or_path": "some/base"})


def test_a_card_without_a_base_still_has_a_snippet(make):
    recipe = {"merge_method": "linear", "models": []}
    provenance = {"parents": [], "forced": [], "notes": []}
    card = merge_card(recipe, provenance, {"peft_type": "LORA", "task_type": None}, "it's")
    assert snippet(card).endswith('model = AutoPeftModel.from_pretrained("it\'s")\n')
