"""Doing the work of one cell in its folder: train, merge or learn a stream, then score.

Room: studies; called by `book.py`, in this process or in one of its workers. What a cell leaves is its record
(`cell.json`, written last) and, for the cells that merges build on, the adapter.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from neurolora.errors import TrainingError, explain
from neurolora.files import write_json
from neurolora.provenance import environment
from neurolora.studies.cells import Cell
from neurolora.studies.code import code_fingerprint
from neurolora.studies.peak import peak_bytes, reset_peak

RECORD, ADAPTER = "cell.json", "adapter"


def do_work(cell: Cell, folder: Path, parents: list[Path]) -> dict[str, Any]:
    """Run the cell and write its record; a run that was stopped goes on where it can.

    Raises what training, merging and evaluation raise.
    """
    folder.mkdir(parents=True, exist_ok=True)
    reset_peak()
    found = {"train": _train, "merge": _merge, "stream": _stream}[cell.kind](cell, folder, parents)
    record = {
        "key": cell.key,
        "kind": cell.kind,
        "name": cell.name,
        "code": code_fingerprint(cell.kind),
        **found,
        "peak_bytes": peak_bytes(),
        "environment": environment(),
    }
    write_json(folder / RECORD, record)
    return record


def read_record(folder: Path) -> dict[str, Any] | None:
    """The record of a finished cell; None for one that is not, or whose record is damaged."""
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) and {"key", "code", "scores"} <= set(record) else None


def _train(cell: Cell, folder: Path, parents: list[Path]) -> dict[str, Any]:
    """A training run; the summary of `run.json` is its cost."""
    from neurolora.training import load_config

    output = folder / ADAPTER
    values = {**cell.work, "output": {"save_strategy": "no", **cell.work.get("output", {})}}
    config = load_config(None, {**values, "output": {**values["output"], "output_dir": str(output)}})
    if cell.processes > 1:
        _launch(cell, config, folder)
    else:
        from neurolora.training.run import run_training

        can_resume = config.adapter.method != "adalora"
        run_training(config, resume="auto" if can_resume else None, overwrite=not can_resume, progress=False)
    summary = json.loads((output / "run.json").read_text(encoding="utf-8"))
    for checkpoint in output.glob("checkpoint-*"):
        shutil.rmtree(checkpoint)
    return {"scores": _scores(cell, output), "costs": summary, "size": _size(output, summary)}


def _launch(cell: Cell, config: Any, folder: Path) -> None:
    """The same run on several processes, by torchrun; accelerate takes it from there, DeepSpeed included.

    Raises TrainingError with the end of what it said.
    """
    config.save(folder / "train.yaml")
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(cell.processes)]
    training = ["-m", "neurolora.cli.main", "train", str(folder / "train.yaml"), "--resume"]
    command = [sys.executable, *launcher, *training]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    (folder / "train.log").write_text(done.stdout + done.stderr, encoding="utf-8")
    if done.returncode:
        end = "\n".join(done.stderr.strip().splitlines()[-5:])
        do = f"The whole log is {folder / 'train.log'}"
        raise TrainingError(explain(f"training {cell.name} on {cell.processes} processes", end, do))


def _merge(cell: Cell, folder: Path, parents: list[Path]) -> dict[str, Any]:
    """A merge of the parents' adapters."""
    from neurolora.merging import merge_adapters

    sources = [parent / ADAPTER for parent in parents]
    done = merge_adapters(sources, folder / ADAPTER, overwrite=True, **cell.work)
    found = {"scores": _scores(cell, folder / ADAPTER), "costs": {"seconds": round(done.seconds, 3)}}
    shutil.rmtree(folder / ADAPTER)  # its parents and the record make it again
    return found


def _stream(cell: Cell, folder: Path, parents: list[Path]) -> dict[str, Any]:
    """A stream of tasks; its scores are those after the last task, and the metrics of the whole."""
    from neurolora.continual import run_continual
    from neurolora.continual.config import StreamConfig

    config = StreamConfig.model_validate({**cell.work, "output_dir": str(folder / "stream")})
    found = run_continual(config, progress=False).summary["cells"][0]
    last = dict(zip(found["order"], found["R"][-1], strict=True))
    metrics = {name: round(value, 6) for name, value in found["metrics"].items()}
    seconds = sum(cost["train_seconds"] for cost in found["costs"])
    adapters = folder / "stream" / "cells"
    if adapters.is_dir():
        shutil.rmtree(adapters)
    scores = {name: {"value": value} for name, value in {**last, **metrics}.items()}
    costs = {"seconds": round(seconds, 3)}
    return {"scores": scores, "costs": costs, "R": found["R"], "order": found["order"]}


def _scores(cell: Cell, adapter: Path) -> dict[str, Any]:
    """Every score that the cell asks for, by column."""
    from neurolora.evaluation import load_for_inference, task_score

    loaded, found = load_for_inference(str(adapter)), {}
    for score in cell.scores:
        found[score.column] = task_score(
            loaded,
            score.request(),
            metric=score.metric,
            split=score.split,
            limit=score.limit,
            batch_size=score.batch_size,
        )
    return found


def _size(adapter: Path, summary: dict[str, Any]) -> dict[str, int]:
    """What is trained, stored, and active for one token, counted from the file; of a full model all of it."""
    from neurolora.report.inspection import inspect_adapter

    if not (adapter / "adapter_config.json").is_file():
        return dict.fromkeys(("trainable", "stored", "active", "base"), summary["total_parameters"])
    counted = inspect_adapter(adapter).parameters
    base = summary["total_parameters"] - summary["trainable_parameters"]
    return {
        "trainable": summary["trainable_parameters"],
        "stored": counted.stored,
        "active": counted.active,
        "base": base,
    }
