"""Whole streams on a tiny model: every strategy, what passes between tasks, results, refusals."""

from __future__ import annotations

import csv
import itertools
import json
import math
from pathlib import Path
from statistics import mean
from types import ModuleType
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from neurolora.continual import STRATEGIES, load_stream, run_continual, table_rows
from neurolora.continual.cell import _greater
from neurolora.continual.protect import ProtectLoss
from neurolora.errors import ConfigError, OutputError
from neurolora.report.continual import write_stream_report
from neurolora.tuner import adapter_layers


def run(path: Path, **options: Any) -> dict[str, Any]:
    return run_continual(load_stream(path), progress=False, **options).summary


@pytest.fixture(scope="module")
def stream(tmp_path_factory: pytest.TempPathFactory, tiny_stream: ModuleType) -> tuple[Path, dict[str, Any]]:
    base = tmp_path_factory.mktemp("stream")
    return base / "out", run(tiny_stream.write_stream(base, tiny_stream.ROWS))


def test_every_strategy_is_there_and_finishes(
    stream: tuple[Path, dict[str, Any]], tiny_stream: ModuleType
) -> None:
    assert {row["strategy"] for row in tiny_stream.ROWS} == set(STRATEGIES)
    rows = {row["label"]: row for row in stream[1]["rows"]}
    assert len(rows) == len(tiny_stream.ROWS)
    for label, row in rows.items():
        assert (row["complete"], row["cells"]) == (1, 1), label
        assert set(row["accuracy"]) == set(tiny_stream.TASKS)
        assert all(0 <= value["mean"] <= 100 for value in row["accuracy"].values())


def test_every_entry_of_the_matrix_is_there(stream: tuple[Path, dict[str, Any]]) -> None:
    for cell in stream[1]["cells"]:
        if cell["scope"] == "stream":
            assert all(value is not None for row in cell["R"] for value in row)
            wanted = {"average_accuracy", "backward_transfer", "forward_transfer"}
            assert wanted <= set(cell["metrics"])
            # the file learns each task alone with this method, and with no other
            assert ("intransigence" in cell["metrics"]) == (cell["method"] == "neurolora")
    lines = list(csv.DictReader((stream[0] / "R.csv").open()))
    streams = sum(cell["scope"] == "stream" for cell in stream[1]["cells"])
    assert len(lines) == 9 * streams + 3 + 3
    together = [line for line in lines if line["label"].startswith("together")]
    assert [(line["after"], line["task"]) for line in together] == [("a b c", task) for task in "abc"]


def test_the_table_says_who_needs_the_task(stream: tuple[Path, dict[str, Any]]) -> None:
    columns, rows = table_rows(stream[1])
    need = {str(row[0]): row[columns.index("needs the task")] for row in rows}
    assert {label for label, value in need.items() if value == "yes"} == {"alone-neurolora"}
    assert set(need.values()) == {"yes", "no"}


def test_where_it_was_made_is_told_of_every_cell(stream: tuple[Path, dict[str, Any]]) -> None:
    for cell in (*stream[1]["cells"], stream[1]):
        assert cell["environment"]["versions"]["torch"] == [torch.__version__]
        assert cell["environment"]["first"] <= cell["environment"]["last"]


def test_memory_is_that_of_the_stage(stream: tuple[Path, dict[str, Any]]) -> None:
    """EWC's is measured after training as well, where the Fisher information is."""
    for cell in stream[1]["cells"]:
        assert all(cost["peak_bytes"] is None or cost["peak_bytes"] >= 0 for cost in cell["costs"])
    assert _greater(3, 5) == 5
    assert (_greater(None, 5), _greater(5, None), _greater(None, None)) == (5, 5, None)


def test_means_are_over_seeds(tiny_stream: ModuleType, tmp_path: Path) -> None:
    """Two orders of a seed are one value, as they share its rows and starts."""
    path = tiny_stream.write_stream(
        tmp_path,
        [tiny_stream.entry("sequential", "lora")],
        orders=[["a", "b", "c"], ["c", "b", "a"]],
        seeds=[0, 1],
        eval={"unseen": False},
        train={**tiny_stream.TRAIN, "max_steps": 2},
    )
    found = run(path)
    each = [
        mean(cell["metrics"]["backward_transfer"] for cell in found["cells"] if cell["seed"] == seed)
        for seed in (0, 1)
    ]
    bwt = found["rows"][0]["metrics"]["backward_transfer"]
    assert (bwt["n"], found["rows"][0]["complete"]) == (2, 4)
    assert bwt["mean"] == pytest.approx(mean(each))
    half = 12.706 * abs(each[0] - each[1]) / 2  # Student's t, one degree of freedom
    assert bwt["high"] - bwt["mean"] == pytest.approx(half, rel=1e-3)
    assert sorted(bwt["bootstrap"]) == pytest.approx(sorted(each))


def test_the_tasks_are_learned_and_forgotten(stream: tuple[Path, dict[str, Any]]) -> None:
    """So that the strategies have something to do."""
    cell = next(cell for cell in stream[1]["cells"] if cell["label"] == "sequential-neurolora")
    before = [stream[1]["before"][task]["value"] for task in cell["order"]]
    assert all(cell["R"][i][i] > 1.5 * before[i] for i in range(3))
    assert cell["metrics"]["backward_transfer"] < -0.1


def adapters(folder: Path, label: str) -> list[Path]:
    tasks = sorted((folder / "cells" / label / "order-0-seed-0" / "tasks").iterdir())
    return [task / "adapter" if (task / "adapter").is_dir() else task / "run" for task in tasks]


def test_a_sequential_adapter_keeps_a_and_moves_on(stream: tuple[Path, dict[str, Any]]) -> None:
    first, second, _ = (
        load_file(path / "adapter_model.safetensors") for path in adapters(stream[0], "sequential-neurolora")
    )
    for name in first:
        same = bool((first[name] == second[name]).all())
        assert same == ("neurolora_A" in name), name


def blocks_of(folder: Path) -> list[dict[str, torch.Tensor]]:
    """The tensors of each block of an adapter that has grown: A and gate as they are, B as it is scaled."""
    config = json.loads((folder / "adapter_config.json").read_text())
    state = load_file(folder / "adapter_model.safetensors")
    blocks, r = config.get("blocks", 1), config["r"]
    size, found = r // blocks, []
    for place in range(blocks):
        part = {}
        for name, value in state.items():
            along = [axis for axis, width in enumerate(value.shape) if width == r]
            ours = value if not along else value.narrow(along[0], place * size, size)
            part[name] = ours * config["lora_alpha"] / r if name.endswith("neurolora_B") else ours
        found.append(part)
    return found


def test_growing_keeps_every_earlier_block(stream: tuple[Path, dict[str, Any]]) -> None:
    """All of it: A, B and what of the gate has a line for each rank. B is rounded where blocks are joined."""
    after = [blocks_of(path) for path in adapters(stream[0], "grow-neurolora")]
    assert [len(blocks) for blocks in after] == [1, 2, 3]
    compared = 0
    names = [name for name in after[0][0] if not name.endswith("fingerprint")]
    for task, name in itertools.product(range(2), names):
        own = after[task][task][name]
        for later in after[task + 1 :]:
            if later[task][name].shape != own.shape:
                continue
            assert torch.allclose(later[task][name], own, rtol=1e-6, atol=0), name
            compared += 1
    assert compared >= 6 * 2  # A and B of each module, of three pairs
    A = [block[name] for block in after[2] for name in block if name.endswith("_A")]
    assert not any(torch.equal(one, other) for one, other in itertools.combinations(A[:: len(A) // 3], 2))


def test_olora_adds_its_ranks(stream: tuple[Path, dict[str, Any]]) -> None:
    ranks = [
        json.loads((path / "adapter_config.json").read_text())["r"]
        for path in adapters(stream[0], "o-lora-lora")
    ]
    assert ranks == [4, 8, 12]


def test_all_tasks_at_once_have_the_steps_of_all(stream: tuple[Path, dict[str, Any]]) -> None:
    runs = {
        label: sorted((stream[0] / "cells" / f"{label}-neurolora").rglob("run.json"))
        for label in ("together", "alone")
    }
    steps = {
        label: [json.loads(path.read_text())["steps"] for path in paths] for label, paths in runs.items()
    }
    assert steps == {"together": [18], "alone": [6, 6, 6]}


def test_nothing_is_left_that_is_not_needed(stream: tuple[Path, dict[str, Any]]) -> None:
    assert not list(stream[0].rglob("checkpoint-*"))
    for cell in (stream[0] / "cells").glob("*/*"):
        assert len(list((cell / "memory").iterdir())) == 1


def test_costs_grow_only_where_documented(stream: tuple[Path, dict[str, Any]]) -> None:
    for cell in stream[1]["cells"]:
        if cell["scope"] != "stream":
            continue
        strategy = STRATEGIES[next(name for name in STRATEGIES if cell["label"].startswith(name))]
        adapter = [cost["adapter_bytes"] for cost in cell["costs"]]
        memory = [cost["memory_bytes"] for cost in cell["costs"]][:2]
        grows = adapter[1] > 1.3 * adapter[0] or memory[1] > 1.3 * memory[0]
        assert grows == strategy.grows, (cell["label"], adapter, memory)


def test_a_finished_stream_is_only_read(stream: tuple[Path, dict[str, Any]]) -> None:
    before = {path: path.stat().st_mtime_ns for path in (stream[0] / "cells").rglob("*") if path.is_file()}
    said: list[str] = []
    found = run(stream[0].parent / "stream.yaml", notify=said.append)
    after = {path: path.stat().st_mtime_ns for path in (stream[0] / "cells").rglob("*") if path.is_file()}
    assert (before, said) == (after, [])
    assert found["rows"] == stream[1]["rows"]


def test_the_same_config_gives_the_same_bits(
    stream: tuple[Path, dict[str, Any]], tiny_stream: ModuleType, tmp_path: Path
) -> None:
    values = yaml.safe_load((stream[0].parent / "stream.yaml").read_text())
    again = {
        **values,
        "output_dir": str(tmp_path / "again"),
        "strategies": [tiny_stream.ROWS[6], tiny_stream.ROWS[8]],
    }
    (tmp_path / "again.yaml").write_text(yaml.safe_dump(again))
    found = run(tmp_path / "again.yaml")
    for cell in found["cells"]:
        first = next(one for one in stream[1]["cells"] if one["label"] == cell["label"])
        assert cell["scores"] == first["scores"]
    for label in ("replay-neurolora", "grow-neurolora"):
        for old, new in zip(adapters(stream[0], label), adapters(tmp_path / "again", label), strict=True):
            a, b = (load_file(path / "adapter_model.safetensors") for path in (old, new))
            assert all(bool((a[name] == b[name]).all()) for name in a)


def test_another_config_is_refused_with_the_difference(stream: tuple[Path, dict[str, Any]]) -> None:
    path = stream[0].parent / "other.yaml"
    values = yaml.safe_load((stream[0].parent / "stream.yaml").read_text())
    path.write_text(yaml.safe_dump({**values, "seeds": [3]}))
    with pytest.raises(ConfigError, match=r"seeds\[0\] was 0, is 3\. "):
        run(path)
    values["strategies"][3]["settings"]["weight"] = 9.0
    path.write_text(yaml.safe_dump(values))
    with pytest.raises(ConfigError) as error:
        run(path)
    assert "stream in" in str(error.value)
    assert str(error.value).count(" was ") == 1
    assert "strategies[3].settings.weight was 10.0, is 9.0. " in str(error.value)


def test_a_folder_of_something_else_is_refused(tiny_stream: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("x")
    with pytest.raises(OutputError, match="no stream's"):
        run(tiny_stream.write_stream(tmp_path, [tiny_stream.entry("sequential", "lora")]))
    assert (tmp_path / "out" / "thesis.tex").read_text() == "x"


def test_unseen_tasks_may_be_left_out(tiny_stream: ModuleType, tmp_path: Path) -> None:
    path = tiny_stream.write_stream(
        tmp_path,
        [tiny_stream.entry("sequential", "lora")],
        eval={"unseen": False},
        orders=[["c", "a", "b"], ["a", "b", "c"]],
        train={**tiny_stream.TRAIN, "max_steps": 1},
    )
    found = run(path)
    assert [cell["order"] for cell in found["cells"]] == [["c", "a", "b"], ["a", "b", "c"]]
    for cell in found["cells"]:
        assert cell["complete"]
        unseen = [cell["R"][j][i] for j in range(3) for i in range(j + 1, 3)]
        assert all(value is None or math.isnan(value) for value in unseen)
        assert "forward_transfer" not in cell["metrics"]
    assert found["rows"][0]["complete"] == 2


def test_a_comparison_may_grow(tiny_stream: ModuleType, tmp_path: Path) -> None:
    rows = [tiny_stream.entry("sequential", "lora")]
    short = {"train": {**tiny_stream.TRAIN, "max_steps": 1}, "eval": {"unseen": False}}
    first = run(tiny_stream.write_stream(tmp_path, rows, **short))
    more = {"seeds": [0, 1], "orders": [["a", "b", "c"], ["c", "b", "a"]]}
    with pytest.raises(ConfigError, match="orders was None"):  # the order of the file was not written down
        run(tiny_stream.write_stream(tmp_path, rows, **short, **more))
    said: list[str] = []
    path = tiny_stream.write_stream(tmp_path, rows, **short, seeds=[0, 1])
    second = run(path, notify=said.append)
    assert not any("seed-0" in line for line in said)
    assert second["cells"][0]["scores"] == first["cells"][0]["scores"]
    assert len(second["cells"]) == 2
    with pytest.raises(ConfigError, match=r"seeds was \[0, 1\], is \[0\]"):
        run(tiny_stream.write_stream(tmp_path, rows, **short))


def test_a_strategy_sees_the_routing_of_the_task_and_not_of_silence(
    tiny_stream: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, seen = ProtectLoss.__call__, []

    def watched(self: ProtectLoss, model: Any, moment: Any) -> Any:
        seen.append(all("default" in layer.records for _, layer in adapter_layers(model)))
        return real(self, model, moment)

    monkeypatch.setattr(ProtectLoss, "__call__", watched)
    (tmp_path / "quiet.txt").write_text("w1 w2 w3\nw4 w5\n")
    silence = {"silence_weight": 1.0, "silence_data": str(tmp_path / "quiet.txt"), "max_steps": 2}
    row = tiny_stream.entry("protect", "neurolora", samples=4)
    run(tiny_stream.write_stream(tmp_path, [row], train={**tiny_stream.TRAIN, **silence}))
    assert seen == [True] * 4


def test_the_page_of_a_real_stream_has_all_its_pictures(stream: tuple[Path, dict[str, Any]]) -> None:
    """Made from the folder alone; what could not be read would stand above them."""
    text = write_stream_report(stream[0]).read_text(encoding="utf-8")
    pictures = {part.split("</h2>")[0]: part.count("<svg") for part in text.split("<h2>")[1:]}
    streams = [cell["method"] for cell in stream[1]["cells"] if cell["scope"] == "stream"]
    routed = sum(method in ("neurolora", "flylora") for method in streams)
    assert pictures["Every task after every task"] == len(stream[1]["cells"])
    assert pictures["Each task over time"] == len(streams)
    assert pictures["Forgetting"] == 1
    assert pictures["Which ranks the tasks use"] >= routed
    assert pictures["How the routing of a task drifts"] == routed
    turning = {"o-lora", "grow"}  # these add columns, and never change one
    kept = [c for c in stream[1]["cells"] if c["scope"] == "stream" and c["method"] != "full"]
    assert pictures["How far the columns of B turned"] == sum(
        not any(c["label"].startswith(name) for name in turning) for c in kept
    )
    assert "Not everything is here" not in text
