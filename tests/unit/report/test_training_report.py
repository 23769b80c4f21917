import json
import math
import re
from html.parser import HTMLParser

import pytest

from neurolora.errors import DataError
from neurolora.report.run_folder import Score
from neurolora.report.training import fingerprint_rows, result_table, spell_score, write_training_report


class Reader(HTMLParser):
    """Collects the tags, and everything that could make a browser fetch something."""

    def __init__(self):
        super().__init__()
        self.tags, self.links, self.text = set(), [], []

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.links += [v for k, v in attrs if k in ("src", "href", "xlink:href", "action", "srcset")]

    def handle_data(self, data):
        self.text.append(data)


def page(folder):
    text = write_training_report(folder).read_text(encoding="utf-8")
    reader = Reader()
    reader.feed(text)
    return text, reader, " ".join(" ".join(reader.text).split())


def test_the_page_fetches_nothing_and_runs_nothing(run_folder):
    text, reader, _ = page(run_folder)
    assert all(link.startswith(("#", "data:")) for link in reader.links)
    assert not {"script", "link", "iframe", "img", "object"} & reader.tags
    assert not re.search(r"url\((?!#)|@import", text)


def test_equal_folders_give_equal_bytes(tmp_path, make):
    first = write_training_report(make.run(tmp_path / "a" / "run")).read_bytes()
    again = write_training_report(make.run(tmp_path / "b" / "run")).read_bytes()
    assert first == again


def test_the_page_says_what_was_run(run_folder):
    _, _, text = page(run_folder)
    pieces = (
        "NeuroLoRA on world-recall",
        "16 x 4 accumulated",
        "0.0002 for B, 0.0005 for the gate",
        "Training examples 640",
        "Training time 12.5 s",
        "2026-01-02",
        "2.13.0",
    )
    assert [piece for piece in pieces if piece not in text] == []
    assert "Not everything is here" not in text


def test_every_curve_and_routing_picture_is_there(run_folder):
    text, _, _ = page(run_folder)
    titles = re.findall(r"<figure>\s*<h3>(.*?)</h3>", text)
    assert titles == [
        "Task loss",
        "Orthogonality loss (unweighted)",
        "Learning rates",
        "Gradient norm",
        "How often each rank is used",
        "Gate spread in each layer",
        "How evenly the ranks are used",
    ]


def test_results_stand_with_errors_and_their_difference(run_folder):
    _, _, text = page(run_folder)
    error = math.hypot(0.01, 0.01)
    assert "0.2500 ± 0.0100 0.7500 ± 0.0100" in text
    assert f"+0.5000 ± {error:.4f}" in text


def test_user_text_is_escaped_everywhere(run_folder):
    evil = "<script>alert(1)</script>"
    config = json.loads((run_folder / "config.yaml").read_text())
    config["data"]["task"] = evil
    config["model"]["model_name_or_path"] = evil
    (run_folder / "config.yaml").write_text(json.dumps(config))
    (run_folder / "neurolora_task.json").write_text(json.dumps({"template": {"prompt": evil}}))
    (run_folder / "eval" / "after.json").write_text(json.dumps({"results": {evil: {evil: 0.5}}}))
    routing = json.loads((run_folder / "routing.json").read_text())
    routing["layers"][0]["name"] = evil
    (run_folder / "routing.json").write_text(json.dumps(routing))
    text, reader, _ = page(run_folder)
    assert "script" not in reader.tags
    assert "&lt;script&gt;" in text


def test_an_empty_folder_gives_a_page_that_says_what_is_missing(tmp_path):
    _, _, text = page(tmp_path)
    pieces = (
        "config.yaml is missing",
        "metrics.jsonl is missing",
        "No training steps were logged",
        "No routing was recorded",
        "No evaluation was saved",
        "No fingerprints were saved",
    )
    assert [piece for piece in pieces if piece not in text] == []
    assert "Trainable parameters" not in text


def test_a_truncated_adapter_is_named_on_the_page(run_folder):
    weights = run_folder / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    _, _, text = page(run_folder)
    assert "truncated or damaged" in text


def test_full_fine_tuning_needs_no_adapter(run_folder):
    for name in ("adapter_config.json", "adapter_model.safetensors", "routing.json"):
        (run_folder / name).unlink()
    config = json.loads((run_folder / "config.yaml").read_text()) | {"adapter": {"method": "full"}}
    (run_folder / "config.yaml").write_text(json.dumps(config))
    (run_folder / "run.json").write_text('{"trainable_parameters": 1234567}')
    _, _, text = page(run_folder)
    assert "Full fine-tuning on world-recall" in text
    assert "Trainable parameters 1,234,567" in text
    assert "Not everything is here" not in text


def test_no_folder_is_an_error(tmp_path):
    with pytest.raises(DataError):
        write_training_report(tmp_path / "absent")


def test_stages_come_in_the_order_of_a_run_and_gaps_are_dashes():
    table = result_table(
        {
            "zeta": {"results": {"t": {"acc": 0.1}}},
            "after": {"results": {"t": {"acc": 0.2}, "u": {"acc": 0.3}}},
            "before": {"results": {"t": {"acc": 0.4}}},
        }
    )
    assert table["columns"] == ["task, metric", "before", "after", "zeta", "change"]
    assert table["rows"] == [
        ["t, acc", "0.4000", "0.2000", "0.1000", "-0.2000"],
        ["u, acc", "–", "0.3000", "–", "–"],
    ]


def test_an_error_that_is_no_number_is_not_shown():
    assert spell_score(Score("t", "m", 0.5, math.nan)) == "0.5000"


def test_the_base_fingerprints_sample_is_too_long_to_show(run_folder):
    from neurolora.report.inspection import inspect_adapter

    config = json.loads((run_folder / "adapter_config.json").read_text())
    config["base_fingerprint"] = {"digest": "dd", "architecture": {"d": 4}, "sample": {"w": [1.0]}}
    (run_folder / "adapter_config.json").write_text(json.dumps(config))
    rows = dict(fingerprint_rows(inspect_adapter(run_folder)))
    assert rows["Base model: digest"] == "dd"
    assert rows["Base model: architecture"] == "d: 4"
    assert "Base model: sample" not in rows
