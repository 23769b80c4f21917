"""The pages of studies: from results alone, the same bytes each time; and what stands in the docs."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from neurolora.errors import DataError
from neurolora.intervals import interval, paired
from neurolora.report.studies import (
    BEGIN,
    END,
    page_name,
    read_results,
    readme_block,
    results_markdown,
    with_block,
    write_pages,
)
from neurolora.report.study_facts import (
    all_orders,
    by_verdict,
    claims,
    costs,
    differences,
    hypotheses,
    in_words,
    orders,
    printed,
    provenance,
    scores,
    spread,
    task_parts,
)
from neurolora.report.study_pictures import curve_picture
from neurolora.studies import default_folder

ROOT = Path(__file__).resolve().parents[3]


def row(name: str, values: list[float], other: list[float], paper: float | None = None) -> dict[str, Any]:
    return {
        "id": name,
        "name": name.upper(),
        "values": {"sums": values},
        "intervals": {"sums": interval(values)},
        "paper": {} if paper is None else {"sums": paper},
        "against": {} if name == "a" else {"a": {"sums": paired(values, other)}},
        "costs": {
            "trainable": 1234,
            "percent": 1.5,
            "stored": 10,
            "active": 5,
            "seconds": 2.0,
            "peak_bytes": 3e8,
        },
    }


@pytest.fixture
def result() -> dict[str, Any]:
    first, second = [1.0, 2.0, 3.0], [3.0, 4.5, 5.5]
    return {
        "study": "k",
        "title": "A <study> | of k",
        "about": "What it is.",
        "kind": "single",
        "scale": {"id": "tiny", "label": "tiny", "about": "a tiny model", "quick": False, "note": "mind"},
        "model": {"model_name_or_path": "m"},
        "sizes_fingerprint": "s",
        "model_fingerprint": "m",
        "seeds": [0, 1, 2],
        "columns": [{"id": "sums", "name": "sums", "printed": "GSM8K"}],
        "base": {"sums": 0.5},
        "rows": [row("a", first, first, 58.7), row("b", second, first)],
        "curve": {"label": "k", "places": {"a": 4.0, "b": 8.0}},
        "claims": [
            {"say": "b wins", "verdict": "held", "difference": paired(second, first)},
            {"say": "c wins", "verdict": "not measured", "difference": None},
        ],
        "hypotheses": [{"say": "a loses", "verdict": "opposite", "difference": paired(first, second)}],
        "tasks": {
            "gsm8k": {"name": "sums", "printed": "GSM8K", "metric": "accuracy", "n": 10, "left_out": 2},
        },
        "searches": [
            {"name": "A", "tried": [{"value": 0.1, "score": 3.0}], "chosen": 0.1, "at_an_end": True},
        ],
        "sizes": {
            "eval": {"limit": 10},
            "data": {"max_train_samples": 99},
            "train": {
                "num_train_epochs": 3,
                "per_device_train_batch_size": 4,
                "gradient_accumulation_steps": 2,
            },
        },
        "cells": ["x"],
        "older_code": 1,
        "environment": {
            "first": "2026-01-01", "last": "2026-01-02", "devices": ["cpu, 2 cores"], "commits": ["f" * 40],
            "dirty": True, "versions": {"torch": ["2"], "peft": ["0", "1"]},
        },
    }  # fmt: skip


def test_a_mean_stands_with_half_its_interval() -> None:
    assert spread(interval([1.0, 2.0, 3.0])) == "2.0 ± 2.5"
    assert spread(interval([4.0])) == "4.0"


def test_scores_begin_with_those_before_training(result: dict[str, Any]) -> None:
    table = scores(result)
    assert table.columns == ["", "sums"]
    assert table.rows == [["before training", "0.5"], ["A", "2.0 ± 2.5"], ["B", "4.3 ± 3.1"]]
    del result["base"]
    assert len(scores(result).rows) == 2


def test_the_papers_figures_have_a_table_under_the_papers_names(result: dict[str, Any]) -> None:
    table = printed(result)
    assert (table.columns, table.rows) == (["", "GSM8K"], [["A", "58.7"]])
    for each in result["rows"]:
        each["paper"] = {}
    assert printed(result).rows == []
    assert "### The paper's figures" not in results_markdown([result])


def test_every_order_that_the_figures_give_is_judged(result: dict[str, Any]) -> None:
    result["rows"][1]["paper"] = {"sums": 50.0}
    (order,) = orders(result)
    assert order.verdict == "opposite"  # the paper has A above B
    assert order.say == "sums: A above B (58.7 and 50.0), here -2.3 ± 0.7, p 0.0051"
    assert in_words([result]).endswith(
        "Of 1 order of two rows that the figures of its tables give, 0 are the same here, 1 the other way "
        "round; 0 are not decided."
    )
    assert by_verdict([result])[-1] == (
        "Orders of the paper's figures that are the other way round", [order.say]
    )  # fmt: skip
    again = {**copy.deepcopy(result), "study": "l"}
    assert all_orders([result, again]) == [order]  # another table with the same two rows
    again["rows"][0]["values"]["sums"] = [1.0, 2.0, 4.0]
    assert len(all_orders([result, again])) == 2
    result["rows"][1]["paper"] = {"sums": 60.0}
    assert orders(result)[0].verdict == "held"
    result["rows"][1]["paper"] = {"sums": 58.7}
    assert orders(result) == []


def test_an_average_over_tasks_is_shown_task_by_task(result: dict[str, Any]) -> None:
    assert task_parts(result).rows == []
    result["rows"][0]["parts"] = {"sums": {"gsm8k": 12.34}}
    table = task_parts(result)
    assert (table.columns, table.rows) == (["", "", "sums"], [["A", "sums", "12.3"]])


def test_differences_have_sign_interval_and_p(result: dict[str, Any]) -> None:
    assert differences(result).rows == [["B", "A", "+2.3 ± 0.7, p 0.0051"]]


def test_claims_and_costs_are_told_in_words_and_units(result: dict[str, Any]) -> None:
    assert [line[1] for line in claims(result).rows] == ["held", "not measured"]
    assert costs(result).rows[0] == ["A", "1,234", "1.50", "5", "10", "2", "300"]
    assert in_words([result]).startswith("Of 2 statements of the paper that the studies name, 1 held; 0 ")
    assert in_words([result]).endswith("1 could not be measured.")


def test_which_statements_held_is_said_in_plain_words(result: dict[str, Any], tmp_path: Path) -> None:
    result["claims"].append({**result["hypotheses"][0], "say": "a > b", "verdict": "open"})
    assert [(title, len(sayings)) for title, sayings in by_verdict([result])] == [
        ("Held here", 1), ("Not decided by these seeds", 1), ("Not measured", 1),
    ]  # fmt: skip
    text = results_markdown([result])
    assert "**Held here**\n\n- b wins (+2.3 ± 0.7, p 0.0051)\n" in text
    assert text.index("Held here") < text.index("## A <study>")
    page = write_pages([result], tmp_path)[1].read_text()
    assert "<li>a &gt; b (" in page


def test_what_we_ask_ourselves_is_not_counted_as_the_papers(result: dict[str, Any]) -> None:
    assert hypotheses(result).rows[0][:2] == ["a loses", "did not hold: the opposite did"]
    assert "0 turned out the other way round" in in_words([result])
    assert "### What we asked\n\n| we asked whether |" in results_markdown([result])


def test_what_was_measured_and_trained_on_is_told(result: dict[str, Any]) -> None:
    told = dict(provenance(result))
    assert told["Tasks"] == (
        "sums in the place of GSM8K: the task's own score: accuracy or exact match, in percent, of 10 test "
        "rows, 2 left out"
    )
    assert told["To know"] == "mind"
    assert told["Trained on"] == "at most 99 rows of a task, 3 epochs, 8 rows a step and process"


def test_markdown_keeps_its_tables_whole(result: dict[str, Any]) -> None:
    result["rows"][0]["name"] = "a | b"
    lines = [line for line in results_markdown([result]).splitlines() if line.startswith("|")]
    assert any(r"a \| b" in line for line in lines)
    assert "1 of 1 cells, taken as they were" in results_markdown([result])
    assert "peft 0 and 1" in results_markdown([result])
    assert "ffffffffffff (with changes that are in no commit)" in results_markdown([result])


def test_results_of_different_settings_share_no_page(result: dict[str, Any], tmp_path: Path) -> None:
    for name in ("sizes_fingerprint", "model_fingerprint"):
        other = {**copy.deepcopy(result), name: "t"}
        with pytest.raises(DataError, match="their settings differ"):
            write_pages([result, other], tmp_path)
    assert not list(tmp_path.iterdir())


def test_equal_results_give_equal_bytes(result: dict[str, Any], tmp_path: Path) -> None:
    for name in ("one", "two"):
        paths = write_pages([copy.deepcopy(result)], tmp_path / name)
    assert [path.name for path in paths] == ["results-tiny.md", "results-tiny.html"]
    for path in paths:
        assert path.read_bytes() == (tmp_path / "one" / path.name).read_bytes()
    page = paths[1].read_text()
    assert "A &lt;study&gt; | of k" in page
    assert "<svg" in page


def test_a_curve_has_the_papers_figures_in_a_panel_of_their_own(result: dict[str, Any]) -> None:
    """58.7 and our 2.0 to 4.3 on one axis would be two flat lines."""
    own = curve_picture(result, "sums")
    assert own.description == "Highest mean at 8: 4.3 ± 3.1; the paper's at 4"
    assert "sums, here" in own.svg
    assert "the paper, Llama-3-8B" in own.svg
    for each in result["rows"]:
        each["paper"] = {}
    alone = curve_picture(result, "sums")
    assert "the paper" not in alone.svg + alone.description


def test_bars_are_drawn_where_there_is_no_curve(result: dict[str, Any], tmp_path: Path) -> None:
    result["curve"] = None
    page = write_pages([result], tmp_path)[1].read_text()
    assert "Highest here: B" in page
    assert "a small point is a seed" in page


def test_a_readme_gets_the_miniature_between_its_marks_and_nothing_else(
    result: dict[str, Any], tmp_path: Path
) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(f"# x\n{BEGIN}\nold\n{END}\nrest\n")
    write_pages([result], tmp_path, readme)
    assert "old" in readme.read_text()
    result["scale"]["label"] = "miniature"
    write_pages([result], tmp_path, readme)
    text = readme.read_text()
    assert text.startswith(f"# x\n{BEGIN}\n")
    assert text.endswith(f"{END}\nrest\n")
    assert readme_block([result]) in text
    assert "old" not in text
    assert "58.7" not in text
    assert "A <study>" not in text  # of one column: on the page alone


def test_a_readme_shows_trained_parameters_and_of_merges_what_is_kept(result: dict[str, Any]) -> None:
    result["columns"].append({"id": "sum_kept", "name": "sum, % kept", "printed": "sum, % kept"})
    assert "| B | 4.3 ± 3.1 | – | 1,234 |" in readme_block([result])
    result["kind"] = "merging"
    block = readme_block([result])
    assert "|  | sum, % kept |" in block
    assert "before training" not in block


def test_a_readme_without_marks_is_refused() -> None:
    with pytest.raises(DataError, match="no marks"):
        with_block("# x\n", "block", "README.md")


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"study": 1}'])
def test_what_is_no_result_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "tiny.json"
    path.write_text(content)
    with pytest.raises(DataError, match=r"tiny\.json"):
        read_results([path])


def test_the_documentation_says_what_the_stored_results_say() -> None:
    """docs/results.md and the README's part are made by `neurolora reproduce`, never by hand."""
    from neurolora.studies import load_scale, stored_results

    folder = default_folder()
    for label in sorted({path.stem for path in folder.glob("*/*.json") if path.parent.name != "scales"}):
        results = read_results(stored_results(folder, load_scale(folder, label)))
        page = page_name(results)
        assert (ROOT / "docs" / f"{page}.md").read_text() == results_markdown(results)
        assert (ROOT / "docs" / f"{page}.html").is_file()
        if page == "results":
            assert readme_block(results) in (ROOT / "README.md").read_text()
    pages = {path.stem for path in (ROOT / "docs").glob("results*.md")}
    assert pages == {path.stem for path in (ROOT / "docs").glob("results*.html")}


def test_the_stored_results_are_of_the_studies_and_scales_of_now() -> None:
    """A figure of the paper or a size that is corrected later must not leave the old ones on the page."""
    from neurolora.provenance import fingerprint_json
    from neurolora.studies import load_scale, load_study
    from neurolora.studies.results import settings_fingerprint

    folder = default_folder()
    for path in folder.glob("*/*.json"):
        if path.parent.name != "scales":
            found = json.loads(path.read_text())
            assert found["spec"] == fingerprint_json(load_study(folder, path.parent.name).model_dump())[:16]
            assert found["sizes_fingerprint"] == settings_fingerprint(load_scale(folder, path.stem))
