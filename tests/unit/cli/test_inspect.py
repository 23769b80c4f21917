import json

import pytest
import torch
from safetensors.torch import save_file

from neurolora.cli.console import plain, print_json
from neurolora.cli.main import main


@pytest.fixture
def lora(tmp_path):
    """A plain LoRA of two modules, made by hand."""
    tensors = {}
    for i in (0, 1):
        tensors[f"base_model.model.layers.{i}.q_proj.lora_A.weight"] = torch.ones(2, 6)
        tensors[f"base_model.model.layers.{i}.q_proj.lora_B.weight"] = torch.ones(5, 2)
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 2, "base_model_name_or_path": "[red]base[/red]"}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    return tmp_path


def test_text_shows_counts_and_every_module(lora, capsys):
    assert main(["inspect", str(lora)]) == 0
    captured = capsys.readouterr()
    words = captured.out.split()
    assert captured.err == ""
    assert str(2 * (2 * 6 + 5 * 2)) in words
    assert {"0", "1"} <= {line.split()[0] for line in captured.out.splitlines()[-2:]}
    assert "[red]base[/red]" in captured.out


def test_json_is_one_document_on_stdout(lora, capsys):
    assert main(["inspect", str(lora), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["method"] == "LoRA"
    assert found["parameters"]["trainable"] == 44
    assert [module["name"] for module in found["modules"]] == ["layers.0.q_proj", "layers.1.q_proj"]
    assert found["routing"] is None


def test_html_is_written_and_the_message_stays_off_stdout(lora, tmp_path, capsys):
    page = tmp_path / "new" / "page.html"
    assert main(["inspect", str(lora), "--json", "--html", str(page)]) == 0
    captured = capsys.readouterr()
    json.loads(captured.out)
    assert "page.html" in captured.err
    assert page.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


def test_a_page_that_cannot_be_written(lora, capsys):
    assert main(["inspect", str(lora), "--html", str(lora / "adapter_config.json" / "page.html")]) == 6
    assert "page.html" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--base_model", "x"], 2, "no text to run"),
        (["--text", "ADAPTER/absent.txt"], 3, "absent.txt"),
        (["--text", "ADAPTER/binary.txt"], 3, "not UTF-8"),
        (["--text", "ADAPTER/good.txt"], 2, "LORA"),
    ],
)
def test_wrong_use_is_told(lora, capsys, arguments, code, message):
    (lora / "binary.txt").write_bytes(b"\xff\xfe\xfa")
    (lora / "good.txt").write_text("a text")
    assert main(["inspect", str(lora), *(a.replace("ADAPTER", str(lora)) for a in arguments)]) == code
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.out == ""


def test_a_damaged_adapter_is_exit_code_4(lora, capsys):
    weights = lora / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    assert main(["inspect", str(lora)]) == 4
    assert "truncated or damaged" in capsys.readouterr().err


def test_routing_is_printed_when_texts_are_given(lora, capsys, monkeypatch):
    layer = {"name": "layers.0.q_proj", "tokens": 7, "active_frequency": [0.25, 0.75], "gate_mean": None}
    asked = {}

    def measure(adapter, texts, **settings):
        asked.update(settings, adapter=adapter, texts=texts)
        return {"r": 2, "top_k": 1, "layers": [layer]}

    monkeypatch.setattr("neurolora.report.routing.measure_routing", measure)
    (lora / "t.txt").write_text("words")
    arguments = [
        "inspect",
        str(lora),
        "--text",
        str(lora / "t.txt"),
        "--max-tokens",
        "9",
        "--base-model",
        "b",
    ]
    assert main(arguments) == 0
    expected = {"base_model": "b", "max_tokens": 9, "allow_base_mismatch": False}
    assert {name: asked[name] for name in expected} == expected
    assert (asked["adapter"], asked["texts"]) == (lora, ["words"])
    shown = capsys.readouterr().out
    assert "used alike would be 0.5" in shown
    assert "0.75" in shown


def test_json_has_no_nan(capsys):
    print_json({"a": float("nan"), "b": [float("inf"), 1.5], "c": (1, None, True)})
    assert json.loads(capsys.readouterr().out) == {"a": None, "b": [None, 1.5], "c": [1, None, True]}


def test_plain_spells_what_json_does_not_know(tmp_path):
    assert plain({1: tmp_path, "x": {"y": {"z"}}}) == {"1": str(tmp_path), "x": {"y": "{'z'}"}}
