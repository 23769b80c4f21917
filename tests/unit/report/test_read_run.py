import json

import pytest

from neurolora.errors import DataError
from neurolora.report.run_folder import Score, drawable, gated, read_run, scores


def test_series_are_read_from_the_lines_that_have_both_numbers(run_folder):
    with (run_folder / "metrics.jsonl").open("a") as handle:
        handle.write('{"step": 101, "loss": null}\n{"loss": 3.0}\n{"step": 102, "loss": true}\n')
        handle.write('{"step": 103, "loss": 0.5}\n')
    run = read_run(run_folder)
    points = run.series("loss")
    assert len(points) == 101
    assert points[-1] == (103.0, 0.5)
    assert run.summary["seconds"] == 12.5
    assert run.problems == []


def test_a_torn_last_line_is_left_out_and_said(run_folder):
    with (run_folder / "metrics.jsonl").open("a") as handle:
        handle.write('{"step": 101, "lo')
    run = read_run(run_folder)
    assert len(run.series("loss")) == 100
    assert run.problems == ["metrics.jsonl: 1 line(s) that are no JSON object were left out"]


@pytest.mark.parametrize(
    "name", ["config.yaml", "env.json", "metrics.jsonl", "routing.json", "adapter_config.json"]
)
def test_a_missing_piece_is_named(run_folder, name):
    (run_folder / name).unlink()
    assert f"{name} is missing" in read_run(run_folder).problems


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe\x00", b"[1]"])
@pytest.mark.parametrize("name", ["env.json", "config.yaml", "routing.json", "eval/after.json"])
def test_a_damaged_piece_is_named_and_not_fatal(run_folder, name, content):
    (run_folder / name).write_bytes(content)
    run = read_run(run_folder)
    assert any(problem.startswith(name) for problem in run.problems)


def test_no_folder_is_an_error(tmp_path):
    with pytest.raises(DataError, match="no such folder"):
        read_run(tmp_path / "absent")


def test_routing_is_not_missed_in_a_run_without_routing(run_folder):
    (run_folder / "routing.json").unlink()
    (run_folder / "config.yaml").write_text('{"adapter": {"method": "lora"}}')
    assert read_run(run_folder).problems == []


def test_layers_without_numbers_are_left_out(run_folder, make):
    routing = make.routing()
    routing["layers"][0]["active_frequency"] = [0.5, float("nan")]
    del routing["layers"][1]["name"]
    (run_folder / "routing.json").write_text(json.dumps(routing))
    run = read_run(run_folder)
    assert len(run.routing["layers"]) == len(make.modules) - 2
    assert any("2 layer(s)" in problem for problem in run.problems)


def test_routing_without_its_ranks_is_left_out(run_folder):
    (run_folder / "routing.json").write_text('{"layers": [], "r": null, "top_k": null}')
    run = read_run(run_folder)
    assert run.routing is None
    assert "routing.json lacks layers, r or top_k" in run.problems


def test_a_layer_without_a_gate_is_drawable_but_not_gated():
    layer = {"name": "a", "active_frequency": [0.5], "gate_mean": None, "gate_min": None, "gate_max": None}
    assert drawable(layer)
    assert not gated(layer)
    assert gated(layer | {"gate_mean": [1.0], "gate_min": 1.0, "gate_max": 1.0})


def test_an_evaluation_folder_is_a_stage(run_folder):
    folder = run_folder / "eval" / "later"
    folder.mkdir()
    (folder / "results.json").write_text('{"results": {"t": {"acc": 0.5}}}')
    (folder / "other.json").write_text('{"no": "results"}')
    assert set(read_run(run_folder).evaluations) == {"before", "after", "later"}


def test_scores_find_their_standard_errors_under_both_spellings():
    metrics = {
        "acc": 0.5,
        "acc_stderr": 0.1,
        "exact_match,strict-match": 0.25,
        "exact_match_stderr,strict-match": 0.05,
        "acc_norm,none": 0.75,
        "acc_norm_stderr,none": "N/A",
        "alias": "t",
    }
    assert scores({"results": {"t": metrics, "broken": 3}}) == [
        Score("t", "acc", 0.5, 0.1),
        Score("t", "exact_match (strict-match)", 0.25, 0.05),
        Score("t", "acc_norm", 0.75, None),
    ]
