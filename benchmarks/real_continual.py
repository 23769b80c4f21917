"""Three real tasks learned one after another, strategy by strategy: what is learned, and what is left of it.

    python benchmarks/real_continual.py search FOLDER --data DATA --model MODEL   # settings, on validation
    python benchmarks/real_continual.py run FOLDER --data DATA --model MODEL      # goes on where it stopped
    python benchmarks/real_continual.py result FOLDER --out RESULT.json           # for continual_table.py

With `--out RESULT.json` all three know the cells that are in that file already, and `result` adds to it, so
that a table can be built up over several sittings and machines.

For MODEL and DATA see `real_tasks.py`; the strategies are those of `neurolora continual`, in a loop of this
script's own, since each task has a head. The heads are the tasks' identity, which every row is given; the
body is not. The first task of an order is trained as `real_merging.py` trains its parents, so FOLDER may be
that benchmark's: those parents are taken. Rates as there; the strategies' own settings are the best of
CANDIDATES by `search`, on validation rows of a seed of its own. The weight of silence had been chosen for
merging, by test rows of seed 0.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import real_merging as parents
import torch
from real_merging import METHODS, adapter_config, quiet_loss
from real_tasks import (
    TASKS,
    TRAIN_ROWS,
    Classifier,
    Rows,
    accuracy,
    add_arguments,
    base,
    fit,
    load,
    padded,
    pooled,
)
from torch import Tensor, nn
from torch.nn import functional

from neurolora.continual import STRATEGIES
from neurolora.continual.learner import Learner, TaskData
from neurolora.continual.memory import Memory
from neurolora.continual.weights import go_on_from, put_beside
from neurolora.files import write_json
from neurolora.provenance import environment
from neurolora.training.extra_loss import Moment

ORDERS = {"forth": (0, 1, 2), "back": (2, 1, 0)}


class Stream(NamedTuple):
    """A row of the table: how the parents are trained, by which strategy, with which settings."""

    method: str
    strategy: str
    settings: dict[str, Any] = {}  # noqa: RUF012


ROWS = {
    "LoRA-Seq": Stream("lora", "sequential"),
    "EWC+LoRA": Stream("lora", "ewc", {"weight": 1e4}),
    "O-LoRA": Stream("lora", "o-lora"),
    "FlyLoRA-Seq": Stream("flylora", "sequential"),
    "NeuroLoRA-Seq": Stream("neurolora", "sequential"),
    "protect": Stream("neurolora", "protect"),
    "grow": Stream("neurolora", "grow"),
    "grow, quiet": Stream("neurolora-quiet", "grow"),
    "replay": Stream("neurolora", "replay", {"rows": 64, "batch_size": 16}),
}


SILENCE = "silence_weight"  # of the adapter's training, and no strategy's
#: What `search` tries: one order, one seed that `run` does not use, rows that are neither learned nor tested.
CANDIDATES: dict[str, list[dict[str, Any]]] = {
    "EWC+LoRA": [{"weight": weight} for weight in (1e2, 1e4, 1e5, 1e6, 1e7)],
    "O-LoRA": [{"weight": weight} for weight in (5e-4, 5e-3, 5e-2, 0.5, 5.0)],
    "protect": [{"weight": weight} for weight in (0.1, 1.0, 10.0, 100.0)],
    "grow, quiet": [{SILENCE: weight} for weight in (1.0, 3.0, 10.0, 30.0, 100.0)],
}
SEARCH_SEED = 5


#: What a cell is known by: row, order, seed, settings, test rows, whether it is of the table or of a search.
Key = tuple[str, tuple[str, ...], int, str, int, bool]


class Cell(NamedTuple):
    """One row, order and seed, and its place on disk; in a search also the settings that are tried."""

    arguments: argparse.Namespace
    name: str
    order: str
    seed: int
    tried: dict[str, Any] | None = None

    @property
    def key(self) -> Key:
        order = tuple(TASKS[place] for place in self.places)
        told, rows = json.dumps(self.settings, sort_keys=True), self.arguments.rows
        return (self.name, order, self.seed, told, rows, self.tried is None)

    @property
    def settings(self) -> dict[str, Any]:
        return self.row.settings if self.tried is None else self.tried

    @property
    def method(self) -> str:
        """How the adapter is trained; a search may try another weight of silence."""
        own, weight = self.row.method, (self.tried or {}).get(SILENCE)
        quiet = METHODS[own].quiet
        return own if weight is None or quiet is None or weight == quiet.weight else f"{own}-at-{weight:g}"

    @property
    def knobs(self) -> Any:
        """The strategy's own settings."""
        own = {name: value for name, value in self.settings.items() if name != SILENCE}
        return STRATEGIES[self.row.strategy].knobs(**own)

    @property
    def scored_on(self) -> str:
        return "test" if self.tried is None else "validation"

    @property
    def row(self) -> Stream:
        return ROWS[self.name]

    @property
    def places(self) -> tuple[int, ...]:
        return ORDERS[self.order]

    @property
    def folder(self) -> Path:
        name = self.name.replace(" ", "_").replace(",", "").replace("+", "_")
        tried = "".join(f"-{key}-{value:g}" for key, value in (self.tried or {}).items())
        kind = "streams" if self.tried is None else "search"
        folder: Path = self.arguments.folder / kind / f"{name}-{self.order}-{self.seed}{tried}"
        return folder


# --- data and loss with the heads that rows belong to -----------------------------------------------------


class Heads(nn.Module):
    """A body under the heads of all tasks so far; each row is answered by its own task's."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body, self.heads = body, nn.ModuleDict()

    def forward(self, inputs: dict[str, Tensor], tasks: list[str], labels: Tensor | None = None) -> Any:
        states = pooled(self.body, inputs)
        if labels is None:
            return SimpleNamespace(loss=None)
        losses = [
            functional.cross_entropy(self.heads[task](states[i]), labels[i]) for i, task in enumerate(tasks)
        ]
        return SimpleNamespace(loss=torch.stack(losses).mean())


def batch_loss(model: nn.Module, batch: dict[str, Any]) -> Tensor:
    loss: Tensor = model(**batch).loss
    return loss


def collate(rows: list[Any]) -> dict[str, Any]:
    return {
        "inputs": padded([row["tokens"] for row in rows], 0),
        "labels": torch.tensor([row["label"] for row in rows]),
        "tasks": [row["task"] for row in rows],
    }


def task_data(rows: Rows, task: str, seed: int) -> TaskData:
    """The training rows as dicts, which a strategy can keep."""
    pairs = zip(rows.tokens, rows.labels, strict=True)
    return TaskData([{"tokens": t, "label": n, "task": task} for t, n in pairs], collate, seed)


# --- one cell ---------------------------------------------------------------------------------------------


def run_cell(cell: Cell) -> None:
    """Learn the three tasks of an order in turn and score those learned so far after each."""
    target = cell.folder / "scores.json"
    if cell.key in stored(cell.arguments.out):
        return
    if target.is_file():
        found = _key(
            json.loads(target.read_text(encoding="utf-8")), "cells" if cell.tried is None else "search"
        )
        if found != cell.key:
            raise SystemExit(
                f"{cell.folder} was made otherwise: {found}, and not {cell.key}. Remove it first"
            )
        return
    started = time.perf_counter()
    state = State(cell)
    R = []
    for stage, place in enumerate(cell.places):
        state.learn(stage, place)
        R.append([score(cell, state.model, other) for other in cell.places[: stage + 1]])
    row = {"label": cell.name, "order": [TASKS[p] for p in cell.places], "seed": cell.seed, "R": R}
    facts = {"seconds": time.perf_counter() - started, "rows": cell.arguments.rows}
    write_json(target, {**row, **facts, "settings": cell.settings, "environment": environment()})
    print(
        f"{cell.name} {cell.settings} {cell.order} seed {cell.seed}: {R[-1]}, {facts['seconds']:.0f} s",
        flush=True,
    )


class State:
    """The model as it goes from task to task, the adapter's folder, and the strategy's memory."""

    def __init__(self, cell: Cell) -> None:
        self.cell, self.memory = cell, Memory()
        self.model: Heads = Heads(nn.Identity())
        self.past: Path | None = None

    def learn(self, stage: int, place: int) -> None:
        cell, task = self.cell, TASKS[place]
        rows, labels = load(cell.arguments.data, cell.arguments.model, task, "train", TRAIN_ROWS)
        strategy = STRATEGIES[cell.row.strategy]
        learner = strategy.learner(cell.knobs, self.memory, batch_loss)
        torch.manual_seed(cell.seed + 1000 * stage)
        head = nn.Linear(384, labels)
        own = self.cell.folder / f"{stage}-run"
        if stage == 0:
            own = self._first(place, head)
        else:
            self._bring_in(strategy.carry, stage)
            self._train(learner, stage, place, rows, head)
            self.model.body.save_pretrained(own)
        self.model.heads[task] = head.requires_grad_(False)
        self.past = learner.publish(own, self.past, cell.folder / f"{stage}-adapter")
        self.memory = learner.remember(self.model, task_data(rows, task, cell.seed), stage)

    def _first(self, place: int, head: nn.Linear) -> Path:
        """The first task as the benchmark of merging trains it, made where it is not there."""
        from safetensors.torch import load_file

        cell = self.cell
        parents.train(cell.arguments, cell.method, cell.seed, place)
        own = parents.parent(cell.arguments.folder, cell.method, place, cell.seed)
        self.model = Heads(self._fresh_body(0))
        go_on_from(self.model.body, own)
        head.load_state_dict(load_file(own / parents.HEAD))
        return own

    def _fresh_body(self, stage: int) -> Any:
        from peft import get_peft_model

        row = METHODS[self.cell.method]._replace(shared=False)
        config = adapter_config(row, self.cell.seed, stage)
        if hasattr(config, "init_seed"):
            config.init_seed = self.cell.seed + 1000 * stage
        return get_peft_model(base(self.cell.arguments.model), config)

    def _bring_in(self, carry: str, stage: int) -> None:
        """Weights go on as they are; where they are frozen, a fresh adapter is put beside them."""
        if carry == "frozen":
            assert self.past is not None
            self.model.body = self._fresh_body(stage)
            put_beside(self.model.body, self.past)

    def _train(self, learner: Learner, stage: int, place: int, rows: Rows, head: nn.Linear) -> None:
        cell, row = self.cell, METHODS[self.cell.method]
        one = Classifier(self.model.body, head.in_features, head.out_features)
        one.head = head
        losses = learner.losses(self.model)
        quiet = quiet_loss(cell.arguments, row.quiet, one, cell.seed, place)

        def extra(step: int) -> Tensor:
            moment = Moment(cell.seed, step, 0, 0, {}, None, collate)
            found = [loss.weight * loss(self.model, moment) for loss in losses]
            return torch.stack([*found, *([quiet(step)] if quiet else [])]).sum()

        fit(one, rows, row.rate, cell.seed + 1000 * stage, extra if losses or quiet else None)


def score(cell: Cell, model: Heads, place: int) -> float:
    """Percent of a task's rows that are right, under its own head."""
    task, arguments = TASKS[place], cell.arguments
    rows, labels = load(arguments.data, arguments.model, task, cell.scored_on, arguments.rows)
    one = Classifier(model.body, 384, labels)
    one.head = model.heads[task]
    return accuracy(one, rows)


# --- result -----------------------------------------------------------------------------------------------


@cache
def stored(out: Path | None) -> dict[Key, dict[str, Any]]:
    """The cells in a result file, none where it is not there yet."""
    if out is None or not out.is_file():
        return {}
    found = json.loads(out.read_text(encoding="utf-8"))
    return {_key(cell, kind): cell for kind in ("cells", "search") for cell in found[kind]}


def _key(cell: dict[str, Any], kind: str) -> Key:
    told = json.dumps(cell["settings"], sort_keys=True)
    return (cell["label"], tuple(cell["order"]), cell["seed"], told, cell["rows"], kind == "cells")


def write_result(folder: Path, out: Path) -> None:
    """What the file has and what the folder has, streams and searches; the rows in the order of ROWS."""
    found = dict(stored(out))
    for kind, place in (("cells", "streams"), ("search", "search")):
        for path in folder.glob(f"{place}/*/scores.json"):
            cell = json.loads(path.read_text(encoding="utf-8"))
            found[_key(cell, kind)] = cell
    ordered = sorted(found, key=lambda key: (list(ROWS).index(key[0]), *key[1:]))
    cells = {is_table: [found[key] for key in ordered if key[-1] == is_table] for is_table in (True, False)}
    write_json(out, {"cells": cells[True], "search": cells[False]})


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("stage", choices=("search", "run", "result"))
    add_arguments(parser)
    parser.add_argument("--out", type=Path, help="the result's file")
    parser.add_argument("--orders", nargs="+", choices=ORDERS, default=list(ORDERS))
    parser.add_argument("--strategies", nargs="+", choices=ROWS, default=list(ROWS))
    arguments = parser.parse_args()
    if arguments.stage == "result":
        if arguments.out is None:
            raise SystemExit("result needs --out")
        write_result(arguments.folder, arguments.out)
        return
    if not (arguments.data and arguments.model):
        raise SystemExit(f"{arguments.stage} needs --data and --model")
    if arguments.stage == "search":
        tried = [(name, settings) for name in CANDIDATES for settings in CANDIDATES[name]]
        for name, settings in tried:
            run_cell(Cell(arguments, name, "forth", SEARCH_SEED, settings))
        return
    for seed, order, name in itertools.product(arguments.seeds, arguments.orders, arguments.strategies):
        run_cell(Cell(arguments, name, order, seed))


if __name__ == "__main__":
    main()
