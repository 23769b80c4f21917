"""What is left of three real classification tasks when their adapters are merged, method by method.

    python benchmarks/real_merging.py run FOLDER --data DATA --model MODEL      # goes on where it stopped
    python benchmarks/real_merging.py table FOLDER   # Markdown: alone, merged, what is kept

For MODEL and DATA see `real_tasks.py`. A task keeps its own head, trained with its adapter and never merged,
also where the bodies are. `run` trains the parents of a seed and a method, scores each alone on its task and
every merge on all tasks.

The adapters of a seed share one A; those named `own` have an A for each task, the first of which is the
shared one: that parent serves both. Those named `quiet` are trained with off-task silence on text of none of
the tasks, with half as many rows a step or (`quiet-4`) an eighth, or (`quiet-others`) on the other tasks'
own texts, without their labels. One rate for each method, for the head too (a quarter of it for gates), given
before and not searched for merging. Test rows are used for the scores alone; no coefficient is chosen by
them: those listed are all there are. But for one: the weight of silence was taken from 1, 10, 30 and 100 by
the test rows of seed 0, which therefore counts apart.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from merging_table import DELTAS, SIDE, WIDENED, Cell, print_paired, print_table, score_cell
from real_tasks import (
    ALPHA,
    RANK,
    TARGETS,
    TASKS,
    TRAIN_ROWS,
    Classifier,
    accuracy,
    add_arguments,
    base,
    fit,
    load,
    pad_of,
    padded,
    trainable,
    unlabelled,
)
from torch import Tensor, nn

from neurolora.files import write_json
from neurolora.provenance import environment

HEAD, DONE = "head.safetensors", "run.json"
GENERAL, OTHERS = ("agnews", "SST-2", "RTE"), ()
TEXTS = 2000  # of each set that is listened to


class Quiet(NamedTuple):
    """Off-task silence: its weight, the sets it listens to (none: the other tasks'), rows a step."""

    weight: float
    texts: tuple[str, ...] = GENERAL
    batch_size: int = 16


class Trained(NamedTuple):
    """A way to train the parents, and the merges that its adapters can go through."""

    kind: str | None
    rate: float
    merges: tuple[str, ...] = ()
    shared: bool = True
    quiet: Quiet | None = None


METHODS = {
    "head": Trained(None, 4e-3),
    "lora": Trained("lora", 4e-3, DELTAS),
    "dora": Trained("dora", 4e-3, DELTAS),
    "flylora": Trained("flylora", 8e-3, (*DELTAS, *SIDE)),
    "flylora-own": Trained("flylora", 8e-3, SIDE, shared=False),
    "neurolora": Trained("neurolora", 8e-3, (*DELTAS, *WIDENED, *SIDE)),
    "neurolora-own": Trained("neurolora", 8e-3, SIDE, shared=False),
    "neurolora-quiet": Trained("neurolora", 8e-3, (*DELTAS, *SIDE), quiet=Quiet(30.0)),
    "neurolora-quiet-4": Trained("neurolora", 8e-3, SIDE, quiet=Quiet(30.0, batch_size=4)),
    "neurolora-quiet-others": Trained("neurolora", 8e-3, SIDE, quiet=Quiet(30.0, OTHERS)),
    "flylora-quiet": Trained("flylora", 8e-3, (*DELTAS, *SIDE), quiet=Quiet(30.0)),
}
#: The other weights that were tried.
METHODS |= {
    f"neurolora-quiet-at-{weight:g}": Trained("neurolora", 8e-3, SIDE, quiet=Quiet(weight))
    for weight in (1.0, 3.0, 10.0, 100.0)
}
#: What the others are compared with, seed by seed.
OURS = ("neurolora-quiet", "concat x 1.0")


# --- model ------------------------------------------------------------------------------------------------


def adapter_config(row: Trained, seed: int, place: int) -> Any:
    from peft import LoraConfig

    from neurolora import FlyLoraConfig, NeuroLoraConfig

    common = {"r": RANK, "lora_alpha": ALPHA, "target_modules": list(TARGETS)}
    if row.kind in ("lora", "dora"):
        return LoraConfig(**common, use_dora=row.kind == "dora")
    which = {"flylora": FlyLoraConfig, "neurolora": NeuroLoraConfig}[str(row.kind)]
    projection_seed = 1000 + seed + (0 if row.shared else 100 * place)
    return which(**common, init_seed=seed, projection_seed=projection_seed)


def make(row: Trained, model: str, labels: int, seed: int, place: int) -> Classifier:
    from peft import get_peft_model

    body = base(model)
    width = body.config.hidden_size
    if row.kind is None:
        return Classifier(body.requires_grad_(False), width, labels)
    return Classifier(get_peft_model(body, adapter_config(row, seed, place)), width, labels)


# --- train ------------------------------------------------------------------------------------------------


def parent(folder: Path, name: str, place: int, seed: int) -> Path:
    """Where a task's adapter and head lie."""
    return folder / "parents" / f"{parent_method(name, place)}-{TASKS[place]}-{seed}"


def parent_method(name: str, place: int) -> str:
    """The first task's adapter with an A of its own is the one with the shared A."""
    return name.removesuffix("-own") if place == 0 else name


def train(arguments: argparse.Namespace, name: str, seed: int, place: int) -> None:
    from safetensors.torch import save_file
    from transformers import set_seed

    output = parent(arguments.folder, name, place, seed)
    if (output / DONE).is_file():
        return
    started, row = time.perf_counter(), METHODS[name]
    rows, labels = load(arguments.data, arguments.model, TASKS[place], "train", TRAIN_ROWS)
    set_seed(seed)
    model = make(row, arguments.model, labels, seed, place)
    losses = fit(model, rows, row.rate, seed, quiet_loss(arguments, row.quiet, model, seed, place))
    output.mkdir(parents=True, exist_ok=True)
    if row.kind is not None:
        model.body.save_pretrained(output)
    save_file(model.head.state_dict(), output / HEAD)
    seconds = time.perf_counter() - started
    first, last = losses[0], statistics.mean(losses[-10:])
    facts = {"rate": row.rate, "first_loss": first, "last_losses": last, "steps": len(losses)}
    facts |= {"seconds": seconds, "trainable": trainable(model), "environment": environment()}
    write_json(output / DONE, facts)
    print(f"{name} {TASKS[place]} seed {seed}: loss {first:.2f} -> {last:.2f}, {seconds:.0f} s", flush=True)


def quiet_loss(
    arguments: argparse.Namespace, quiet: Quiet | None, model: Classifier, seed: int, place: int
) -> Any:
    """The weighted silence loss of a step; None where nothing is to be quiet."""
    if quiet is None:
        return None
    from neurolora.training.silence import Silence, silence_loss

    names = quiet.texts or tuple(task for task in TASKS if task != TASKS[place])
    texts = unlabelled(arguments.data, arguments.model, names, TEXTS)
    silence = Silence(quiet.weight, texts, quiet.batch_size)
    collate = partial(padded, pad=pad_of(model.body))

    def loss(step: int) -> Tensor:
        return quiet.weight * silence_loss(model.body, silence.batch(collate, seed, step, 0, 0))

    return loss


# --- score ------------------------------------------------------------------------------------------------


def task_accuracy(arguments: argparse.Namespace, body: nn.Module, home: Path, task: str) -> float:
    """Percent of test rows that `body` gets right under the head that lies in `home`."""
    from safetensors.torch import load_file

    rows, labels = load(arguments.data, arguments.model, task, "test", arguments.rows)
    model = Classifier(body, body.config.hidden_size, labels)
    model.head.load_state_dict(load_file(home / HEAD))
    return accuracy(model, rows)


def adapted(arguments: argparse.Namespace, folder: Path) -> nn.Module:
    """The base with the adapter of this folder, or bare where there is none."""
    from peft import PeftModel

    body = base(arguments.model)
    return PeftModel.from_pretrained(body, folder) if (folder / "adapter_config.json").is_file() else body


def score(arguments: argparse.Namespace, name: str, seed: int) -> None:
    homes = {task: parent(arguments.folder, name, place, seed) for place, task in enumerate(TASKS)}

    def merged(output: Path) -> dict[str, float]:
        body = adapted(arguments, output)
        return {task: task_accuracy(arguments, body, home, task) for task, home in homes.items()}

    score_cell(
        Cell(arguments.folder, name, seed, arguments.rows),
        list(homes.values()),
        METHODS[name].merges,
        alone=lambda: {
            task: task_accuracy(arguments, adapted(arguments, home), home, task)
            for task, home in homes.items()
        },
        merged=merged,
    )


def run(arguments: argparse.Namespace) -> None:
    if not (arguments.data and arguments.model):
        raise SystemExit("run needs --data and --model")
    for seed, name in itertools.product(arguments.seeds, arguments.methods):
        for place in range(len(TASKS)):
            train(arguments, parent_method(name, place), seed, place)
        score(arguments, name, seed)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("stage", choices=("run", "table"))
    add_arguments(parser)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    arguments = parser.parse_args()
    if arguments.stage == "run":
        run(arguments)
    else:
        print_table(arguments.folder, TASKS, {name: row.merges for name, row in METHODS.items()})
        others = [(name, merge) for name, row in METHODS.items() for merge in row.merges]
        print_paired(arguments.folder, OURS, [other for other in others if other != OURS])


if __name__ == "__main__":
    main()
