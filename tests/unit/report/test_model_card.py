import json
import os
import re
import subprocess
import sys

import pytest
import torch
import yaml

from neurolora.errors import AdapterError
from neurolora.markdown import cell, fenced
from neurolora.report.model_card import model_card, write_model_card
from neurolora.world import bundled_model_path


def parts(card):
    """As the Hub's own client splits them."""
    front, body = re.fullmatch(r"---\n(.*?)\n---\n(.*)", card, flags=re.DOTALL).groups()
    return yaml.safe_load(front), body


def test_the_front_matter_is_what_the_hub_reads(run_folder):
    front, _ = parts(model_card(run_folder))
    assert front["library_name"] == "peft"
    assert front["base_model"] == "some/base"
    assert "neurolora" in front["tags"]
    assert "license" not in front
    assert "datasets" not in front


def test_hostile_names_cannot_break_the_front_matter(run_folder, make):
    name = 'a: [b\n---\nlicense: mit "'
    (run_folder / "adapter_config.json").write_text(json.dumps(make.config(base_model_name_or_path=name)))
    front, _ = parts(model_card(run_folder))
    assert "license" not in front
    assert front["base_model"] == name


def test_a_path_on_this_machine_is_not_published(run_folder, make):
    config = make.config(base_model_name_or_path="/home/me/secret/tiny-base")
    (run_folder / "adapter_config.json").write_text(json.dumps(config))
    front, body = parts(model_card(run_folder))
    assert "base_model" not in front
    assert "adapter for tiny-base" in body
    assert "secret" not in body


@pytest.mark.parametrize("base", ["world", str(bundled_model_path())])
def test_the_bundled_base_is_named_for_what_it_is(run_folder, make, base):
    config = make.config(base_model_name_or_path=base)
    (run_folder / "adapter_config.json").write_text(json.dumps(config))
    front, body = parts(model_card(run_folder))
    assert "base_model" not in front
    assert "adapter for the model bundled with neurolora" in body
    assert "from_pretrained(bundled_model_path())" in body


@pytest.mark.slow
def test_the_snippet_for_the_bundled_base_runs_as_printed(tmp_path):
    from peft import get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from neurolora import NeuroLoraConfig

    base = AutoModelForCausalLM.from_pretrained(bundled_model_path())
    adapter = NeuroLoraConfig(task_type="CAUSAL_LM", r=4, top_k=2, gate_dim=4)
    get_peft_model(base, adapter).save_pretrained(tmp_path / "run")
    AutoTokenizer.from_pretrained(bundled_model_path()).save_pretrained(tmp_path / "run")
    path = tmp_path / "run" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"base_model_name_or_path": "world"}))
    code = re.search(r"```python\n(.*?)```\n", model_card(tmp_path / "run"), flags=re.DOTALL)[1]
    code += "print(model.peft_config['default'].r, len(tokenizer))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env={**os.environ, "HF_HUB_OFFLINE": "1"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split()[0] == "4"


def test_settings_that_were_not_set_are_left_out(run_folder):
    config = json.loads((run_folder / "config.yaml").read_text())
    config["train"]["deepspeed"] = None
    (run_folder / "config.yaml").write_text(json.dumps(config))
    assert "deepspeed" not in model_card(run_folder)


@pytest.mark.parametrize(
    ("name", "listed"), [("openai/gsm8k", ["openai/gsm8k"]), ("data/rows.jsonl", None), ("/data/x", None)]
)
def test_only_a_hub_data_set_is_listed(run_folder, name, listed):
    config = json.loads((run_folder / "config.yaml").read_text())
    config["data"]["dataset_name"] = name
    (run_folder / "config.yaml").write_text(json.dumps(config))
    front, _ = parts(model_card(run_folder))
    assert front.get("datasets") == listed


def test_the_body_says_how_to_load_and_what_cannot_be_done(run_folder):
    _, body = parts(model_card(run_folder))
    assert body.index("import neurolora") < body.index("from_pretrained")
    assert "KeyError: 'NEUROLORA'" in body
    assert "cannot be merged" in body
    assert "| world-recall, acc | 0.2500 ± 0.0100 | 0.7500 ± 0.0100 |" in body
    assert "`" + "a" * 16 + "`" in body
    assert "| Trainable parameters | 1,408 |" in body
    assert "| torch | 2.13.0 |" in body


def test_tables_are_whole(run_folder):
    lines = model_card(run_folder).splitlines()
    tables = [i for i, line in enumerate(lines) if line.startswith("|---")]
    assert len(tables) == 4
    for i in tables:
        rows = [lines[i - 1]]
        for line in lines[i:]:
            if not line.startswith("|"):
                break
            rows.append(line)
        assert len(rows) > 2
        assert len({row.count("|") for row in rows}) == 1, rows


def test_the_prompt_template_stands_in_a_fence_that_it_cannot_leave(run_folder):
    template = {
        "prompt": "Q: {{ question }}\n```\n# Fake heading",
        "completion": " {{ answer }}",
        "choice": None,
    }
    (run_folder / "neurolora_task.json").write_text(json.dumps({"template": template}))
    card = model_card(run_folder)
    assert f"````\n{template['prompt']}\n````" in card
    assert "Template of the completion" in card
    assert "Template of the choice" not in card


def test_a_plain_lora_card_has_no_word_of_routing(run_folder, make):
    shapes = {"A": (2, 3), "B": (4, 2)}
    tensors = {f"base_model.model.a.lora_{half}.weight": torch.ones(shape) for half, shape in shapes.items()}
    make.adapter(run_folder, {"peft_type": "LORA", "base_model_name_or_path": "b"}, tensors)
    card = model_card(run_folder)
    assert "import neurolora" not in card
    assert "cannot be merged" not in card


def test_an_adapter_alone_gets_a_card_that_admits_what_it_lacks(adapter):
    card = model_card(adapter)
    assert "No configuration was saved" in card
    assert "No evaluation was saved" in card


def test_the_card_is_written_beside_the_adapter(run_folder):
    path = write_model_card(run_folder)
    assert path == run_folder / "README.md"
    assert path.read_text(encoding="utf-8") == model_card(run_folder)


def test_no_adapter_no_card(tmp_path):
    with pytest.raises(AdapterError):
        write_model_card(tmp_path)
    assert not (tmp_path / "README.md").exists()


def test_cells_and_fences():
    assert cell("a|b\n<c> `d`") == "a\\|b &lt;c> \\`d\\`"
    assert fenced("no ticks").startswith("```\n")
    assert fenced("four ````").startswith("`````\n")
