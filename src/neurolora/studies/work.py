"""Doing the work of one cell in its folder: score the base, train, score, merge, or learn a stream.

Room: studies; called by `book.py`, in this process or in one of its workers. What a cell leaves is its record
(`cell.json`, written last) and, of a training run, the adapter. What was begun by other code is thrown away.
"""

from __future__ import annotations

import contextlib
import json
import math
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from neurolora.errors import DivergedError, TrainingError, explain
from neurolora.files import write_json, write_text
from neurolora.provenance import environment, git_state
from neurolora.studies.cells import Cell
from neurolora.studies.code import PACKAGE

RECORD, BEGUN, ADAPTER = "cell.json", "begun.json", "adapter"
#: In the record of a cell whose training became NaN, what it said: a result, as it would become so again.
DIVERGED = "diverged"
NOTHING = {"value": 0.0, "n": 0}  # what a model that was never made scores


def do_work(cell: Cell, folder: Path, parents: list[Path], code: str) -> dict[str, Any]:
    """Run the cell and write its record; what was stopped goes on if the same `code` had begun it.

    Raises what training, merging and evaluation raise.
    """
    _begin(folder, {"code": code, "work": cell.work})
    do = {"base": _base, "train": _train, "score": _score, "merge": _merge, "stream": _stream}[cell.kind]
    found = do(cell, folder, parents)
    told = {
        "key": cell.key,
        "kind": cell.kind,
        "name": cell.name,
        "code": code,
        "built_on": [_told_of(read_record(parent) or {}) for parent in parents],
    }
    # the first study's result makes the checkout dirty for the cells of the next, but not their code
    made_by = {**environment(), "git": git_state(PACKAGE, only_folder=True)}
    record = {**told, **found, "environment": made_by}
    write_json(folder / RECORD, record)
    return record


def _told_of(parent: dict[str, Any]) -> dict[str, Any]:
    """What a record keeps of one that its cell builds on: by which code it was made, and where."""
    return {name: parent.get(name) for name in ("key", "code", "environment")}


def _begin(folder: Path, what: dict[str, Any]) -> None:
    """A folder in which nothing lies that was begun by other code, or by other names of the same files."""
    with contextlib.suppress(OSError, ValueError):
        if json.loads((folder / BEGUN).read_text(encoding="utf-8")) == what:
            return
    if folder.is_dir():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    write_json(folder / BEGUN, what)


def read_record(folder: Path) -> dict[str, Any] | None:
    """The record of a finished cell; None for one that is not, or whose record is damaged."""
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) and {"key", "kind", "code"} <= set(record) else None


def has_weights(folder: Path) -> bool:
    """Whether a training run's weights are still there."""
    return any((folder / ADAPTER).glob("*.safetensors"))


def _base(cell: Cell, folder: Path, parents: list[Path]) -> dict[str, Any]:
    """The scores of the base before any training."""
    from neurolora.continual.scoring import load_as_trained
    from neurolora.training import load_config

    config = load_config(None, {**cell.work, "output": {"output_dir": str(folder)}})
    return {"scores": _scores(cell, load_as_trained(None, config))}


def _train(cell: Cell, folder: Path, parents: list[Path]) -> dict[str, Any]:
    """A training run; the summary of `run.json` is its cost. One that diverges leaves its message alone."""
    from neurolora.training import load_config
    from neurolora.training.run_folder import FINISHED

    output = folder / ADAPTER
    if (output / FINISHED).is_file() and not has_weights(folder):
        shutil.rmtree(output)  # a whole model's, let go when it was scored: it would pass for finished
    section = {"save_strategy": "no", **cell.work.get("output", {}), "output_dir": str(output)}
    config = load_config(None, {**cell.work, "output": section})
    can_resume = config.adapter.method != "adalora"
    try:
        if cell.processes > 1:
            config.save(folder / "run.yaml")
            how = "--resume" if can_resume else "--overwrite"
            _launch(cell, folder, ["train", str(folder / "run.yaml"), how])
        else:
            from neurolora.training.run import run_training

            resume = "auto" if can_resume else None
            run_training(config, resume=resume, overwrite=not can_resume, progress=False)
    except DivergedError as error:
        return {DIVERGED: str(error), "costs": None, "size": None}
    summary = json.loads((output / "run.json").read_text(encoding="utf-8"))
    for checkpoint in output.glob("checkpoint-*"):
        shutil.rmtree(checkpoint)
    if not _are_finite(output):  # the last step has no next one whose loss would tell
        return {DIVERGED: "weights became NaN or infinite in the last step", "costs": None, "size": None}
    return {"costs": summary, "size": _size(output, summary)}


def _are_finite(output: Path) -> bool:
    """Whether all weights that a run has saved are numbers."""
    from safetensors import safe_open

    for path in output.glob("*.safetensors"):
        with safe_open(path, framework="pt") as file:
            if not all(bool(file.get_tensor(key).isfinite().all()) for key in file.keys()):  # noqa: SIM118
                return False
    return True


def _score(cell: Cell, folder: Path, parents: list[Path]) -> dict[str, Any]:
    """The scores of a trained adapter, beside what it took to train it. A whole model is not kept."""
    trained = read_record(parents[0]) or {}
    if DIVERGED in trained:
        return _nothing(cell, trained)
    found = _scores(cell, _loaded(parents[0] / ADAPTER, parents[0]))
    if not all(math.isfinite(score["value"]) for score in found.values()):
        return _nothing(cell, {DIVERGED: "the scores of what was trained are no numbers"})
    if not (parents[0] / ADAPTER / "adapter_config.json").is_file():
        for path in (parents[0] / ADAPTER).glob("*.safetensors"):
            path.unlink()
    return {"scores": found, "costs": trained.get("costs"), "size": trained.get("size")}


def _nothing(cell: Cell, trained: dict[str, Any]) -> dict[str, Any]:
    """The scores of what was built on a run that diverged: 0, as there is no model."""
    scores = {score.column: NOTHING for score in cell.scores}
    return {"scores": scores, DIVERGED: trained[DIVERGED], "costs": None, "size": None}


def _launch(cell: Cell, folder: Path, arguments: list[str]) -> None:
    """A command of ours on several processes, by torchrun; accelerate takes it from there, with DeepSpeed.

    Raises DivergedError where a run in the cell's folder says that it did, else TrainingError with the end of
    what was said.
    """
    from neurolora.training.run_folder import DIVERGED as MARK

    for old in folder.rglob(MARK):
        old.unlink()
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(cell.processes)]
    command = [sys.executable, *launcher, "-m", "neurolora.cli.main", *arguments]
    log = folder / "run.log"
    with log.open("w", encoding="utf-8") as file:  # at once, so that one can look while it runs
        done = subprocess.run(
            [sys.executable, "-c", _WITH_PARENT, *command], stdout=file, stderr=file, check=False
        )
    if not done.returncode:
        return
    for mark in folder.rglob(MARK):
        raise DivergedError(json.loads(mark.read_text(encoding="utf-8"))["error"])
    end = "\n".join(log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-5:])
    found = explain(f"{cell.name} on {cell.processes} processes", end, f"The whole log is {log}")
    raise TrainingError(found)


#: Run a command that the system ends when the process that asked for it has gone (Linux): a launched run of a
#: killed command would write where the next command works.
_WITH_PARENT = """
import ctypes, os, signal, sys
try:
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)
except AttributeError:
    pass
os.execv(sys.argv[1], sys.argv[1:])
"""


def _merge(cell: Cell, folder: Path, parents: list[Path]) -> dict[str, Any]:
    """A merge of the parents' adapters."""
    from neurolora.merging import merge_adapters

    diverged = [record for record in map(read_record, parents) if record and DIVERGED in record]
    if diverged:
        return _nothing(cell, diverged[0])

    sources = [parent / ADAPTER for parent in parents]
    done = merge_adapters(sources, folder / ADAPTER, overwrite=True, **cell.work)
    found = {
        "scores": _scores(cell, _loaded(folder / ADAPTER, parents[0])),
        "costs": {"seconds": round(done.seconds, 3)},
        "notes": list(done.notes),
    }
    shutil.rmtree(folder / ADAPTER)  # its parents and the record make it again
    return found


def _stream(cell: Cell, folder: Path, parents: list[Path]) -> dict[str, Any]:
    """A stream of tasks; its scores are those after the last task, and the metrics of the whole.

    One that diverges is the worst of a search; among those that count it has no BWT (`streams.py`).
    """
    from neurolora.continual import run_continual
    from neurolora.continual.config import StreamConfig
    from neurolora.training.config import to_yaml

    output = folder / "stream"
    config = StreamConfig.model_validate({**cell.work, "output_dir": str(output)})
    try:
        if cell.processes > 1:
            write_text(folder / "run.yaml", to_yaml(config.resolved()))
            _launch(cell, folder, ["continual", str(folder / "run.yaml")])
        else:
            run_continual(config, progress=False)
    except DivergedError as error:
        return _lost_stream(str(error))
    found = json.loads((output / "results.json").read_text(encoding="utf-8"))["cells"][0]
    if not found["metrics"]:
        return _lost_stream("the scores of what was trained are no numbers")
    last = {task: found["scores"][-1][task] for task in found["order"]}
    metrics = {name: {"value": round(value, 6)} for name, value in found["metrics"].items()}
    shutil.rmtree(output / "cells")
    return {
        "scores": {**last, **metrics},
        "costs": _stream_costs(found["costs"]),
        "R": found["R"],
        "order": found["order"],
    }


def _lost_stream(why: str) -> dict[str, Any]:
    return {"scores": {"average_accuracy": NOTHING}, DIVERGED: why, "costs": None}


def _stream_costs(tasks: list[dict[str, Any]]) -> dict[str, float]:
    """Of a whole stream: what the last task trains and leaves, the most kept and of memory, all seconds."""
    peaks = [task["peak_bytes"] for task in tasks if task["peak_bytes"] is not None]
    return {
        "trainable": tasks[-1]["trainable_parameters"],
        "seconds": round(sum(task["train_seconds"] + task["after_seconds"] for task in tasks), 3),
        "adapter_bytes": tasks[-1]["adapter_bytes"],
        "kept_bytes": max(task["memory_bytes"] for task in tasks),
        **({"peak_bytes": max(peaks)} if peaks else {}),
    }


def _loaded(adapter: Path, trained: Path) -> Any:
    """An adapter, or a whole model, on the base as the run in `trained` had it."""
    from neurolora.continual.scoring import load_as_trained
    from neurolora.training import load_config
    from neurolora.training.run_folder import CONFIG

    return load_as_trained(adapter, load_config(trained / ADAPTER / CONFIG))


def _scores(cell: Cell, loaded: Any) -> dict[str, Any]:
    """Every score that the cell asks for, by column."""
    from neurolora.evaluation import task_score

    return {
        score.column: task_score(
            loaded,
            score.request(),
            metric=score.metric,
            split=score.split,
            limit=score.limit,
            batch_size=score.batch_size,
        )
        for score in cell.scores
    }


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
