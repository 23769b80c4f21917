"""Whole studies on the tiny model: every kind by the command, done once, kept, shown."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from neurolora.cli.main import main
from neurolora.studies import Book, load_scale, load_study, reproduce
from neurolora.studies.work import RECORD


def run(folder: Path, base: Path, *arguments: str) -> int:
    places = ["--studies", str(folder), "--work-dir", str(base / "work"), "--results-dir", str(base / "out")]
    return main(["reproduce", *arguments, "--scale", "tiny", "--jobs", "1", *places])


@pytest.fixture(scope="module")
def all_done(tmp_path_factory: pytest.TempPathFactory, tiny_studies: ModuleType) -> Path:
    base = tmp_path_factory.mktemp("studies")
    folder = tiny_studies.write_studies(base)
    assert run(folder, base, "all") == 0
    return base


def result(base: Path, study: str) -> Any:
    return json.loads((base / "out" / study / "tiny.json").read_text())


def records(base: Path) -> dict[str, Any]:
    found = (base / "work" / "cells").glob(f"*/{RECORD}")
    return {path.parent.name: json.loads(path.read_text()) for path in found}


def test_single_tasks_have_a_value_for_each_seed_and_the_averages_add_up(all_done: Path) -> None:
    found = result(all_done, "table1")
    assert [row["name"] for row in found["rows"]] == [
        "Full", "LoRA", "DoRA", "AdaLoRA", "MoLE", "FlyLoRA", "NeuroLoRA",
    ]  # fmt: skip
    for row in found["rows"]:
        a, b, average = (row["values"][column] for column in ("a", "b", "average"))
        assert len(a) == 2
        assert average == pytest.approx([(x + y) / 2 for x, y in zip(a, b, strict=True)], abs=1e-3)
        assert row["costs"]["trainable"] > 0
    full, lora = found["rows"][0]["costs"], found["rows"][1]["costs"]
    assert (full["percent"], full["active"]) == (100.0, full["stored"])
    assert lora["trainable"] == 2 * 2 * 4 * (16 + 16)
    difference = found["claims"][0]["difference"]
    by_name = {row["name"]: row["intervals"]["average"]["mean"] for row in found["rows"]}
    assert difference["mean"] == pytest.approx(by_name["NeuroLoRA"] - by_name["LoRA"])


def test_the_rate_that_validation_likes_best_is_the_one_of_every_seed(all_done: Path) -> None:
    search = {one["name"]: one for one in result(all_done, "table1")["searches"]}["LoRA, A"]
    best = max(search["tried"], key=lambda one: (one["score"], -one["value"]))
    assert search["chosen"] == best["value"]
    names = [record["name"] for record in records(all_done).values() if record["kind"] == "train"]
    tested = [name for name in names if name.startswith("LoRA on A") and "seed 100" not in name]
    assert all(one["scores"] == [one["score"]] for one in search["tried"])
    assert sorted(tested) == [f"LoRA on A, rate {best['value']:g}, seed {seed}" for seed in (0, 1)]


def test_what_is_merged_are_the_adapters_of_table_1(all_done: Path) -> None:
    found, first = result(all_done, "table2"), result(all_done, "table1")
    alone = {row["name"]: row["values"]["average"] for row in first["rows"]}
    for row in found["rows"]:
        assert row["values"]["alone"] == pytest.approx(alone[row["name"]], abs=1e-3)
        kept = [100 * m / a for m, a in zip(row["values"]["sum"], row["values"]["alone"], strict=True)]
        assert row["values"]["sum_kept"] == pytest.approx(kept, rel=1e-2)
        base = found["base"]["alone"]
        assert base == pytest.approx(first["base"]["average"])
        gains = zip(row["values"]["sum"], row["values"]["alone"], strict=True)
        gained = [100 * (m - base) / (a - base) if a > base else 0.0 for m, a in gains]
        assert row["values"]["sum_gained"] == pytest.approx(gained, rel=1e-2, abs=1e-2)
        assert sum(row["parts"]["sum"].values()) / 2 == pytest.approx(
            row["intervals"]["sum"]["mean"], abs=1e-3
        )
        assert row["costs"].pop("merge_seconds") > 0
        assert row["costs"] == next(one["costs"] for one in first["rows"] if one["name"] == row["name"])
    assert set(found["cells"]) & set(first["cells"])


def test_streams_have_the_metrics_of_their_matrices(all_done: Path) -> None:
    found, kept = result(all_done, "table3"), records(all_done)
    streams = [kept[key] for key in found["cells"]]
    by_name = {record["name"]: record for record in streams}
    for row in found["rows"]:
        for seed in (0, 1):
            R = by_name[f"{row['name']}, seed {seed}"]["R"]
            assert row["values"]["bwt"][seed] == pytest.approx(R[1][0] - R[0][0], abs=1e-3)
            assert row["values"]["average"][seed] == pytest.approx(sum(R[1]) / 2, abs=1e-3)
    costs = {row["name"]: row["costs"] for row in found["rows"]}
    seq, ewc = costs["Seq"], costs["EWC"]
    assert seq["kept_bytes"] == 0
    assert ewc["kept_bytes"] == pytest.approx(2 * 4 * ewc["trainable"], rel=0.01)  # Fisher, anchor: float32
    assert seq["adapter_bytes"] > 4 * seq["trainable"]
    assert found["searches"][-1]["name"] == "EWC, weight"


def test_a_curve_knows_where_its_rows_lie(all_done: Path) -> None:
    found = result(all_done, "k")
    assert found["curve"]["places"] == {"k-2": 2.0, "k-4": 4.0}
    assert {record["name"] for key, record in records(all_done).items() if key in found["cells"]} & {
        record["name"]
        for key, record in records(all_done).items()
        if key in result(all_done, "table1")["cells"]
    }


def test_given_again_nothing_is_run_and_the_result_is_the_same(
    all_done: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("neurolora.studies.book.do_work", lambda *_: pytest.fail("a cell was run again"))
    before = result(all_done, "table3")
    assert run(all_done / "studies", all_done, "table3") == 0
    after = result(all_done, "table3")
    changing = ("environment",)
    assert {k: v for k, v in before.items() if k not in changing} == {
        k: v for k, v in after.items() if k not in changing
    }


def test_the_pages_show_every_study(all_done: Path) -> None:
    markdown = (all_done / "out" / "results-tiny.md").read_text()
    for title in ("Single tasks", "Merging", "Streams", "## k"):
        assert title in markdown
    page = (all_done / "out" / "results-tiny.html").read_text()
    assert page.count("<svg") >= 4
    assert "The paper&#39;s figures" in page
    assert "before training" in markdown


def test_seeds_that_are_added_leave_the_others_alone(
    tmp_path: Path, tiny_studies: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tiny_studies.write_studies(tmp_path, ("k",))
    assert run(folder, tmp_path, "k", "--quick") == 0
    done = set(records(tmp_path))
    capsys.readouterr()
    assert run(folder, tmp_path, "k", "--quick", "--seeds", "0,1", "--dry-run", "--json") == 0
    assert json.loads(capsys.readouterr().out)[0]["done"] == [
        {"what": "k, before training", "done": 1, "of": 1},
        {"what": "k", "done": 2, "of": 4},
    ]
    assert run(folder, tmp_path, "k", "--quick", "--seeds", "0,1") == 0
    added = {record["name"] for key, record in records(tmp_path).items() if key not in done}
    assert {name.rpartition(", ")[2] for name in added} == {"seed 1"}
    assert len(list((tmp_path / "out" / "k").glob("tiny-quick*.json"))) == 2


def test_a_dry_run_counts_and_leaves_nothing(
    tmp_path: Path, tiny_studies: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tiny_studies.write_studies(tmp_path)
    assert run(folder, tmp_path, "k", "--dry-run", "--json", "--set", "train.max_steps=9") == 0
    assert {row["steps"] for row in json.loads(capsys.readouterr().out)[0]["rows"]} == {9}
    assert run(folder, tmp_path, "all", "--dry-run", "--json") == 0
    plans = {plan["study"]: plan for plan in json.loads(capsys.readouterr().out)}
    lora = next(row for row in plans["table1"]["rows"] if row["method"] == "LoRA")
    assert (lora["trainable"], lora["examples"], lora["steps"]) == (512, 16, 4)
    assert plans["table1"]["cells"] == {"searches of learning rates": 42, "training runs": 28}
    assert plans["table2"]["cells"]["merges"] == 2 * (2 + 2)
    assert plans["table3"]["cells"]["streams"] == 2 * 2 + 2
    assert plans["table1"]["done"] == [{"what": "table1, learning rates", "done": 0, "of": 42}]
    assert not (tmp_path / "work").exists()
    assert not (tmp_path / "out").exists()


def test_wrong_words_are_refused_before_anything_runs(
    tmp_path: Path, tiny_studies: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tiny_studies.write_studies(tmp_path, ("k",))
    assert run(folder, tmp_path, "kk") == 2
    assert "did you mean k?" in capsys.readouterr().err
    assert run(folder, tmp_path, "k", "--seeds", "zero") == 2
    assert run(folder, tmp_path, "k", "--set", "eval.limit") == 2
    assert run(folder, tmp_path, "k", "--set", "label=tiny", "--set", "eval.limit=1") == 2
    assert "tells results apart" in capsys.readouterr().err
    assert run(folder, tmp_path, "k", "--seeds", "0,-1") == 2
    assert run(folder, tmp_path, "k", "--set", "rates.neurolora=0") == 2
    assert run(folder, tmp_path, "k", "--set", "eval.limits=1") == 2
    assert "eval.limits" in capsys.readouterr().err
    assert run(folder, tmp_path, "k", "--model", str(tmp_path / "nothing")) == 2
    assert not (tmp_path / "out").exists()


def test_cells_run_side_by_side_and_launched_on_two_processes(
    tmp_path: Path, tiny_studies: ModuleType
) -> None:
    """The paper's scale launches each run by torchrun; two jobs share the cores."""
    folder = tiny_studies.write_studies(tmp_path, ("k",), processes=2)
    scale = load_scale(folder, "tiny", quick=True)
    told: list[tuple[str, int, int]] = []
    book = Book(tmp_path / "cells", jobs=2, progress=lambda *what: told.append(what))
    found = reproduce(load_study(folder, "k"), scale, book)
    assert [len(row["values"]["a"]) for row in found["rows"]] == [1, 1]
    assert told[-1] == ("k", 2, 2)
    runs = [json.loads(path.read_text()) for path in (tmp_path / "cells").glob("*/adapter/run.json")]
    assert [one["processes"] for one in runs] == [2, 2]


def test_a_launched_run_that_diverges_counts_as_nothing_too(tmp_path: Path, tiny_studies: ModuleType) -> None:
    folder = tiny_studies.write_studies(tmp_path, ("k",), processes=2)
    changes = {"rates": {"neurolora": 1e30}, "seeds": [0], "train": {"max_steps": 4}}
    scale = load_scale(folder, "tiny", quick=True, changes=changes)
    found = reproduce(load_study(folder, "k"), scale, Book(tmp_path / "cells"))
    assert [row["values"]["a"] for row in found["rows"]] == [[0.0], [0.0]]
    assert len(found["diverged"]) == 2


def test_a_model_whose_scores_are_no_numbers_counts_as_nothing(
    tmp_path: Path, tiny_studies: ModuleType
) -> None:
    """The last step made it infinite, and no loss was taken after that."""
    folder = tiny_studies.write_studies(tmp_path, ("k",))
    changes = {"rates": {"neurolora": 1e30}, "seeds": [0], "train": {"max_steps": 2}}
    scale = load_scale(folder, "tiny", quick=True, changes=changes)
    found = reproduce(load_study(folder, "k"), scale, Book(tmp_path / "cells"))
    assert [row["values"]["a"] for row in found["rows"]] == [[0.0], [0.0]]
    assert len(found["diverged"]) == 2


def test_a_result_names_all_that_it_comes_from(all_done: Path) -> None:
    """Searches, and of what was scored or merged also the training, wherever and by what it was made."""
    every = records(all_done)
    for study, own in (("table1", set()), ("table2", {"merge"})):
        cells = result(all_done, study)["cells"]
        assert {every[key]["kind"] for key in cells} == {"base", "train", "score"} | own
        made = [every[key]["environment"]["time"] for key in cells]
        environment = result(all_done, study)["environment"]
        assert (environment["first"], environment["last"]) == (min(made), max(made))
    tried = sum(len(search["tried"]) for search in result(all_done, "k")["searches"])
    assert len(result(all_done, "k")["cells"]) == 1 + 2 * (
        tried + 2 * 2
    )  # base; trained and scored; rows, seeds


def test_a_result_says_what_was_measured_and_on_how_much(all_done: Path) -> None:
    for study in ("table1", "table2", "table3", "k"):
        task = result(all_done, study)["tasks"]["a"]
        assert (task["name"], task["metric"], task["n"]) == ("A", "answer_probability", 8)


def test_results_of_other_settings_are_found_before_the_hours(
    tmp_path: Path, tiny_studies: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tiny_studies.write_studies(tmp_path)
    assert run(folder, tmp_path, "k", "--quick") == 0
    path = tmp_path / "out" / "k" / "tiny-quick.json"
    other = tmp_path / "out" / "table1" / path.name
    other.parent.mkdir()
    other.write_text(json.dumps({**json.loads(path.read_text()), "sizes_fingerprint": "other"}))
    done = set(records(tmp_path))
    capsys.readouterr()
    assert run(folder, tmp_path, "table2", "--quick") == 3
    assert "table1/tiny-quick.json is of other settings" in capsys.readouterr().err
    assert set(records(tmp_path)) == done


def test_a_damaged_result_is_no_reason_to_fail_for_those_that_are_run_before_it(
    tmp_path: Path, tiny_studies: ModuleType
) -> None:
    """The command that makes it anew is the one that repairs it."""
    folder = tiny_studies.write_studies(tmp_path, ("k",))
    shutil.copytree(folder / "k", folder / "later")
    damaged = tmp_path / "out" / "later" / "tiny-quick.json"
    damaged.parent.mkdir(parents=True)
    damaged.write_text('{"rows": [')
    assert run(folder, tmp_path, "all", "--quick") == 0
    assert json.loads(damaged.read_text())["study"] == "later"


def test_a_run_that_diverges_counts_as_nothing_and_stops_nothing(
    tmp_path: Path, tiny_studies: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rate of a search, or a seed that counts: hours of other cells do not wait for it."""
    from neurolora.training.trainer import NeuroLoraTrainer

    check = NeuroLoraTrainer._check_finite

    def diverge_at_high_rates(trainer: NeuroLoraTrainer, value: float, what: str) -> None:
        is_high, is_last = trainer.args.learning_rate > 1e-2, trainer.args.seed == 1
        check(trainer, float("nan") if is_high or is_last else value, what)

    monkeypatch.setattr(NeuroLoraTrainer, "_check_finite", diverge_at_high_rates)
    folder = tiny_studies.write_studies(tmp_path, ("k",))
    book = Book(tmp_path / "cells")
    found = reproduce(load_study(folder, "k"), load_scale(folder, "tiny"), book)
    tried = {round(one["value"], 4): one["score"] for one in found["searches"][0]["tried"]}
    assert tried[0.03] == 0.0
    assert min(tried[0.01], tried[0.0033]) > 0.0
    for row in found["rows"]:
        assert row["values"]["a"][0] > 0.0 == row["values"]["a"][1]
        assert row["costs"]["trainable"] > 0
    assert len(found["diverged"]) == 2
    assert all(name.endswith("seed 1") for name in found["diverged"])
    monkeypatch.setattr("neurolora.studies.book.do_work", lambda *_: pytest.fail("a cell was run again"))
    reproduce(load_study(folder, "k"), load_scale(folder, "tiny"), book)


def test_a_stream_that_diverges_leaves_its_row_out_and_the_others_stand(
    tmp_path: Path, tiny_studies: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has no BWT; with the row gone its statements are not measured."""
    from neurolora.training.trainer import NeuroLoraTrainer

    check = NeuroLoraTrainer._check_finite

    def diverge(trainer: NeuroLoraTrainer, value: float, what: str) -> None:
        is_lora = trainer.model.peft_config["default"].peft_type == "LORA"
        check(trainer, float("nan") if is_lora and trainer.args.seed == 1 else value, what)

    monkeypatch.setattr(NeuroLoraTrainer, "_check_finite", diverge)
    folder = tiny_studies.write_studies(tmp_path, ("table3",))
    path = folder / "table3" / "spec.yaml"
    claim = {"say": "x", "better": ["seq", "bwt"], "than": ["ewc", "bwt"]}
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), "claims": [claim]}))
    assert run(folder, tmp_path, "table3", "--set", "search.most=1") == 0
    (found,) = (json.loads(one.read_text()) for one in (tmp_path / "out" / "table3").glob("*.json"))
    assert [row["id"] for row in found["rows"]] == ["seq"]
    assert found["diverged"] == ["EWC, seed 1"]
    assert found["claims"][0]["verdict"] == "not measured"


def test_another_name_of_the_same_model_begins_a_stopped_cell_anew(
    tmp_path: Path, tiny_studies: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cell is known by what is in the model; a run that goes on asks where it lies."""
    folder = tiny_studies.write_studies(tmp_path, ("k",))
    from neurolora.training.trainer import NeuroLoraTrainer

    step = NeuroLoraTrainer.training_step

    def stop(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    scale = yaml.safe_load((folder / "scales" / "tiny.yaml").read_text())
    model = Path(scale["model"]["model_name_or_path"])
    other = tmp_path / "other"
    other.symlink_to(model.resolve())
    monkeypatch.setattr(NeuroLoraTrainer, "training_step", stop)
    assert run(folder, tmp_path, "k", "--quick") != 0
    monkeypatch.setattr(NeuroLoraTrainer, "training_step", step)
    assert run(folder, tmp_path, "k", "--quick", "--model", str(other)) == 0


def test_a_whole_model_is_trained_again_for_another_score(tmp_path: Path, tiny_studies: ModuleType) -> None:
    """Its weights went when it was scored; then the code of evaluation changed, or more rows are wanted."""
    folder = tiny_studies.write_studies(tmp_path, ("k",))
    whole = {"name": "Full", "adapter": {"method": "full"}}
    spec = {"rows": {"full": whole}, "curve": None, "against": []}
    path = folder / "k" / "spec.yaml"
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **spec}))
    assert run(folder, tmp_path, "k", "--quick") == 0
    first = json.loads((tmp_path / "out" / "k" / "tiny-quick.json").read_text())
    for key, record in records(tmp_path).items():
        if record["kind"] == "score":
            (tmp_path / "work" / "cells" / key / RECORD).unlink()
    assert run(folder, tmp_path, "k", "--quick") == 0
    second = json.loads((tmp_path / "out" / "k" / "tiny-quick.json").read_text())
    assert second["rows"][0]["values"] == first["rows"][0]["values"]


def test_a_study_that_fails_does_not_keep_the_others_from_their_hours(
    tmp_path: Path,
    tiny_studies: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from neurolora.errors import AdapterError
    from neurolora.studies import running

    def fail(*_: Any) -> None:
        raise AdapterError("these cannot be merged")

    monkeypatch.setitem(running.KINDS, "merging", fail)
    folder = tiny_studies.write_studies(tmp_path, ("table2", "k"))
    assert run(folder, tmp_path, "all", "--quick") == 4
    assert (tmp_path / "out" / "k" / "tiny-quick.json").is_file()
    assert "## k" in (tmp_path / "out" / "results-tiny-quick.md").read_text()
    assert "table2: failed: these cannot be merged" in capsys.readouterr().err
