import json

import pytest

from neurolora.cli.main import main


@pytest.fixture
def pair(stored, tmp_path):
    return [stored.routed(tmp_path / name, seed) for seed, name in enumerate("ab")]


@pytest.fixture
def recipe(pair, tmp_path):
    path = tmp_path / "recipe.yaml"
    models = "".join(f"  - model: {folder}\n" for folder in pair)
    path.write_text(f"merge_method: ties\nmodels:\n{models}parameters: {{density: 0.5}}\n")
    return path


def same(first, second):
    name = "adapter_model.safetensors"
    return (first / name).read_bytes() == (second / name).read_bytes()


def test_a_recipe_and_flags_give_the_same(pair, recipe, tmp_path, capsys):
    assert main(["merge", str(recipe), str(tmp_path / "one")]) == 0
    assert "24 tensors of 2 adapters" in capsys.readouterr().out
    assert main(["merge", str(recipe), "-o", str(tmp_path / "two")]) == 0
    flags = ["--method", "ties", "--density", "0.5"]
    assert main(["merge", *map(str, pair), "-o", str(tmp_path / "three"), *flags]) == 0
    assert same(tmp_path / "one", tmp_path / "two")
    assert same(tmp_path / "one", tmp_path / "three")


def test_json_is_one_document(pair, tmp_path, capsys):
    weights = ["--weight", "0.25", "--weight", "0.75"]
    assert main(["merge", *map(str, pair), "-o", str(tmp_path / "out"), *weights, "--json"]) == 0
    captured = capsys.readouterr()
    found = json.loads(captured.out)
    assert [parent["weight"] for parent in found["parents"]] == [0.25, 0.75]
    assert found["output"] == str(tmp_path / "out")


def test_a_dry_run_writes_nothing(recipe, pair, tmp_path, capsys):
    assert main(["merge", str(recipe), str(tmp_path / "out"), "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "merge_method: ties" in shown
    assert "fit together" in shown
    assert not (tmp_path / "out").exists()
    config = json.loads((pair[1] / "adapter_config.json").read_text())
    (pair[1] / "adapter_config.json").write_text(json.dumps(config | {"top_k": 3}))
    assert main(["merge", str(recipe), str(tmp_path / "out"), "--dry-run", "--json"]) == 4
    captured = capsys.readouterr()
    assert json.loads(captured.out)["fits"] is False
    assert "top_k" in captured.err
    assert main(["merge", str(recipe), str(tmp_path / "out"), "--force", "top_k"]) == 0
    assert "Overridden: top_k" in capsys.readouterr().err


def test_overwrite(recipe, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["merge", str(recipe), str(out)]) == 0
    assert main(["merge", str(recipe), str(out)]) == 6
    assert "not empty" in capsys.readouterr().err
    assert main(["merge", str(recipe), str(out), "--overwrite"]) == 0


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["RECIPE"], 2, "0 folders to write"),
        (["RECIPE", "x", "y"], 2, "2 folders to write"),
        (["RECIPE", "x", "--method", "ties"], 2, "Write it into the recipe"),
        (["FIRST", "SECOND"], 2, "no folder to write"),
        (["FIRST", "SECOND", "-o", "x", "--method", "tis"], 2, "did you mean ties"),
        (["FIRST", "SECOND", "-o", "x", "--weight", "1"], 2, "1 weights for 2 adapters"),
        (["FIRST", "RECIPE", "-o", "x"], 4, "recipe.yaml"),
        (["absent.yaml", "x"], 2, "absent.yaml"),
        (["FIRST", "SECOND", "-o", "x", "--force", "A"], 2, "cannot be overridden"),
    ],
)
def test_wrong_use_is_told(pair, recipe, tmp_path, monkeypatch, capsys, arguments, code, message):
    monkeypatch.chdir(tmp_path)
    words = {"RECIPE": str(recipe), "FIRST": str(pair[0]), "SECOND": str(pair[1])}
    assert main(["merge", *(words.get(word, word) for word in arguments)]) == code
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.out == ""
    assert not (tmp_path / "x").exists()


def test_help_teaches(capsys):
    assert main(["merge", "--help"]) == 0
    shown = capsys.readouterr().out
    assert "mergekit" in shown
    assert "--dry-run" in shown
