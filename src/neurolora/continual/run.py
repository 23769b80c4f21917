"""A whole comparison: every strategy, order and seed of a stream, resumed where it stopped.

Room: continual. `run_continual` is what `neurolora continual` calls; the page is made by the command line
from what this leaves.

    config.yaml             what was asked
    inputs.json             fingerprints of the model and of each task's rows
    before.json             the base model's scores: what forward transfer is counted from
    cells/LABEL/order-0-seed-0/   one cell each (`cell.py`)
    results.json, R.csv, table.md   all matrices; metrics with intervals
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neurolora.checks import changes
from neurolora.continual.cell import cells, run_cell
from neurolora.continual.config import StreamConfig
from neurolora.continual.preflight import INPUTS, read_inputs, require_ready, require_same_inputs
from neurolora.continual.processes import processes
from neurolora.continual.results import CSV, RESULTS, TABLE, read_cells, summarise, write_results
from neurolora.continual.scoring import Scorer, load_as_trained
from neurolora.errors import ConfigError, DataError, OutputError, explain
from neurolora.files import NEW, write_json, write_text
from neurolora.locks import alone_in
from neurolora.training.config import to_yaml
from neurolora.yaml_lines import read_yaml

CONFIG, BEFORE = "config.yaml", "before.json"
#: All that a comparison leaves, in the order in which `--overwrite` removes it.
OURS = (CONFIG, "cells", BEFORE, INPUTS, "env.json", RESULTS, CSV, TABLE, "report.html")
#: What may differ when a comparison is gone on with: no number depends on it, or what is there stays.
MAY_CHANGE = frozenset({"output_dir"})
#: Of `eval`: rows at once, for whoever ran out of memory; scores differ by rounding at most.
EVAL_MAY_CHANGE = frozenset({"batch_size"})
MAY_GROW = frozenset({"seeds", "orders", "strategies"})

Notify = Callable[[str], None]


@dataclass(frozen=True)
class StreamResult:
    """What a comparison left. summary: `results.json`. is_main_process: whether this one is to tell of it."""

    output_dir: Path
    summary: dict[str, Any]
    is_main_process: bool = True


def run_continual(
    config: StreamConfig,
    *,
    overwrite: bool = False,
    progress: bool = True,
    notify: Notify = lambda text: None,
) -> StreamResult:
    """Run every cell that is not done, and write the results; a finished comparison is only written again.

    A folder that holds a run of the same config, or of one with fewer seeds, orders or strategies, is gone on
    with. Raises ConfigError for one of another config and DataError for one of other data or another model,
    with the differences; OutputError for a folder of something else, or one in which another process runs a
    comparison; what `require_ready` raises, before the first step; and what training raises.
    """
    folder, is_main = Path(config.output_dir), processes(config).is_main_process
    require_ready(config)
    with alone_in(folder, "running a stream") if is_main else contextlib.nullcontext():
        _run_cells(config, folder, overwrite, progress, notify if is_main else lambda text: None)
        processes(config).wait_for_everyone()
    return StreamResult(folder, json.loads((folder / RESULTS).read_text(encoding="utf-8")), is_main)


def check(config: StreamConfig, overwrite: bool = False) -> None:
    """Raises what `run_continual` would raise before its first step; nothing is written."""
    require_ready(config)
    require_fitting_folder(config, Path(config.output_dir), read_inputs(config), overwrite)


def _run_cells(config: StreamConfig, folder: Path, overwrite: bool, progress: bool, notify: Notify) -> None:
    """Every cell in turn; the results are written anew after each."""
    scorer, is_main = Scorer(config), processes(config).is_main_process
    with processes(config).main_process_first():
        if is_main:
            _open_folder(config, folder, overwrite)
            _score_base(config, folder, scorer, notify)
    before, worked = _read_before(config, folder), False
    for cell in cells(config, folder, progress):
        worked = run_cell(cell, scorer, notify)
        if worked and is_main:
            _gather(config, folder, before)
    if not worked and is_main:  # else they are as they are after the last cell
        _gather(config, folder, before)


def gather(config: StreamConfig, notify: Notify = lambda text: None) -> StreamResult:
    """Write the results of what is there; nothing is run. `notify` is told of damaged states.

    Raises DataError where nothing was begun, and ConfigError for a folder of another config.
    """
    folder = Path(config.output_dir)
    try:
        before = _read_before(config, folder)
    except (OSError, ValueError) as error:
        found, do = f"there is no {BEFORE} that can be read", "Give the command without --report"
        raise DataError(explain(f"results of the stream in {folder}", found, do)) from error
    _require_same(config, folder / CONFIG)
    return StreamResult(folder, _gather(config, folder, before, notify))


def _gather(
    config: StreamConfig, folder: Path, before: dict[str, Any], notify: Notify = lambda text: None
) -> dict[str, Any]:
    """The results of what is there, written; while cells run, these have told of what is damaged."""
    summary = summarise(config, before, read_cells(config, folder, notify))
    write_results(folder, summary)
    return summary


def _read_before(config: StreamConfig, folder: Path) -> dict[str, Any]:
    """The base model's score of each task; none where they are not asked for.

    Raises OSError or ValueError where they are not all there.
    """
    if not config.eval.base:
        return {}
    found: dict[str, Any] = json.loads((folder / BEFORE).read_text(encoding="utf-8"))
    if not isinstance(found, dict) or not all(
        isinstance(found.get(task), dict) and "value" in found[task] for task in config.task_names
    ):
        raise ValueError("it does not have the scores of all tasks")
    return found


def _open_folder(config: StreamConfig, folder: Path, overwrite: bool) -> None:
    """Make the folder this comparison's. The config is the first file there and the first to go: what lies
    in a folder with one belongs to it, whenever a process was killed."""
    inputs = read_inputs(config)
    require_fitting_folder(config, folder, inputs, overwrite)
    if overwrite:
        _remove_comparison(folder)
    write_text(folder / CONFIG, to_yaml(config.resolved()))
    write_json(folder / INPUTS, inputs)


def require_fitting_folder(
    config: StreamConfig, folder: Path, inputs: dict[str, Any], overwrite: bool = False
) -> None:
    """Raises ConfigError, DataError or OutputError for a folder of another stream, or of something else."""
    is_begun = (folder / CONFIG).is_file()
    others = [] if is_begun else _other_names(folder)
    if overwrite and set(others) <= set(OURS):
        return
    if is_begun:
        _require_same(config, folder / CONFIG)
        require_same_inputs(folder, inputs)
    elif others:
        ours = set(others) <= set(OURS)
        found = f"it has no {CONFIG}, and holds {', '.join(others[:3])}: files that are no stream's"
        do = f"Choose another output_dir{', or replace what is there with --overwrite' if ours else ''}"
        raise OutputError(explain(f"starting a stream in {folder}", found, do))


def _other_names(folder: Path) -> list[str]:
    """What is in a folder, but for what a process leaves that is killed as it writes the config."""
    names = sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []
    return [name for name in names if not (name.startswith(f".{CONFIG}.") and name.endswith(NEW))]


def _remove_comparison(folder: Path) -> None:
    for name in OURS:
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def _require_same(config: StreamConfig, path: Path) -> None:
    """What was begun is gone on with under the same settings; there may be more seeds, orders and strategies.

    Raises ConfigError with the differences.
    """
    (before, _), now = read_yaml(path), config.resolved()
    changed = [
        change
        for name in now
        if name not in MAY_CHANGE and not _goes_on(name, before.get(name), now[name])
        for change in changes(before.get(name), now[name], name)
    ]
    if changed:
        do = f"Give the settings of {path}, choose another output_dir, or replace the run with --overwrite"
        raise ConfigError(explain(f"going on with the stream in {path.parent}", "; ".join(changed), do))


def _goes_on(name: str, before: Any, now: Any) -> bool:
    """Whether a setting is what it was, or a list that may grow and begins with what it was."""
    if before == now:
        return True
    if name == "eval" and isinstance(before, dict):
        left_out = {key: before.get(key) for key in EVAL_MAY_CHANGE}
        return before == {**now, **left_out}
    both = isinstance(before, list) and isinstance(now, list)
    return both and name in MAY_GROW and now[: len(before)] == before


def _score_base(config: StreamConfig, folder: Path, scorer: Scorer, notify: Notify) -> None:
    """The base model's scores on every task, once; again if the file is damaged, as is told."""
    try:
        _read_before(config, folder)
        return
    except FileNotFoundError:
        notify("scoring the base model")
    except (OSError, ValueError) as error:
        notify(f"{folder / BEFORE} is damaged ({error}); scoring the base model again")
    base = load_as_trained(None, config.any_training(config.strategies[0], config.task_names[0]))
    write_json(folder / BEFORE, dict(scorer.score(base, config.task_names)))
