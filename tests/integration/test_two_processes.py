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


def read_lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def torchrun(config: Path) -> subprocess.CompletedProcess[str]:
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    return subprocess.run(
        [*launch, "-m", "neurolora.cli.main", "train", str(config), "--json"],
        capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


@pytest.mark.slow
def test_two_processes_equal_one_that_accumulates(tmp_path: Path, tiny_llama: ModuleType) -> None:
    tiny_llama.make_model(tmp_path / "model", dropout=0.0)
    tiny_llama.make_rows(tmp_path / "data")
    common = {"max_steps": 4, "logging_steps": 1, "eval_steps": 2, "save_steps": 2}
    common |= {"init_weights": "gaussian", "load_balance_rate": 0.01}

    def settings(name: str, accumulate: int) -> dict[str, Any]:
        changes = {"output_dir": str(tmp_path / name), "gradient_accumulation_steps": accumulate}
        made: dict[str, Any] = tiny_llama.settings(tmp_path, **common, **changes)
        return made

    (tmp_path / "two.yaml").write_text(yaml.safe_dump(settings("two", 1)))
    done = torchrun(tmp_path / "two.yaml")
    assert done.returncode == 0, done.stderr[-3000:]
    document = json.loads(done.stdout)  # one document: the second process prints nothing
    assert (document["processes"], document["steps"]) == (2, 4)
    run_training(load_config(None, settings("one", 2)), progress=False)

    compared = ("step", "loss", "orthogonality_loss", "learning_rate", "grad_norm", "eval_loss")
    expected = [{k: v for k, v in line.items() if k in compared} for line in read_lines(tmp_path / "one")]
    found = [{k: v for k, v in line.items() if k in compared} for line in read_lines(tmp_path / "two")]
    assert found == [pytest.approx(line, rel=1e-4) for line in expected]
    first, second = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("one", "two"))
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.allclose(value.double(), second[name].double(), atol=1e-4), name
    states = {entry.name for entry in (tmp_path / "two" / "checkpoint-4").iterdir() if "rng" in entry.name}
    assert states == {"rng_state_0.pth", "rng_state_1.pth"}
    assert not list((tmp_path / "two").glob(".*"))
