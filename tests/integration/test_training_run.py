"""Whole runs on the tiny model: what is in the folder, what comes back, what is refused."""

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
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from neurolora.errors import DataError, OutputError
from neurolora.tasks import read_task
from neurolora.training import RunHooks, load_config, run_training


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, tiny_llama: ModuleType) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    tiny_llama.make_model(folder / "model")
    tiny_llama.make_rows(folder / "data")
    return folder


@pytest.fixture(scope="module")
def finished(base: Path, tiny_llama: ModuleType) -> Any:
    config = load_config(None, tiny_llama.settings(base, output_dir=str(base / "finished")))
    return config, run_training(config, progress=False)


def short(base: Path, tiny_llama: ModuleType, output: Path, **changes: Any) -> Any:
    settings = tiny_llama.settings(
        base, output_dir=str(output), max_steps=2, eval_strategy="no", save_strategy="no", logging_steps=1
    )
    return load_config(None, {**settings, **changes})


def test_the_folder_holds_everything(finished: Any) -> None:
    config, result = finished
    names = {entry.name for entry in result.output_dir.iterdir()}
    assert names == {
        "config.yaml", "env.json", "data.json", "metrics.jsonl", "run.json", "routing.json",
        "neurolora_task.json", "adapter_config.json", "adapter_model.safetensors", "README.md",
        "tokenizer.json", "tokenizer_config.json", "checkpoint-6", "checkpoint-8",
    }  # fmt: skip
    assert yaml.safe_load((result.output_dir / "config.yaml").read_text()) == config.resolved()
    assert json.loads((result.output_dir / "run.json").read_text()) == result.summary
    assert (result.summary["steps"], result.summary["train_examples"]) == (8, 24)
    assert set(result.summary["last"]) == {"loss", "orthogonality_loss", "eval_loss"}
    assert read_task(result.output_dir).request.task == "completion"
    environment = json.loads((result.output_dir / "env.json").read_text())
    assert environment["versions"]["torch"] == torch.__version__
    assert not list(result.output_dir.rglob("*.bin"))


def test_the_adapter_on_disk_is_the_model_in_memory(base: Path, finished: Any) -> None:
    _, result = finished
    ids = torch.arange(3, 15).reshape(2, 6)
    model = AutoModelForCausalLM.from_pretrained(base / "model")
    before = model(ids).logits
    loaded = PeftModel.from_pretrained(model, result.output_dir).eval()
    result.model.eval()
    with torch.no_grad():
        assert torch.equal(loaded(ids).logits, result.model(ids).logits)
        assert not torch.allclose(loaded(ids).logits, before)


def test_routing_figures_are_frequencies(finished: Any) -> None:
    _, result = finished
    routing = json.loads((result.output_dir / "routing.json").read_text())
    assert (routing["r"], routing["top_k"], len(routing["layers"])) == (8, 2, 8)
    for layer in routing["layers"]:
        assert sum(layer["active_frequency"]) == pytest.approx(2.0)


def test_equal_seeds_give_equal_bits_whatever_happened_before(
    base: Path, tiny_llama: ModuleType, tmp_path: Path
) -> None:
    """Global random state, an evaluation before training, other adapters: none may matter."""
    found = []
    for name, disturb in (("a", False), ("b", True)):
        if disturb:
            torch.manual_seed(987)
            torch.rand(5)
        config = short(base, tiny_llama, tmp_path / name)
        hooks = RunHooks(before_training=(lambda *_: torch.rand(3)) if disturb else None)
        run_training(config, progress=False, hooks=hooks)
        found.append((tmp_path / name / "adapter_model.safetensors").read_bytes())
    assert found[0] == found[1]
    config = short(base, tiny_llama, tmp_path / "c", seed=7)
    run_training(config, progress=False)
    assert (tmp_path / "c" / "adapter_model.safetensors").read_bytes() != found[0]


@pytest.mark.parametrize("method", ["flylora", "lora", "full"])
def test_the_other_methods_train_too(base: Path, tiny_llama: ModuleType, tmp_path: Path, method: str) -> None:
    config = load_config(
        None,
        {
            "method": method, "model_name_or_path": str(base / "model"), "task": "completion",
            "dataset_name": str(base / "data"), "output_dir": str(tmp_path / "run"), "max_steps": 2,
            "max_length": 32, "learning_rate": 1e-2, "use_cpu": True, "eval_strategy": "no",
            "warmup_steps": 0, "per_device_train_batch_size": 2,
        },
    )  # fmt: skip
    result = run_training(config, progress=False)
    saved = "model.safetensors" if method == "full" else "adapter_model.safetensors"
    tensors = load_file(result.output_dir / saved)
    start = load_file(base / "model" / "model.safetensors")
    if method == "full":
        assert any(not torch.equal(tensors[name], start[name]) for name in tensors)
    else:
        assert all(float(value.abs().sum()) > 0 for name, value in tensors.items() if "_B" in name)
    assert (result.output_dir / "routing.json").exists() == (method == "flylora")
    assert all(("orthogonality_loss" in line) is False for line in read_lines(result.output_dir))


def read_lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_gradient_checkpointing_changes_nothing(base: Path, tiny_llama: ModuleType, tmp_path: Path) -> None:
    for name, on in (("off", False), ("on", True)):
        config = short(base, tiny_llama, tmp_path / name, gradient_checkpointing=on)
        run_training(config, progress=False)
    first, second = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("off", "on"))
    assert all(torch.allclose(first[name].float(), second[name].float(), atol=1e-6) for name in first)
    keys = ("loss", "orthogonality_loss")
    off, on = (
        [[line[key] for key in keys] for line in read_lines(tmp_path / name)] for name in ("off", "on")
    )
    assert off == [pytest.approx(line, rel=1e-5) for line in on]


def test_a_second_run_in_the_folder_is_refused_and_resume_has_nothing_to_do(finished: Any) -> None:
    config, result = finished
    stamp = (result.output_dir / "run.json").stat().st_mtime_ns
    with pytest.raises(OutputError, match="a finished run is there"):
        run_training(config, progress=False)
    said: list[str] = []
    again = run_training(config, resume="auto", progress=False, notify=said.append)
    assert again.summary == result.summary
    assert again.model is None
    assert "finished already" in said[0]
    assert (result.output_dir / "run.json").stat().st_mtime_ns == stamp


def test_without_a_validation_split_there_is_no_eval_loss_unless_asked(
    base: Path, tiny_llama: ModuleType, tmp_path: Path
) -> None:
    only = tmp_path / "train.jsonl"
    only.write_text((base / "data" / "train.jsonl").read_text())
    settings = dict(
        tiny_llama.settings(base, dataset_name=str(only), output_dir=str(tmp_path / "run"), max_steps=2)
    )
    with pytest.raises(DataError, match="validation"):
        run_training(load_config(None, settings), progress=False)
    for key in ("eval_strategy", "eval_steps"):
        del settings[key]
    said: list[str] = []
    run_training(load_config(None, settings), progress=False, notify=said.append)
    assert any(note.startswith("no eval_loss") for note in said)
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["train"]["eval_strategy"] == "no"


DISK_FULL = """
import resource, sys
import torch
torch.set_num_threads(1)
from neurolora.training import RunHooks, load_config, run_training
import json
settings = json.loads(sys.argv[1])
def limit(*_):
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
hooks = RunHooks(before_training=limit)
run_training(load_config(None, settings), progress=False, resume="auto", hooks=hooks)
"""


@pytest.mark.slow
@pytest.mark.parametrize("room", [6_000, 30_000])
def test_a_disk_that_fills_up(base: Path, tiny_llama: ModuleType, tmp_path: Path, room: int) -> None:
    """A real limit on the size of files, so that real writes fail: the adapter's, then the optimizer's."""
    output = tmp_path / "run"
    config = short(base, tiny_llama, output, save_strategy="steps", save_steps=1, save_total_limit=9)
    run_training(config, progress=False)
    whole = (output / "adapter_model.safetensors").read_bytes()
    (output / "run.json").unlink()
    (output / "checkpoint-2" / "checkpoint.json").unlink()
    done = subprocess.run(
        [sys.executable, "-c", DISK_FULL, json.dumps(config.resolved()), str(room)],
        capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode != 0
    assert "neurolora.errors.OutputError: saving" in done.stderr
    assert "File too large" in done.stderr or "is the disk full?" in done.stderr
    assert f"The last good checkpoint is {output / 'checkpoint-1'}" in done.stderr
    assert not (output / ".saving").exists()
    assert (output / "adapter_model.safetensors").read_bytes() == whole
