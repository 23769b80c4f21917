"""The stream's file: what is read from it, and what is refused with all problems at once."""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from neurolora.continual import cells, load_stream, run_continual
from neurolora.continual.results import trained_as
from neurolora.errors import ConfigError, DataError

WORLD: dict[str, Any] = {
    "model": {"model_name_or_path": "world"},
    "tasks": ["world-recall", "world-passage", "world-sums"],
    "strategies": ["sequential"],
}


def load(tmp_path: Path, **changes: Any) -> Any:
    path = tmp_path / "stream.yaml"
    path.write_text(yaml.safe_dump({**WORLD, **changes}))
    return load_stream(path)


def refusal(tmp_path: Path, **changes: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, **changes)
    return str(caught.value)


def test_defaults(tmp_path: Path) -> None:
    config = load(tmp_path)
    assert config.all_orders == [["world-recall", "world-passage", "world-sums"]]
    assert config.seeds == [0]
    assert config.labels() == ["sequential-neurolora"]
    training = config.training(config.strategies[0], "world-sums", seed=3, place=2, output_dir=tmp_path)
    assert training.data.task == "world-sums"
    assert training.train.seed == 2003  # no task starts as the one before did
    assert training.adapter.settings["projection_seed"] == 3  # but on the same A


def test_a_block_of_its_own_has_an_a_of_its_own(tmp_path: Path) -> None:
    config = load(tmp_path, strategies=["grow"], adapter={"projection_seed": 5})
    seeds = [
        config.training(config.strategies[0], "world-sums", seed=1, place=place, output_dir=tmp_path)
        for place in range(3)
    ]
    assert [one.adapter.settings["projection_seed"] for one in seeds] == [5, 1005, 2005]


def test_more_special_settings_win(tmp_path: Path) -> None:
    config = load(
        tmp_path,
        tasks=["world-recall", {"name": "sums", "task": "world-sums", "max_length": 99}],
        adapter={"r": 16, "top_k": 4},
        data={"max_length": 50},
        train={"learning_rate": 1e-3},
        strategies=[
            {"strategy": "ewc", "adapter": {"method": "flylora", "r": 8}, "train": {"learning_rate": 2e-3}}
        ],
    )
    entry = config.strategies[0]
    first, second = (
        config.training(entry, task, seed=0, place=0, output_dir=tmp_path)
        for task in ("world-recall", "sums")
    )
    assert (first.data.max_length, second.data.max_length) == (50, 99)
    assert (first.adapter.settings["r"], first.adapter.settings["top_k"]) == (8, 4)
    assert first.train.learning_rate == 2e-3


def test_orders(tmp_path: Path) -> None:
    assert len(load(tmp_path, orders="all").all_orders) == 6
    said = refusal(tmp_path, orders=[["world-recall", "world-sums"], ["world-recall"] * 3])
    assert "orders.0" in said
    assert "orders.1" in said
    many = [{"name": f"t{i}", "task": "completion", "dataset_name": f"d{i}"} for i in range(6)]
    assert "too many" in refusal(tmp_path, tasks=many, orders="all")


def test_bounds_go_through_one_order(tmp_path: Path) -> None:
    config = load(tmp_path, orders="all", seeds=[0, 1], strategies=["sequential", "alone", "together"])
    labels = [cell.folder.parent.name for cell in cells(config, tmp_path)]
    counts = {label: labels.count(label) for label in labels}
    assert counts == {"sequential-neurolora": 12, "alone-neurolora": 2, "together-neurolora": 2}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"tasks": ["world-recall"]}, "one task is no stream"),
        ({"tasks": ["world-recall", "world-recall"]}, "world-recall is there 2 times"),
        (
            {"tasks": ["world-recall", {"name": "again", "task": "world-recall"}]},
            "one task under several names",
        ),
        ({"tasks": ["world-recall", {"name": "a/b", "task": "world-sums"}]}, "cannot name a folder"),
        ({"strategies": ["sequantial"]}, "did you mean sequential"),
        ({"strategies": [{"strategy": "o-lora", "adapter": {"method": "neurolora"}}]}, "works with lora"),
        ({"strategies": [{"strategy": "ewc", "settings": {"lambda": 3}}]}, "settings.lambda: unknown key"),
        ({"strategies": [{"strategy": "ewc", "settings": {"weight": -1}}]}, "settings.weight"),
        ({"strategies": ["sequential", "sequential"]}, "label sequential-neurolora is there twice"),
        ({"seeds": []}, "seeds"),
        ({"seeds": [-1]}, "seeds.0"),
        ({"seeds": [3, 0, 3]}, "seeds: 3 is there 2 times"),
        ({"orders": [WORLD["tasks"]] * 2}, r"orders: world-recall, .* is there 2 times"),
        ({"orders": []}, "orders"),
        ({"learning_rate": 1}, "learning_rate.*unknown key"),
        ({"train": {"seed": 5}}, "train.seed: .* give `seeds`"),
        ({"strategies": [{"strategy": "ewc", "train": {"seed": 5}}]}, r"strategies.0.train.seed: .* `seeds`"),
        ({"output": {"output_dir": "x"}}, "output.output_dir: .* `output_dir` of the stream"),
        ({"output": {"resume_from_checkpoint": "x"}}, "output.resume_from_checkpoint: .* leave it out"),
        ({"adapter": {"projection_seed": None}}, "adapter.projection_seed"),
        (
            {"strategies": [{"strategy": "ewc", "label": "x" * 256}]},
            "strategies.0.label.*cannot name",
        ),
        (
            {"strategies": [{"strategy": "o-lora", "adapter": {"use_dora": True}}]},
            "strategies.0: o-lora sums an adapter for each task, which use_dora: True does not allow",
        ),
        (
            {"strategies": ["grow"], "adapter": {"modules_to_save": ["lm_head"]}},
            "grow sums .*modules_to_save",
        ),
        ({"train": {"lerning_rate": 1}}, "did you mean train.learning_rate"),
        ({"adapter": {"top_k": 99}}, "top_k"),
        ({"eval": {"limit": 0}}, "eval.limit"),
        ({"tasks": "world-recall"}, "tasks"),
        ({"tasks": [{"name": "x", "metric": "f1", "task": "world-sums"}, "world-recall"]}, "tasks.0.metric"),
    ],
)
def test_what_cannot_work_is_refused(tmp_path: Path, changes: dict[str, Any], told: str) -> None:
    said = refusal(tmp_path, **changes)
    assert re.search(told, said), said


def test_what_a_sum_allows_and_others_take_is_not_refused(tmp_path: Path) -> None:
    rows = [
        {"strategy": "o-lora", "adapter": {"use_dora": False, "bias": "none"}},
        {"strategy": "ewc", "adapter": {"use_dora": True, "modules_to_save": ["lm_head"]}},
    ]
    assert load(tmp_path, strategies=rows).labels() == ["o-lora-lora", "ewc-lora"]


def test_all_problems_in_one_message(tmp_path: Path) -> None:
    said = refusal(
        tmp_path, tasks=["world-recall"], strategies=["nonsense", {"strategy": "grow", "label": "/"}]
    )
    assert "3 problems" in said


def test_a_task_without_test_rows(tiny_stream: ModuleType, tmp_path: Path) -> None:
    path = tiny_stream.write_stream(tmp_path, [tiny_stream.entry("sequential", "lora")])
    (tmp_path / "b" / "test.jsonl").unlink()
    with pytest.raises(DataError, match="test"):
        run_continual(load_stream(path), progress=False)
    assert not (tmp_path / "out" / "cells").exists()  # before the first step


def test_a_default_that_is_spelled_out_makes_no_other_task(tmp_path: Path) -> None:
    again = {"name": "again", "task": "world-recall", "max_length": 1024}
    assert "are one task under several names" in refusal(tmp_path, tasks=["world-recall", again])


def test_seeds_that_share_runs_or_are_too_large(tmp_path: Path) -> None:
    assert "0 and 2000 are no two runs" in refusal(tmp_path, seeds=[0, 2000])
    assert "is too large; at most 4294965295" in refusal(tmp_path, seeds=[2**32 - 2000])
    assert load(tmp_path, seeds=[0, 3000, 2**32 - 2001]).seeds  # three tasks take the seed, + 1000, + 2000


@pytest.mark.parametrize("adapter", [{"init_lora_weights": "olora"}, {"lora_bias": True}, {"bias": "all"}])
def test_what_has_no_sum_is_refused(tmp_path: Path, adapter: dict[str, Any]) -> None:
    name = next(iter(adapter))
    row = {"strategy": "o-lora", "adapter": {"method": "lora", **adapter}}
    assert f"which {name}: {adapter[name]} does not allow" in refusal(tmp_path, strategies=[row])
    load(tmp_path, strategies=[{**row, "strategy": "sequential"}])


def test_dora_is_a_method_and_has_no_sum(tmp_path: Path) -> None:
    assert load(tmp_path, strategies=[{"strategy": "ewc", "adapter": {"method": "dora"}}]).strategies
    row = {"strategy": "o-lora", "adapter": {"method": "dora"}}
    assert "o-lora works with lora, not with dora" in refusal(tmp_path, strategies=[row])


def test_references_are_those_that_train_alike(tmp_path: Path) -> None:
    rows: list[Any] = [
        "sequential",
        "protect",
        {"strategy": "alone", "label": "other", "train": {"learning_rate": 1e-3}},
        {"strategy": "sequential", "label": "small", "adapter": {"r": 8, "top_k": 2}},
    ]
    config = load(tmp_path, strategies=rows)
    one, same, other, small = (trained_as(config, entry) for entry in config.strategies)
    assert one == same
    assert len({one, other, small}) == 3
