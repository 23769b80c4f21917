import json

import pytest

from neurolora.cli.main import main


@pytest.fixture
def folders(stored, tmp_path):
    return [str(stored.routed(tmp_path / name, seed)) for seed, name in enumerate(("one", "two", "three"))]


def test_text_shows_the_order_the_pairs_and_the_modules(folders, capsys):
    assert main(["inspect", *folders]) == 0
    shown = capsys.readouterr().out
    assert "Interference of 3 adapters" in shown
    assert "scaling * B:" in shown
    assert "one × three" in shown
    assert "random tokens" in shown
    assert "q_proj" in shown


def test_json_is_one_document_and_agrees_with_the_text(folders, capsys):
    assert main(["inspect", *folders, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [one["label"] for one in found["adapters"]] == ["one", "two", "three"]
    assert len(found["pairs"]) == 3
    assert len(found["modules"]) == 3
    assert main(["inspect", *folders]) == 0
    assert f"{found['pairs'][0]['cosine']:.3f}" in capsys.readouterr().out


def test_html_is_written_and_the_message_stays_off_stdout(folders, tmp_path, capsys):
    page = tmp_path / "page.html"
    assert main(["inspect", *folders, "--json", "--html", str(page)]) == 0
    captured = capsys.readouterr()
    json.loads(captured.out)
    assert "page.html" in captured.err
    assert "Interference of 3 adapters" in page.read_text(encoding="utf-8")


def test_many_pairs_are_left_to_the_other_forms(stored, tmp_path, capsys):
    folders = [str(stored.lora(tmp_path / str(seed), seed)) for seed in range(5)]
    assert main(["inspect", *folders]) == 0
    assert "For each module: --json or --html" in capsys.readouterr().out


def test_wrong_use_is_told(folders, stored, tmp_path, capsys):
    assert main(["inspect", *folders, "--base-model", "x"]) == 2
    assert "no text to run" in capsys.readouterr().err
    other = str(stored.routed(tmp_path / "other", modules=("x.y",)))
    assert main(["inspect", folders[0], other]) == 4
    assert "no module is adapted by all" in capsys.readouterr().err
    assert main(["inspect"]) == 2


def inspected(folders, capsys, *flags):
    assert main(["inspect", *folders, "--json", *flags]) == 0
    return json.loads(capsys.readouterr().out)


def test_random_inputs_are_drawn_as_asked(folders, capsys):
    plain = inspected(folders, capsys)
    assert plain["random_inputs"] == {"tokens": 512, "seed": 0}
    assert inspected(folders, capsys, "--tokens", "512", "--seed", "0") == plain
    few = inspected(folders, capsys, "--tokens", "40")
    other = inspected(folders, capsys, "--tokens", "40", "--seed", "5")
    assert [found["random_inputs"] for found in (few, other)] == [
        {"tokens": 40, "seed": 0},
        {"tokens": 40, "seed": 5},
    ]
    overlaps = [[pair["routing_overlap"] for pair in found["pairs"]] for found in (plain, few, other)]
    assert overlaps[0] != overlaps[1] != overlaps[2]
    assert few["inputs"] == "40 random tokens, N(0, 1), seed 0"


@pytest.mark.parametrize("flag", ["--tokens", "--seed"])
def test_random_inputs_where_none_are_drawn_are_refused(folders, stored, tmp_path, capsys, flag):
    (tmp_path / "t.txt").write_text("words")
    plain = [str(stored.lora(tmp_path / name, 1)) for name in ("p", "q")]
    wrong = [
        ([*folders, flag, "-1"], "greater than or equal"),
        ([*folders, flag, "3", "--text", str(tmp_path / "t.txt")], "the texts are the inputs"),
        ([folders[0], flag, "3"], "of one adapter"),
        ([*plain, flag, "3"], "LORA adapters"),
    ]
    for arguments, message in wrong:
        assert main(["inspect", *arguments]) == 2
        shown = capsys.readouterr()
        assert message in shown.err
        assert flag in shown.err
        assert shown.out == ""
    assert main(["inspect", *folders, "--tokens", "0"]) == 2


def test_texts_are_handed_to_the_base(folders, tmp_path, capsys, monkeypatch):
    asked = {}

    def inputs(adapters, texts, **model):
        asked.update(model, adapters=[str(one) for one in adapters], texts=texts)

    monkeypatch.setattr("neurolora.report.text_inputs.inputs_from_texts", inputs)
    (tmp_path / "t.txt").write_text("words")
    arguments = ["--text", str(tmp_path / "t.txt"), "--base-model", "b", "--max-tokens", "9", "--json"]
    assert main(["inspect", *folders, *arguments]) == 0
    assert (asked["adapters"], asked["texts"]) == (folders, ["words"])
    assert (asked["base_model"], asked["max_tokens"], asked["allow_base_mismatch"]) == ("b", 9, False)
