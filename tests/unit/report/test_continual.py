"""The page of a comparison: a small one made by hand, its cells' folders where a test needs them."""

import json
import math
import re

import numpy as np
import pytest
import torch

from neurolora.continual.cell import cells
from neurolora.continual.config import StreamConfig, label_of, method_of
from neurolora.continual.metrics import forgetting
from neurolora.continual.results import summarise, trained_as, write_results
from neurolora.continual.use import USE, write_use
from neurolora.errors import DataError
from neurolora.report.continual import write_stream_report
from neurolora.report.continual_drift import (
    column_cosines,
    compare_stages,
    correlation,
    frequency_table,
    overlap,
    read_column_cosines,
    read_drift,
    read_routing,
)
from neurolora.report.continual_facts import mean_of, read_stream
from neurolora.report.continual_pictures import (
    forgetting_course,
    line_styles,
    matrix_picture,
    numbered,
    numbered_columns,
)
from neurolora.report.continual_tables import (
    COST_COLUMNS,
    STRATEGY_COLUMNS,
    cost_rows,
    incomplete,
    interval_note,
    strategy_rows,
)
from neurolora.report.heatmaps import table_heatmap

TASKS = ("recall", "passage", "sums")
NAN = math.nan
SEQUENTIAL = {"strategy": "sequential"}
BOUNDS = [{"strategy": "alone"}, {"strategy": "together"}]


def matrix(shift=0.0):
    """R (3, 3): 80 or more in a task's turn, then 10 less with each task; about 30 before it."""
    return (np.array([[80.0, 30.0, 31.0], [70.0, 82.0, 32.0], [60.0, 72.0, 84.0]]) + shift).tolist()


def costs(tasks):
    rows = [
        {"train_seconds": 10.0 * (j + 1), "after_seconds": 1.5, "memory_bytes": 2000 if j < 2 else 0,
         "adapter_bytes": 1_000_000 * (j + 1), "trainable_parameters": 1234} for j in range(3)
    ]  # fmt: skip
    return rows[:tasks]


def comparison(folder, strategies, *, change=lambda number, cell: None, model="some/base", **settings):
    """A folder with `results.json` as `continual` writes it; `change` may alter a cell, or leave it out."""
    config = StreamConfig.model_validate({
        "model": {"model_name_or_path": model}, "tasks": [{"name": task} for task in TASKS],
        "strategies": strategies, "output_dir": str(folder), **settings,
    })  # fmt: skip
    found = []
    for number, cell in enumerate(cells(config, folder)):
        values = {
            "label": label_of(config, cell.entry), "method": method_of(config, cell.entry),
            "trained_as": trained_as(config, cell.entry),
            "scope": cell.entry.row.scope, "needs_task": cell.entry.row.needs_task, "order": cell.order,
            "environments": [],
            "order_number": int(cell.folder.name.split("-")[1]), "seed": cell.seed,
            "R": matrix(float(cell.seed)), "scores": [], "costs": costs(len(cell.stages)), "complete": True,
        }  # fmt: skip
        if change(number, values) is not False:
            found.append(values)
    before = {task: {"value": 25.5 + place, "stderr": 1.0, "n": 300} for place, task in enumerate(TASKS)}
    folder.mkdir(exist_ok=True)
    write_results(folder, summarise(config, before, found))
    return folder


@pytest.fixture
def folder(tmp_path):
    """Two strategies and both bounds, one order, two seeds."""
    strategies = [SEQUENTIAL, {"strategy": "ewc"}, *BOUNDS]
    return comparison(tmp_path / "out", strategies, seeds=[0, 1])


def page(folder):
    return write_stream_report(folder).read_text(encoding="utf-8")


def headings(text):
    return re.findall(r"<h2>(.*?)</h2>", text)


def titles(text):
    return re.findall(r"<h3>(.*?)</h3>", text)


def told(text, title):
    """What the captions of the pictures of this title say."""
    return re.findall(rf"<h3>{re.escape(title)}</h3>.*?<figcaption>(.*?)</figcaption>", text, re.DOTALL)


def test_the_page_lies_in_the_folder_and_refers_to_nothing_outside(folder):
    path = write_stream_report(folder)
    assert path == folder / "report.html"
    text = path.read_text(encoding="utf-8")
    assert not re.findall(r'(?:href|src)="(?!#|data:)', text)
    assert text == page(folder)


def test_the_page_has_its_sections(folder):
    text = page(folder)
    assert headings(text) == [
        "What was compared", "After the last task, in percent", "What each strategy keeps",
        "Every task after every task", "Each task over time", "Forgetting", "What it costs",
        "Where it came from",
    ]  # fmt: skip
    labels = ["sequential-neurolora", "ewc-lora", "alone-neurolora", "together-neurolora"]
    assert titles(text) == [
        "Kept and learned", "Backward transfer", *labels, *labels[:2], "Forgetting of the tasks so far",
    ]  # fmt: skip
    assert "Not everything is here" not in text


def test_numbers_are_those_of_the_summary(folder):
    text = page(folder)
    assert "72.5 ± 6.4" in text  # the mean of the last row, of seeds 0 and 1: 12.706 x 0.5
    assert told(text, "Backward transfer") == ["sequential-neurolora: -15.0; ewc-lora: -15.0"]
    assert "At the end, sequential-neurolora: 15.0; ewc-lora: 15.0" in text
    assert "ewc-lora: 72.5 and 82.5" in told(text, "Kept and learned")[0]
    assert "25.5 ± 1" in text


def test_a_heatmap_is_the_mean_over_seeds_under_the_base_models_row(folder):
    text = page(folder)
    assert told(text, "sequential-neurolora")[0] == "Mean of the last row: 72.5"
    picture = re.search(r"<h3>ewc-lora</h3>(.*?)</svg>", text, re.DOTALL)[1]
    assert [name in picture for name in (">base model<", ">25.5<", ">80.5<", ">31.5<")] == [True] * 4
    assert told(text, "alone-neurolora") == ["Mean of the diagonal: 82.5"]
    assert text.count(">all at once<") == 1


def test_other_orders_are_folded_away(tmp_path):
    orders = [list(TASKS), list(TASKS[::-1])]
    text = page(comparison(tmp_path / "out", [SEQUENTIAL, BOUNDS[0]], orders=orders))
    first, folded = text.split("The other orders")
    assert "sequential-neurolora, order 1" in first
    assert "sequential-neurolora, order 2" not in first
    assert "sequential-neurolora, order 2" in folded
    assert "alone-neurolora, order 2" not in folded
    assert "recall → passage → sums" in first
    assert "sums → passage → recall" in first


def test_a_comparison_of_one_cell(tmp_path):
    text = page(comparison(tmp_path / "out", [SEQUENTIAL]))
    assert "1 strategy on 3 tasks" in text
    assert "The other orders" not in text
    assert "there is nothing to take an interval over" in text


def test_bounds_alone_have_no_course(tmp_path):
    text = page(comparison(tmp_path / "out", BOUNDS))
    assert "Each task over time" not in text
    assert "Forgetting" not in headings(text)
    assert "Backward transfer" not in titles(text)


def test_cells_that_are_not_complete_are_named(tmp_path):
    def change(number, cell):
        if number == 1:
            cell["R"], cell["costs"], cell["complete"] = (
                [[80.0, 30.0, 31.0], [NAN] * 3, [NAN] * 3],
                costs(1),
                False,
            )
        return number < 2

    out = comparison(tmp_path / "out", [SEQUENTIAL, {"strategy": "ewc"}], seeds=[0, 1, 2], change=change)
    assert incomplete(read_stream(out)) == [
        "sequential-neurolora, order-0-seed-1: 1 of 3 trainings done",
        "sequential-neurolora: 1 cell not in the results yet",
        "ewc-lora: 3 cells not in the results yet",
    ]
    text = page(out)
    assert "Not everything is here" in text
    assert "1 of 6" in text
    assert "At the end, sequential-neurolora: 15.0" in text  # of the complete cell alone


def test_a_comparison_whose_only_cell_has_just_begun(tmp_path):
    def change(number, cell):
        cell["R"], cell["costs"], cell["complete"] = [[NAN] * 3] * 3, [], False

    text = page(comparison(tmp_path / "out", [SEQUENTIAL], change=change))
    assert told(text, "sequential-neurolora") == ["Not all tasks are learned yet", "No task is learned yet"]
    assert "0 of 3 trainings done" in text


def test_the_note_counts_cells(tmp_path):
    out = comparison(tmp_path / "out", [SEQUENTIAL], orders=[list(TASKS), list(TASKS[::-1])], seeds=[0, 1, 2])
    note = interval_note(read_stream(out))
    assert "2 orders × 3 seeds = 6 cells for each strategy (3 cells for a bound" in note
    assert "bootstrap" in note


def test_only_alone_needs_to_know_the_task(folder):
    rows = [dict(zip(STRATEGY_COLUMNS, row, strict=True)) for row in strategy_rows(read_stream(folder))]
    needs = {row["label"]: row["task identity at test time"] for row in rows}
    assert [label for label, need in needs.items() if need != "not needed"] == ["alone-neurolora"]
    assert "Fisher information" in rows[1]["passes on to the next task"]


def test_costs_add_up_and_stand_beside_sequential_of_the_same_method(tmp_path):
    def change(number, cell):
        if cell["label"].startswith("ewc"):
            cell["costs"] = [{**one, "train_seconds": 40.0} for one in cell["costs"]]

    strategies = [
        SEQUENTIAL,
        {"strategy": "sequential", "adapter": {"method": "lora"}},
        {"strategy": "ewc"},
        BOUNDS[0],
    ]
    out = comparison(tmp_path / "out", strategies, seeds=[0, 1], change=change)
    rows = [dict(zip(COST_COLUMNS, row, strict=True)) for row in cost_rows(read_stream(out))]
    first, lora, ewc, alone = rows
    assert (first["training, s"], first["kept beside the adapter"]) == ("60", "2 kB")
    assert (first["adapter"], first["trainable parameters"]) == ("3 MB", "1,234")
    assert lora["training, s"] == "60"
    assert ewc["training, s"] == "120 (2×)"
    assert alone["adapter"] == "6 MB (2×)"


def test_without_a_complete_cell_there_are_no_costs(tmp_path):
    out = comparison(tmp_path / "out", [SEQUENTIAL], change=lambda number, cell: cell.update(complete=False))
    assert cost_rows(read_stream(out)) == [["sequential-neurolora", *[None] * (len(COST_COLUMNS) - 1)]]


def test_forgetting_after_each_task_ends_at_the_metric():
    R = np.array(matrix())
    assert forgetting_course(R) == [0.0, 10.0, pytest.approx(forgetting(R))]
    R[2] = NAN
    assert forgetting_course(R) == [0.0, 10.0, pytest.approx(NAN, nan_ok=True)]


def test_means_leave_out_what_is_not_measured():
    found = mean_of([[[1.0, NAN], [NAN, 4.0]], [[3.0, 5.0], [NAN, 6.0]]])
    np.testing.assert_array_equal(found, [[2.0, 5.0], [NAN, 5.0]])


def test_long_names_stay_apart_and_do_not_crowd_the_top():
    order = [f"{'long-' * 8}task-number-{place}-in-english" for place in range(12)]
    rows = numbered(order)
    assert len(set(rows)) == 12
    assert max(map(len, rows)) <= 18
    assert numbered_columns(order) == [str(place) for place in range(1, 13)]
    assert numbered_columns(TASKS) == ["1 recall", "2 passage", "3 sums"]


def test_cells_that_are_not_measured_have_no_number():
    drawn = matrix_picture("t", TASKS, [25.0] * 3, {"1 recall": [80.0, NAN, 33.25]}, 90.0, "told")
    numbers = re.findall(r">(\d+\.\d)<", drawn.svg)
    assert numbers == ["25.0", "25.0", "25.0", "80.0", "33.2"]
    assert ">nan<" not in drawn.svg


def test_many_columns_have_whole_numbers_and_too_many_none():
    wide = table_heatmap("t", "l", ["a"], [str(n) for n in range(20)], [[77.7] * 20], 100.0, "told")
    assert wide.svg.count(">78<") == 20
    wider = table_heatmap("t", "l", ["a"], [str(n) for n in range(21)], [[77.7] * 21], 100.0, "told")
    assert ">78<" not in wider.svg


def test_eighteen_lines_can_be_told_apart():
    assert len(set(line_styles([str(number) for number in range(18)]).values())) == 18


def test_what_is_written_is_escaped(tmp_path):
    text = page(comparison(tmp_path / "out", [SEQUENTIAL], model="<script>alert(1)"))
    assert "<script" not in text
    assert "&lt;script&gt;" in text


def with_first_cell(text, **changes):
    document = json.loads(text)
    document["cells"][0] |= changes
    return json.dumps(document)


@pytest.mark.parametrize(
    ("damage", "found"),
    [
        (lambda text: None, "there is no results.json"),
        (lambda text: text[:-40], "is no JSON"),
        (lambda text: "\xff".encode("latin-1"), "is no JSON"),
        (lambda text: "[1, 2]", "or damaged"),
        (lambda text: '{"tasks": []}', "or damaged"),
        (lambda text: text.replace('"label": "ewc-lora"', '"label": "nobody"'), "or damaged"),
        (lambda text: text.replace('"strategy": "ewc"', '"strategy": "nothing"'), "or damaged"),
        (lambda text: text.replace('"value": 25.5', '"value": "much"'), "or damaged"),
        (lambda text: re.sub(r'"high": [\d.]+', '"high": null', text, count=1), "or damaged"),
        (lambda text: re.sub(r'("low": )[-\d.]+(,\s*"mean")', r"\1null\2", text), "or damaged"),
        (lambda text: re.sub(r'"R": \[\s*\[', '"R": [[1.0], [', text, count=1), "or damaged"),
        (lambda text: with_first_cell(text, R=[[1.0]]), "R has the shape"),
        (lambda text: json.dumps({**json.loads(text), "cells": []}), "it has no cells"),
    ],
)  # fmt: skip
def test_bad_results_are_an_error_of_the_house(folder, damage, found):
    file = folder / "results.json"
    text = file.read_text(encoding="utf-8")
    new = damage(text)
    assert new != text
    if new is None:
        file.unlink()
    else:
        file.write_bytes(new if isinstance(new, bytes) else new.encode())
    with pytest.raises(DataError, match=found):
        write_stream_report(folder)
    assert not (folder / "report.html").exists()


def test_overlap_and_correlation():
    f, g = [0.5, 0.25, 0.25, 0.0], [0.25, 0.75, 0.0, 0.0]
    assert overlap(f, g) == pytest.approx(0.5 / 1.5)
    assert overlap(f, f) == 1
    assert math.isnan(overlap([0.0], [0.0]))
    assert correlation(f, g) == pytest.approx(np.corrcoef(f, g)[0, 1])
    assert math.isnan(correlation(f, [0.25] * 4))


def test_tasks_are_compared_over_the_ranks_that_both_had():
    stages = [{"q": [0.5, 0.1], "k": [0.2, 0.4]}, {"q": [0.1, 0.5, 0.3], "k": [0.2, 0.4, 0.9]}]
    found = compare_stages(stages, overlap)
    expected = (0.2 / 1.0 + 1.0) / 2
    np.testing.assert_allclose(found, [[1, expected], [expected, 1]])
    table = frequency_table(stages)
    np.testing.assert_allclose(table, [[0.35, 0.25, NAN], [0.15, 0.45, 0.6]])


def test_column_cosines_are_those_of_a_slow_loop():
    B = np.random.default_rng(0).normal(size=(3, 5, 4))
    B[0, :, 2] = 0.0
    expected = np.zeros((3, 3))
    for j in range(3):
        for k in range(3):
            columns = [i for i in range(4) if B[j, :, i].any() and B[k, :, i].any()]
            expected[j, k] = np.mean([
                B[j, :, i] @ B[k, :, i] / math.sqrt(B[j, :, i] @ B[j, :, i] * (B[k, :, i] @ B[k, :, i]))
                for i in columns
            ])  # fmt: skip
    np.testing.assert_allclose(column_cosines(B), expected, atol=1e-12)


@pytest.fixture
def with_adapters(folder, make):
    """The first cell of `sequential-neurolora` with adapters and routing: both turn round and back."""
    place = folder / "cells" / "sequential-neurolora" / "order-0-seed-0" / "tasks"
    turns = (1.0, -1.0, 1.0)
    for stage, (task, turn) in enumerate(zip(TASKS, turns, strict=True)):
        run = place / f"{stage}-{task}" / "run"
        tensors = {
            key: turn * value if key.endswith("neurolora_B") else value
            for key, value in make.tensors().items()
        }
        make.adapter(run, tensors=tensors)
        routing = make.routing()
        if stage == 1:
            for layer in routing["layers"]:
                layer["active_frequency"] = layer["active_frequency"][::-1]
        (run / "routing.json").write_text(json.dumps(routing))
    return folder


def first_cell(folder):
    return read_stream(folder).cells[0]


def test_routing_and_columns_are_read_from_the_cells_files(with_adapters):
    text = page(with_adapters)
    assert "Which ranks the tasks use" in headings(text)
    assert "How far the columns of B turned" in headings(text)
    label = "sequential-neurolora"
    assert titles(text).count(f"{label}: correlation") == 1
    assert "3 tasks: from -1 to 1, middle 1" in told(text, label)
    np.testing.assert_allclose(
        read_column_cosines(first_cell(with_adapters)), [[1, -1, 1], [-1, 1, -1], [1, -1, 1]], atol=1e-6
    )
    stages = read_routing(first_cell(with_adapters))
    assert compare_stages(stages, correlation)[0, 2] == pytest.approx(1)
    assert compare_stages(stages, correlation)[0, 1] < 0
    expected = np.mean([overlap(values, values[::-1]) for values in stages[0].values()])
    assert f"{expected:.2f} / -" in text


def test_earlier_tasks_blocks_come_first(with_adapters, make):
    routing = make.routing(["q"])
    past = {**routing["layers"][0], "adapter": "past", "active_frequency": [0.9, 0.8]}
    routing["layers"].append(past)
    path = first_cell(with_adapters).cell.task_folder(1) / "run" / "routing.json"
    path.write_text(json.dumps(routing))
    assert read_routing(first_cell(with_adapters))[1]["q"][:2] == [0.9, 0.8]


def test_sections_end_at_the_first_gap(with_adapters):
    cell = first_cell(with_adapters).cell
    (cell.task_folder(1) / "run" / "routing.json").unlink()
    (cell.task_folder(2) / "run" / "adapter_model.safetensors").unlink()
    assert len(read_routing(first_cell(with_adapters))) == 1
    assert len(read_column_cosines(first_cell(with_adapters))) == 2
    (cell.task_folder(0) / "run" / "routing.json").unlink()
    text = page(with_adapters)
    assert "Which ranks the tasks use" not in text
    assert "Not everything is here" not in text


def test_drift_is_of_the_same_rows_and_of_the_ranks_of_then(with_adapters):
    cell = first_cell(with_adapters).cell
    for stage, use in enumerate([
        {"recall": {"q": [1.0, 0.0], "k": [0.5, 0.5]}},
        {"recall": {"q": [0.0, 1.0], "k": [0.5, 0.5]}, "passage": {"q": [1.0, 1.0], "k": [1.0, 0.0]}},
        {"recall": {"q": [1.0, 0.0, 0.7], "k": [0.5, 0.5, 0.7]},
         "passage": {"q": [0.5, 1.0], "k": [1.0, 0.0]}, "sums": {"q": [1.0, 0.0], "k": [1.0, 0.0]}},
    ]):  # fmt: skip
        write_use(cell.task_folder(stage), use)
    expected = [[1, NAN, NAN], [0.5, 1, NAN], [1, (1.5 / 2 + 1) / 2, 1]]
    np.testing.assert_allclose(read_drift(first_cell(with_adapters)), expected)
    assert "How the routing of a task drifts" in headings(page(with_adapters))
    (cell.task_folder(1) / USE).write_text("[]")
    text = page(with_adapters)
    assert "How the routing of a task drifts" not in headings(text)
    assert f"reading {cell.task_folder(1) / USE}" in text
    (cell.task_folder(1) / USE).unlink()
    assert len(read_drift(first_cell(with_adapters))) == 1  # up to the gap


@pytest.mark.parametrize("content", ["{", "[]", '{"layers": []}', '{"layers": [{"name": "q"}]}', "\xff"])
def test_damaged_routing_is_named_and_left_out(with_adapters, content):
    path = first_cell(with_adapters).cell.task_folder(0) / "run" / "routing.json"
    path.write_bytes(content.encode("latin-1"))
    text = page(with_adapters)
    assert "Which ranks the tasks use" not in text
    assert f"reading {path}" in text


def test_a_damaged_adapter_is_named_and_left_out(with_adapters):
    path = first_cell(with_adapters).cell.task_folder(1) / "run" / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-8])
    text = page(with_adapters)
    assert "How far the columns of B turned" not in text
    assert "truncated or damaged" in text


def test_adapters_of_other_shapes_are_named_and_left_out(with_adapters, make):
    tensors = make.tensors()
    key = next(key for key in tensors if key.endswith("neurolora_B"))
    tensors[key] = torch.ones(3, 5)
    make.adapter(first_cell(with_adapters).cell.task_folder(1) / "run", tensors=tensors)
    assert "Its columns cannot be followed" in page(with_adapters)
