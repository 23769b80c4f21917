"""Streams of the tiny model, each in a process of its own that kills itself at a certain place.

A script, started once by `test_stream_resume.py`; it loads the libraries and forks for each run. Arguments:
the file of the stream, and a JSON file `{name: [place, ...]}`. Each plan works in `<name>/`, is killed at
each place in turn, and is then left to finish. What it trains and scores is noted in `<name>.events`.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft  # noqa: F401
import torch
from transformers import LlamaForCausalLM  # noqa: F401

import neurolora.continual.cell as cell
import neurolora.continual.state as state
from neurolora.continual import load_stream, run_continual
from neurolora.continual.memory import Memory
from neurolora.training.callback import NeuroLoraCallback
from neurolora.training.trainer import NeuroLoraTrainer


def die(*_: Any, **__: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def on_call(owner: Any, name: str, when: Callable[..., bool], after: bool = False) -> None:
    """Die at the call of a function whose arguments are the right ones, before it or after it."""
    real = getattr(owner, name)

    def watched(*args: Any, **kwargs: Any) -> Any:
        is_here = when(*args)
        if is_here and not after:
            die()
        result = real(*args, **kwargs)
        if is_here:
            die()
        return result

    setattr(owner, name, watched)


def at_step(stage: int, step: int) -> None:
    """Die after an optimizer step of a task, before anything of it is logged or saved."""
    real = NeuroLoraCallback.on_step_end

    def watched(self: Any, args: Any, state: Any, control: Any, **others: Any) -> Any:
        if f"/tasks/{stage}-" in args.output_dir and state.global_step == step:
            die()
        return real(self, args, state, control, **others)

    NeuroLoraCallback.on_step_end = watched


def half_a_state(learned: int, scores: int) -> None:
    """Die with half of a state in a temporary file."""
    real = state.write_json

    def broken(path: Path, values: Any) -> None:
        if has_come(state.CellState(**values["state"]), learned, scores):
            (path.parent / f".{path.name}.part").write_text(json.dumps(values)[:40])
            die()
        real(path, values)

    state.write_json = broken


def has_come(found: state.CellState, learned: int, scores: int) -> bool:
    """Whether so many tasks are learned, and the last of them has so many scores."""
    return found.learned == learned and len(found.scores[-1]) == scores


#: In the order of a stream, so that one run can be killed at each in turn.
PLACES: dict[str, Callable[[], None]] = {
    "inside the first task": lambda: at_step(0, 3),
    "inside the second task": lambda: at_step(1, 5),
    "trained, not published": lambda: on_call(cell, "_publish", lambda where, stage, *_: stage == 1),
    "published, not remembered": lambda: on_call(
        Memory, "save", lambda memory, folder: folder.name == "after-1"
    ),
    "remembered, not noted": lambda: on_call(state.CellState, "save", lambda own, _: has_come(own, 2, 0)),
    "in scoring": lambda: on_call(state.CellState, "save", lambda own, _: has_come(own, 2, 2)),
    "scored, not cleaned": lambda: on_call(cell, "_clean", lambda where, stage: stage == 1),
    "between tasks": lambda: on_call(cell, "_train", lambda where, stage, _: stage == 2),
    "in the state's file": lambda: half_a_state(3, 1),
    "at the end": lambda: on_call(state.CellState, "save", lambda own, _: has_come(own, 3, 3), after=True),
}


def note(events: Path) -> None:
    """Write down each optimizer step, each training run that ends and each score that is noted."""
    train, score = NeuroLoraTrainer.train, state.CellState.add_score
    step = NeuroLoraCallback.on_step_end

    def trained(self: Any, *args: Any, **kwargs: Any) -> Any:
        result = train(self, *args, **kwargs)
        with events.open("a") as file:
            file.write(f"trained {Path(self.args.output_dir).parent.name} {self.state.global_step}\n")
        return result

    def stepped(self: Any, args: Any, state: Any, control: Any, **others: Any) -> Any:
        with events.open("a") as file:
            file.write(f"step {Path(args.output_dir).parent.name} {state.global_step}\n")
        return step(self, args, state, control, **others)

    def scored(self: Any, after: int, task: str, value: Any) -> None:
        with events.open("a") as file:
            file.write(f"scored {after} {task}\n")
        score(self, after, task, value)

    NeuroLoraTrainer.train, state.CellState.add_score = trained, scored
    NeuroLoraCallback.on_step_end = stepped


def run(stream: Path, output: Path, place: str | None) -> int:
    """One process; its exit status."""
    child = os.fork()
    if child == 0:
        torch.set_num_threads(1)
        note(output.with_suffix(".events"))
        if place is not None:
            PLACES[place]()
        run_continual(load_stream(stream, {"output_dir": str(output)}), progress=False)
        os._exit(0)
    return os.waitpid(child, 0)[1]


def main() -> None:
    stream, plans = Path(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text())
    for name, places in plans.items():
        for place in places:
            status = run(stream, stream.parent / name, place)
            assert os.WIFSIGNALED(status), f"{name}: nothing died at {place}"
        assert run(stream, stream.parent / name, None) == 0, name


if __name__ == "__main__":
    main()
