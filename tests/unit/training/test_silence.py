"""Training with silence: which rows are heard, what they weigh, and a resume that hears the same."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from neurolora.errors import ConfigError, DataError
from neurolora.training import load_config, run_training
from neurolora.training.silence import Silence, silence_texts


def make(weight: float = 1.0, rows: int = 6, batch_size: int = 4, every: int = 1) -> Silence:
    return Silence(weight, [{"row": i} for i in range(rows)], batch_size, every)


def test_rows_follow_from_seed_and_place() -> None:
    silence = make(rows=1000)
    first = silence.batch(list, 1, 5, 0, 0)
    assert first == silence.batch(list, 1, 5, 0, 0)
    others = [
        silence.batch(list, *place) for place in ((2, 5, 0, 0), (1, 6, 0, 0), (1, 5, 1, 0), (1, 5, 0, 1))
    ]
    assert all(first != other for other in others)
    assert len(first) == 4


def test_when_it_is_due() -> None:
    assert [make(every=3).is_due(step) for step in range(7)] == [True, False, False, True, False, False, True]


@pytest.mark.parametrize(
    "wrong", [{"weight": 0.0}, {"batch_size": 0}, {"every": 0}, {"weight": float("inf")}]
)
def test_numbers_that_mean_nothing_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        make(**wrong)


def test_texts_come_from_files_and_from_the_world(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\n\ntwo\n")
    (tmp_path / "b.jsonl").write_text(json.dumps({"text": "three"}) + "\n")
    assert silence_texts(str(tmp_path / "a.txt")) == ["one", "two"]
    assert silence_texts(str(tmp_path / "b.jsonl")) == ["three"]
    assert len(silence_texts("world")) > 1000
    with pytest.raises(DataError, match="no such file"):
        silence_texts(str(tmp_path / "c.txt"))


def test_weight_and_data_go_together(tiny_llama: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="go together"):
        load_config(None, {**tiny_llama.settings(tmp_path), "silence_weight": 1.0})


def run(tiny_llama: ModuleType, base: Path, name: str, **changes: Any) -> dict[str, torch.Tensor]:
    settings = {**tiny_llama.settings(base), "output_dir": str(base / name), **changes}
    run_training(load_config(None, settings), progress=False)
    return load_file(base / name / "adapter_model.safetensors")


@pytest.fixture
def base(tiny_llama: ModuleType, tmp_path: Path) -> Path:
    tiny_llama.make_model(tmp_path / "model", dropout=0.0)
    tiny_llama.make_rows(tmp_path / "data")
    (tmp_path / "text.txt").write_text("\n".join(f"w{i} w{i + 7} w{i + 11}" for i in range(30)))
    return tmp_path


def quiet(base: Path, weight: float) -> dict[str, Any]:
    return {"silence_weight": weight, "silence_data": str(base / "text.txt")}


def lines(base: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (base / name / "metrics.jsonl").read_text().splitlines()]


def test_a_heavy_weight_keeps_the_adapter_small(tiny_llama: ModuleType, base: Path) -> None:
    loud = run(tiny_llama, base, "loud")
    silent = run(tiny_llama, base, "silent", **quiet(base, 100.0))
    norm = [sum(float(v.norm()) for k, v in state.items() if k.endswith("_B")) for state in (loud, silent)]
    assert norm[1] < 0.7 * norm[0]
    assert any("silence_loss" in line for line in lines(base, "silent"))
    assert not any("silence_loss" in line for line in lines(base, "loud"))


def test_accumulation_changes_nothing_of_its_weight(tiny_llama: ModuleType, base: Path) -> None:
    """With as many rows of text as there are, every batch hears all of them: only the weight could differ."""
    (base / "text.txt").write_text("w1 w2 w3\n")
    once = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 1, "max_steps": 3}
    twice = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "max_steps": 3}
    states = [
        run(tiny_llama, base, name, **how, **quiet(base, 5.0))
        for name, how in (("once", once), ("twice", twice))
    ]
    for name, value in states[0].items():
        torch.testing.assert_close(value, states[1][name], rtol=1e-3, atol=1e-5)


def test_activation_checkpointing_changes_nothing(tiny_llama: ModuleType, base: Path) -> None:
    states = [
        run(tiny_llama, base, name, max_steps=3, gradient_checkpointing=checkpointing, **quiet(base, 5.0))
        for name, checkpointing in (("plain", False), ("checkpointed", True))
    ]
    for name, value in states[0].items():
        torch.testing.assert_close(value, states[1][name], rtol=1e-4, atol=1e-6)
