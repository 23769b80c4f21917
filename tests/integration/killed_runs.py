"""Runs of the tiny model, each in a process of its own that may be told to kill itself at a certain place.

A script, started once by `test_resume.py`: it loads the libraries and forks for each run, which saves the
start-up time of some thirty runs. Argument: a JSON file, `{"settings": {...}, "plans": {name: [kill, ...]}}`.
Each plan trains in `<name>/`, is killed at each place in turn, resumed after each, and left to finish.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

import peft  # noqa: F401
import torch
from transformers import LlamaForCausalLM  # noqa: F401

import neurolora.training.checkpoints as checkpoints
import neurolora.training.metrics as metrics
import neurolora.training.run as run
import neurolora.training.run_folder as run_folder
from neurolora.training.config import load_config
from neurolora.training.trainer import NeuroLoraTrainer


def die(*_: Any, **__: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def at_step(step: int) -> None:
    """After an optimizer step, before anything of it is logged or saved."""
    from neurolora.training.callback import NeuroLoraCallback

    def on_step_end(self: Any, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == step:
            die()

    NeuroLoraCallback.on_step_end = on_step_end


def in_save(step: int) -> None:
    """Inside a checkpoint: the weights are written, the optimizer's file is half there."""
    real = NeuroLoraTrainer._save_optimizer_and_scheduler

    def broken(self: Any, output_dir: str) -> None:
        real(self, output_dir)
        if self.state.global_step == step:
            path = Path(output_dir) / "optimizer.pt"
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
            die()

    NeuroLoraTrainer._save_optimizer_and_scheduler = broken


def flushing(name: str) -> None:
    """While a checkpoint is sealed (`checkpoint-4`: before its rename) or just after it (`run`)."""
    real = checkpoints._flush

    def deadly(path: Path) -> None:
        real(path)
        if path.name == name:
            die()

    checkpoints._flush = deadly


def in_rotate(_: int) -> None:
    """While an old checkpoint is removed: half of its files are gone."""

    class Half:
        def rmtree(self, folder: Path, ignore_errors: bool = False) -> None:
            if Path(folder).name.startswith("checkpoint-"):
                for path in sorted(Path(folder).iterdir())[::2]:
                    path.unlink()
                die()
            shutil.rmtree(folder, ignore_errors=ignore_errors)

    checkpoints.shutil = Half()


def in_metrics(step: int) -> None:
    """While a line of the metrics is written: half of it is there."""
    real = metrics.metrics_line

    def half(logged: dict[str, Any]) -> str | None:
        line = real(logged)
        return line[: len(line) // 2] if line and logged["step"] == step else line

    metrics.metrics_line = half
    at_step(step + 1)


def in_final(_: int) -> None:
    """While the finished adapter is moved into place."""
    run_folder.write_json = die


def in_final_save(_: int) -> None:
    """While the finished adapter is written aside."""
    run.publish_final = die


KILLS = {
    "step": at_step,
    "save": in_save,
    "flush": flushing,
    "rotate": in_rotate,
    "metrics": in_metrics,
    "final": in_final,
    "final-save": in_final_save,
}


def train(settings: dict[str, Any], folder: Path, kill: str | None) -> None:
    torch.set_num_threads(1)
    if kill is not None:
        name, _, place = kill.partition(":")
        KILLS[name](int(place) if place.isdigit() else place or 0)
    config = load_config(None, {**settings, "output_dir": str(folder)})
    run.run_training(config, resume="auto", progress=False)


def fork(settings: dict[str, Any], folder: Path, kill: str | None) -> None:
    """One run in a child; kill `after:SECONDS` comes from outside, at no chosen place."""
    child = os.fork()
    if child == 0:
        try:
            train(settings, folder, None if kill and kill.startswith("after:") else kill)
        except BaseException as error:
            print(f"{folder.name}, {kill}: {error!r}", file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    if kill and kill.startswith("after:"):
        time.sleep(float(kill.partition(":")[2]))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        return
    _, status = os.waitpid(child, 0)
    expected = -signal.SIGKILL if kill else 0
    assert os.waitstatus_to_exitcode(status) == expected, f"{folder.name}, {kill}: status {status}"


def main() -> None:
    work = Path(sys.argv[1])
    wanted = json.loads(work.read_text())
    for name, kills in wanted["plans"].items():
        for kill in [*kills, None]:
            fork(wanted["settings"], work.parent / name / "run", kill)


if __name__ == "__main__":
    main()
