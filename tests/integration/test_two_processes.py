"""Training by `torchrun` in two processes (DDP, gloo, CPU) equals one process that accumulates twice."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from neurolora.training import load_config, run_training
from neurolora.training.silence import Silence


def read_lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def torchrun(config: Path) -> subprocess.CompletedProcess[str]:
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    return subprocess.run(
        [*launch, "-m", "neurolora.cli.main", "train", str(config), "--json"],
        capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def settings(
    tiny_llama: ModuleType, base: Path, name: str, accumulate: int, **changes: Any
) -> dict[str, Any]:
    common = {"max_steps": 4, "logging_steps": 1, "eval_steps": 2, "save_steps": 2}
    common |= {"init_weights": "gaussian", "load_balance_rate": 0.01}
    own = {"output_dir": str(base / name), "gradient_accumulation_steps": accumulate}
    made: dict[str, Any] = tiny_llama.settings(base, **common, **own, **changes)
    return made


def train_in_two(settings: dict[str, Any], base: Path) -> subprocess.CompletedProcess[str]:
    (base / "two.yaml").write_text(yaml.safe_dump(settings))
    done = torchrun(base / "two.yaml")
    assert done.returncode == 0, done.stderr[-3000:]
    return done


def assert_same_run(base: Path, *compared: str) -> None:
    """The folders `one` and `two` hold the same log lines, in the fields compared, and the same weights."""
    expected = [{k: v for k, v in line.items() if k in compared} for line in read_lines(base / "one")]
    found = [{k: v for k, v in line.items() if k in compared} for line in read_lines(base / "two")]
    assert found == [pytest.approx(line, rel=1e-4) for line in expected]
    first, second = (load_file(base / name / "adapter_model.safetensors") for name in ("one", "two"))
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.allclose(value.double(), second[name].double(), atol=1e-4), name


@pytest.fixture
def base(tmp_path: Path, tiny_llama: ModuleType) -> Path:
    tiny_llama.make_model(tmp_path / "model", dropout=0.0)
    tiny_llama.make_rows(tmp_path / "data")
    return tmp_path


@pytest.mark.slow
def test_two_processes_equal_one_that_accumulates(base: Path, tiny_llama: ModuleType) -> None:
    done = train_in_two(settings(tiny_llama, base, "two", 1), base)
    document = json.loads(done.stdout)  # one document: the second process prints nothing
    assert (document["processes"], document["steps"]) == (2, 4)
    run_training(load_config(None, settings(tiny_llama, base, "one", 2)), progress=False)

    assert_same_run(base, "step", "loss", "orthogonality_loss", "learning_rate", "grad_norm", "eval_loss")
    states = {entry.name for entry in (base / "two" / "checkpoint-4").iterdir() if "rng" in entry.name}
    assert states == {"rng_state_0.pth", "rng_state_1.pth"}
    assert not list((base / "two").glob(".*"))


@pytest.mark.slow
@pytest.mark.parametrize(("accumulate", "checkpointing"), [(1, False), (2, True)])
def test_silence_is_the_mean_over_processes_and_counts_once_a_step(
    base: Path, tiny_llama: ModuleType, monkeypatch: pytest.MonkeyPatch, accumulate: int, checkpointing: bool
) -> None:
    (base / "text.txt").write_text("\n".join(f"w{i} w{i + 7} w{i + 11}" for i in range(30)))
    silence = {"silence_weight": 0.02, "silence_data": str(base / "text.txt"), "silence_batch_size": 2}
    changes = {**silence, "silence_every": 2, "gradient_checkpointing": checkpointing}
    train_in_two(settings(tiny_llama, base, "two", accumulate, **changes), base)

    of_a_place = Silence.batch

    def of_both(self: Silence, collate: Any, seed: int, step: int, micro_batch: int, process: int) -> Any:
        """What process `micro_batch % 2` of two hears, as each takes every second batch of the task."""
        assert process == 0
        return of_a_place(self, collate, seed, step, micro_batch // 2, micro_batch % 2)

    monkeypatch.setattr(Silence, "batch", of_both)
    one = settings(tiny_llama, base, "one", 2 * accumulate, **changes)
    run_training(load_config(None, one), progress=False)
    assert_same_run(base, "step", "loss", "orthogonality_loss", "silence_loss", "grad_norm")
    assert [line["step"] for line in read_lines(base / "two") if "silence_loss" in line] == [1, 3]


@pytest.mark.slow
def test_a_stream_in_two_processes(tmp_path: Path, tiny_stream: ModuleType) -> None:
    """All processes train, one writes: the matrix is that of one process that accumulates twice."""
    rows = [tiny_stream.entry("ewc", "lora", samples=4), tiny_stream.entry("grow", "neurolora")]
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    for name, command, batch, steps in (
        ("two", launch, 2, 1),
        ("one", [sys.executable], 2, 2),
    ):
        changes = {"per_device_train_batch_size": batch, "gradient_accumulation_steps": steps}
        path = tiny_stream.write_stream(tmp_path, rows, train={**tiny_stream.TRAIN, **changes})
        done = subprocess.run(
            [*command, "-m", "neurolora.cli.main", "continual", str(path), "--json",
             "--output-dir", str(tmp_path / name)],
            capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        assert len(json.loads(done.stdout)["cells"]) == 2  # one document, and one line for each training
        assert done.stderr.count("learning a (1 of 3)") == 2
    one, two = (
        json.loads((tmp_path / name / "results.json").read_text())["cells"] for name in ("one", "two")
    )
    assert len(one) == len(two) == 2
    for first, second in zip(one, two, strict=True):
        for expected, found in zip(first["R"], second["R"], strict=True):
            assert found == pytest.approx(expected, rel=0.02)
