"""Reading studies and scales: what is laid over what, and what is refused."""

from __future__ import annotations

import datetime
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from neurolora.errors import ConfigError
from neurolora.studies import default_folder, load_scale, load_study, require_fitting, study_names
from neurolora.studies.library import ORDER
from neurolora.training import load_config


@pytest.fixture
def folder(tmp_path: Path, tiny_studies: ModuleType) -> Path:
    made: Path = tiny_studies.write_studies(tmp_path)
    return made


def change(folder: Path, study: str, **values: Any) -> None:
    path = folder / study / "spec.yaml"
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **values}))


def test_the_papers_studies_are_here_in_their_order_and_every_scale_fits_them() -> None:
    folder = default_folder()
    assert tuple(study_names(folder)) == ORDER
    for name in ORDER:
        study = load_study(folder, name)
        for scale in ("miniature", "small", "paper"):
            require_fitting(
                [study], load_scale(folder, scale, changes={"model": {"model_name_or_path": "m"}})
            )


def test_every_row_of_the_papers_studies_makes_a_training_config() -> None:
    folder = default_folder()
    rows = [row for name in ORDER for row in load_study(folder, name).rows.values()]
    assert len(rows) > 30
    for row in rows:
        values = {"model": {"model_name_or_path": "world"}, "data": {"task": "world-sums"}}
        load_config(None, {**values, "adapter": row.adapter, "train": row.train}).build_adapter()


def test_every_table_is_tested_against_flylora() -> None:
    """And against LoRA where it has a row; Table 4's row without gate and loss is FlyLoRA."""
    folder = default_folder()
    for name in ("table1", "table2", "table3", "table4"):
        study = load_study(folder, name)
        of = {label: row.adapter["method"] for label, row in study.rows.items() if len(row.adapter) < 3}
        of |= {label: row.of for label, row in study.stream_rows.items() if row.strategy == "sequential"}
        against = {of[label] for label in study.against if label in of}
        assert against >= {"flylora"} | ({"lora"} & set(of.values())), name


def test_methods_become_rows_and_the_papers_figures_stand_by_them(folder: Path) -> None:
    study = load_study(folder, "table1")
    assert study.names["adalora"] == "AdaLoRA"
    assert study.rows["lora"].adapter["r"] == 4
    assert study.paper["lora"] == {"average": 71.5}


def test_quick_and_changes_are_laid_over_section_by_section(folder: Path) -> None:
    scale = load_scale(folder, "tiny", quick=True, changes={"model": {"dtype": "float32"}, "seeds": [5]})
    assert scale.seeds == [5]
    assert (scale.train["max_steps"], scale.train["per_device_train_batch_size"]) == (2, 4)
    assert (scale.search.most, scale.search.factor) == (1, 3.0)
    assert scale.model["dtype"] == "float32"
    assert "model_name_or_path" in scale.model
    assert load_scale(folder, "tiny").seeds == [0, 1]


def test_a_deepspeed_config_is_found_beside_the_scale() -> None:
    scale = load_scale(default_folder(), "paper")
    assert Path(scale.train["deepspeed"]).is_file()


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"kind": "double"}, "kind: "),
        ({"methods": ["lora", "lorra"]}, "methods without a row in methods.yaml: lorra"),
        ({"against": ["nobody"]}, "against names the row 'nobody'"),
        ({"paper": {"nobody": {"a": 1.0}}}, "paper names the row 'nobody'"),
        ({"paper": {"lora": {"c": 1.0}}}, "paper names the column 'c'"),
        ({"methods": []}, "there are no rows"),
        (
            {"kind": "streams", "rows": {"s": {"name": "S", "strategy": "sequential", "of": "nobody"}}},
            "no method 'nobody'",
        ),
        ({"colour": "blue"}, "colour: "),
        ({"tasks": []}, "tasks: "),
        ({"tasks": ["a", "a"]}, "tasks: .*a: named twice"),
        ({"rows": None}, "`rows` is not a section"),
        ({"rows": ["lora"]}, "`rows` is not a section"),
        ({"methods": None}, "`methods` is not a list of names"),
        ({"methods": [["lora"]]}, "`methods` is not a list of names"),
        ({"about": datetime.date(2026, 1, 1)}, "date is not JSON"),
    ],
)
def test_a_wrong_study_is_refused_with_the_reason(folder: Path, values: dict[str, Any], problem: str) -> None:
    change(folder, "table1", **values)
    with pytest.raises(ConfigError, match=problem):
        load_study(folder, "table1")


def test_a_study_is_called_as_its_folder_is(folder: Path) -> None:
    """Else its result would be written over another one's."""
    change(folder, "table1", id="table2")
    assert load_study(folder, "table1").id == "table1"


def test_unknown_names_get_the_nearest(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean table1"):
        load_study(folder, "tabel1")
    with pytest.raises(ConfigError, match="did you mean tiny"):
        load_scale(folder, "tinny")
    with pytest.raises(ConfigError, match="there are none"):
        study_names(tmp_path / "nowhere")


def test_a_scale_without_a_model_asks_for_one() -> None:
    with pytest.raises(ConfigError, match="--model"):
        load_scale(default_folder(), "small")


def test_a_scale_without_the_studys_task_or_rate_is_refused(folder: Path) -> None:
    study = load_study(folder, "table1")
    scale = load_scale(folder, "tiny")
    lacking = scale.model_copy(update={"tasks": {"a": scale.tasks["a"]}, "rates": {"lora": 1e-2}})
    with pytest.raises(ConfigError, match=r"(?s)no task b.*no first learning rate of adalora"):
        require_fitting([study], lacking)


def test_what_was_changed_stands_in_the_name_of_the_results(folder: Path) -> None:
    assert load_scale(folder, "tiny").label == "tiny"
    assert load_scale(folder, "tiny", quick=True).label == "tiny-quick"
    named = load_scale(folder, "tiny", changes={"model": {"model_name_or_path": "some/Model 1"}})
    assert named.label == "tiny-Model_1"
    fewer, more = (load_scale(folder, "tiny", changes={"seeds": seeds}).label for seeds in ([1], [1, 2]))
    assert fewer.startswith("tiny-")
    assert fewer != more


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"seeds": [0, 0]}, "names one twice"),
        ({"seeds": [0, 100]}, "on 100 choices are made"),
        ({"search": {"seeds": [100, 100]}}, r"search.seeds: \[100, 100\] names one twice"),
        ({"search": {"most": 2}}, "needs 3 rates or more"),
        ({"seeds": [0, -1]}, "seeds.1"),
        ({"rates": {"lora": 0.0}}, "rates.lora"),
        ({"label": "tiny"}, "label is what tells results apart"),
        ({"quick": True, "id": "x"}, "id, quick is what tells results apart"),
        ({"train": {"learning_rate": 1.0}}, "rates and seeds are set by the study"),
        ({"model": "foo"}, "model: "),
        ({"train": {"output": datetime.date(2026, 1, 1)}}, "date is not JSON"),
    ],
)
def test_a_scale_that_would_not_be_fair_is_refused(
    folder: Path, changes: dict[str, Any], problem: str
) -> None:
    with pytest.raises(ConfigError, match=problem):
        load_scale(folder, "tiny", changes=changes)


@pytest.mark.parametrize("quick", [3, ["a"]])
def test_quick_is_a_section(folder: Path, quick: Any) -> None:
    path = folder / "scales" / "tiny.yaml"
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), "quick": quick}))
    with pytest.raises(ConfigError, match="`quick` is not a section"):
        load_scale(folder, "tiny", quick=True)


@pytest.mark.parametrize(
    ("study", "values", "problem"),
    [
        (
            "table3",
            {"rows": {"x": {"name": "x", "strategy": "nothing", "of": "lora"}}},
            "no strategy 'nothing'",
        ),
        ("table3", {"tasks": ["a"]}, "needs two tasks"),
        (
            "table3",
            {"rows": {"x": {"name": "x", "strategy": "o-lora", "of": "neurolora"}}},
            "x: o-lora works with lora, not with neurolora",
        ),
        (
            "table2",
            {"merges": {"m": {"name": "m", "method": "tise", "lambdas": [1.0]}}},
            "m: there is no 'tise'; did you mean ties",
        ),
        (
            "table2",
            {"merges": {"m": {"name": "m", "method": "ties", "lambdas": [1.0], "density": 7.0}}},
            "m: .*7",
        ),
        ("table2", {"methods": ["lora", "mole"]}, "mole: mole cannot be merged, only lora, dora"),
        ("k", {"curve": {"setting": "target_modules", "label": "x"}}, "no number called target_modules"),
    ],
)
def test_everything_is_checked_before_the_first_cell(
    folder: Path, study: str, values: dict[str, Any], problem: str
) -> None:
    change(folder, study, against=[], **values)
    with pytest.raises(ConfigError, match=problem):
        require_fitting([load_study(folder, study)], load_scale(folder, "tiny"))


def test_a_wrong_setting_of_a_strategy_or_an_adapter_is_found_before_the_first_cell(folder: Path) -> None:
    row = {"name": "x", "strategy": "ewc", "of": "lora", "settings": {"wieght": 1}}
    change(folder, "table3", against=[], rows={"x": row})
    change(folder, "k", against=[], rows={"y": {"name": "y", "adapter": {"method": "lora", "rr": 4}}})
    with pytest.raises(ConfigError, match=r"(?s)2 problems.*x: wieght.*y: .*rr"):
        require_fitting([load_study(folder, name) for name in ("table3", "k")], load_scale(folder, "tiny"))
