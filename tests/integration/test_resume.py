"""A run that is killed by SIGKILL, anywhere, and resumed ends with the bits of one that never was."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

PLANS = {
    "never": [],
    "before any checkpoint": ["step:1"],
    "between checkpoints": ["step:3"],
    "within the log window": ["step:5"],
    "inside a save": ["save:4"],
    "inside the first save": ["save:2"],
    "sealed, not renamed": ["flush:checkpoint-6"],
    "renamed, not cleaned": ["flush:run"],
    "while rotating": ["rotate"],
    "half a metrics line": ["metrics:6"],
    "final files unsaved": ["final-save"],
    "final files unmarked": ["final"],
    "three times": ["step:1", "save:4", "step:7"],
    "any moment": ["after:0.7", "after:1.1", "after:1.6"],
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, tiny_llama: ModuleType) -> Path:
    base = tmp_path_factory.mktemp("killed")
    tiny_llama.make_model(base / "model")
    tiny_llama.make_rows(base / "data")
    settings = tiny_llama.settings(base, load_balance_rate=0.01, save_total_limit=2)
    (base / "plans.json").write_text(json.dumps({"settings": settings, "plans": PLANS}))
    script = Path(__file__).with_name("killed_runs.py")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(
        [sys.executable, script, base / "plans.json"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return base


def checkpoint_state(folder: Path) -> dict[str, object]:
    return {
        name: torch.load(folder / name, weights_only=True, map_location="cpu")
        for name in ("optimizer.pt", "scheduler.pt")
    }


def equal(first: object, second: object) -> bool:
    if isinstance(first, dict) and isinstance(second, dict):
        return first.keys() == second.keys() and all(equal(first[key], second[key]) for key in first)
    if isinstance(first, list | tuple) and isinstance(second, list | tuple):
        return len(first) == len(second) and all(map(equal, first, second))
    if isinstance(first, torch.Tensor) and isinstance(second, torch.Tensor):
        return torch.equal(first, second)
    return first == second


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in PLANS if name != "never"])
def test_killed_and_resumed_ends_with_the_same_bits(runs: Path, name: str) -> None:
    never, killed = runs / "never" / "run", runs / name / "run"
    for file in ("adapter_model.safetensors", "metrics.jsonl", "routing.json", "data.json"):
        assert (killed / file).read_bytes() == (never / file).read_bytes(), file
    last = "checkpoint-8"
    assert equal(checkpoint_state(never / last), checkpoint_state(killed / last))
    assert (killed / last / "loss_window.json").read_text() == (never / last / "loss_window.json").read_text()


@pytest.mark.slow
def test_the_run_that_is_compared_with_learned_and_balanced(runs: Path) -> None:
    """Guards the comparison above: equal files would prove little if nothing moved."""
    from safetensors.torch import load_file

    tensors = load_file(runs / "never" / "run" / "adapter_model.safetensors")
    moved = {name: float(value.abs().sum()) for name, value in tensors.items()}
    assert all(size > 0 for name, size in moved.items() if "neurolora_B" in name)
    assert any(size > 0 for name, size in moved.items() if "neurolora_bias" in name)
    lines = (runs / "never" / "run" / "metrics.jsonl").read_text().splitlines()
    steps = [(line["step"], "eval_loss" in line) for line in map(json.loads, lines)]
    assert steps == [(1, False), (3, False), (3, True), (6, False), (6, True), (8, False), (8, True)]


@pytest.mark.slow
def test_nothing_half_written_is_left(runs: Path) -> None:
    for name in PLANS:
        left = {entry.name for entry in (runs / name / "run").iterdir() if entry.name.startswith(".")}
        assert left == set(), name
