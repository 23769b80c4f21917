"""How an adapter moves along a stream of tasks: the ranks that each task uses, and the columns of B.

Room: report. Called by `continual_adapters.py`. The maths are functions of plain numbers; below them is
what reads the folders of one cell: `routing.json` of each run, and B out of each adapter, a tensor at a time.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from neurolora.adapter_file import WEIGHTS, pair_of
from neurolora.continual.use import read_use
from neurolora.errors import AdapterError, DataError, explain
from neurolora.merging.sources import open_adapters
from neurolora.report.continual_facts import CellFacts, mean_of
from neurolora.report.run_folder import drawable

Matrix = NDArray[np.float64]
ROUTING = "routing.json"
#: The blocks of a module in the order in which a merged adapter has them.
BLOCKS = ("past", "default")


def overlap(first: ArrayLike, second: ArrayLike) -> float:
    """sum over ranks of min(f, g), over the sum of max(f, g): 1 for equal use, 0 for no common rank.

    first, second (r,) >= 0 -> a number in [0, 1]; NaN if no rank is used at all.
    """
    f, g = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    most = float(np.maximum(f, g).sum())
    return float(np.minimum(f, g).sum()) / most if most else float("nan")


def correlation(first: ArrayLike, second: ArrayLike) -> float:
    """Pearson's over ranks: first, second (r,) -> a number in [-1, 1]; NaN if either is constant."""
    f, g = (np.asarray(values, dtype=np.float64) for values in (first, second))
    f, g = f - f.mean(), g - g.mean()
    size = float(np.sqrt((f**2).sum() * (g**2).sum()))
    return float(np.clip((f * g).sum() / size, -1, 1)) if size > 1e-12 else float("nan")


def column_cosines(stack: ArrayLike) -> Matrix:
    """Mean over columns i of cos(B_j[:, i], B_j'[:, i]): stack (T, d, r), B after each task -> (T, T).

    A column that is zero in either has no direction and is left out; NaN where none is left.
    """
    B = np.asarray(stack, dtype=np.float64)
    norms = np.linalg.norm(B, axis=1)  # (T, r)
    products = np.einsum("jdi,kdi->jki", B, B)
    sizes = norms[:, None] * norms[None]
    cosines = np.where(sizes > 0, products / np.where(sizes > 0, sizes, 1), np.nan)
    return np.clip(mean_of(np.moveaxis(cosines, -1, 0)), -1, 1)


Frequencies = dict[str, list[float]]


def read_routing(cell: CellFacts) -> list[Frequencies]:
    """After each task of a cell, for each module how often each rank is active; up to the first gap.

    Where earlier tasks have blocks of their own, theirs come first. Raises DataError for a damaged file.
    """
    found = []
    for stage in range(len(cell.costs)):
        path = cell.cell.task_folder(stage) / "run" / ROUTING
        if not path.is_file():
            break
        found.append(_frequencies(path))
    return found


def _frequencies(path: Path) -> Frequencies:
    try:
        layers: Any = json.loads(path.read_text(encoding="utf-8"))["layers"]
        good = [layer for layer in layers if drawable(layer)]
        if not good:
            raise ValueError("no layer has numbers")
        good.sort(key=lambda layer: BLOCKS.index(layer.get("adapter", BLOCKS[-1])))
    except (OSError, ValueError, KeyError, TypeError) as error:
        found = f"it cannot be read ({type(error).__name__})"
        raise DataError(
            explain(f"reading {path}", found, "Give the command again with --overwrite")
        ) from None
    table: Frequencies = {}
    for layer in good:
        table.setdefault(layer["name"], []).extend(layer["active_frequency"])
    return table


def read_drift(cell: CellFacts) -> Matrix:
    """After each task j, for each task i: `overlap` of the ranks that i's rows use then with those that they
    used once i was learned, mean over modules: (T, T), NaN above the diagonal; up to the first gap.

    The rows are the same throughout. Of an adapter that has grown, the ranks that it had when i was learned.
    Raises DataError for a damaged file.
    """
    stages = []
    for stage in range(len(cell.costs)):
        use = read_use(cell.cell.task_folder(stage))
        if use is None:
            break
        stages.append(use)
    table = np.full((len(stages), len(stages)), np.nan)
    for j, after in enumerate(stages):
        for i, task in enumerate(cell.order[: j + 1]):
            table[j, i] = _mean_over_modules(stages[i].get(task, {}), after.get(task, {}), overlap)
    return table


def frequency_table(stages: Sequence[Frequencies]) -> Matrix:
    """Mean over modules (T, most ranks); NaN where a task has fewer ranks, or a module has."""
    most = max((len(values) for stage in stages for values in stage.values()), default=0)
    rows = []
    for stage in stages:
        table = np.full((max(1, len(stage)), most), np.nan)
        for place, values in enumerate(stage.values()):
            table[place, : len(values)] = values
        rows.append(mean_of(table))
    return np.array(rows)


def compare_stages(stages: Sequence[Frequencies], measure: Any) -> Matrix:
    """(T, T): mean over modules of `measure`, over the ranks that both tasks had."""
    return np.array([[_mean_over_modules(a, b, measure) for b in stages] for a in stages])


def _mean_over_modules(first: Frequencies, second: Frequencies, measure: Any) -> float:
    values = []
    for name in first.keys() & second.keys():
        common = min(len(first[name]), len(second[name]))
        values.append(measure(first[name][:common], second[name][:common]))
    return float(mean_of(values)) if values else float("nan")


def read_column_cosines(cell: CellFacts) -> Matrix:
    """Mean over modules of `column_cosines` of the adapters after each task: (T, T), up to the first gap.

    One module is in memory at a time. Raises AdapterError for files that are damaged or differ in shape.
    """
    folders = [cell.cell.adapter(stage) for stage in range(len(cell.costs))]
    there = [(folder / WEIGHTS).is_file() for folder in folders]
    folders = folders[: there.index(False)] if False in there else folders
    if len(folders) < 2:
        return np.zeros((0, 0))
    with ExitStack() as stack:
        sources = open_adapters(folders, stack)
        means = []
        for module, parts in sources[0].modules.items():
            pair = pair_of(parts)
            if pair is None or not all(pair[1] in one.modules.get(module, {}) for one in sources):
                continue
            B = [one.get_tensor(one.modules[module][pair[1]]).double().numpy() for one in sources]
            if len({one.shape for one in B}) > 1:
                found = f"B of {module} has the shapes {', '.join(str(one.shape) for one in B)}"
                do = "Its columns cannot be followed"
                raise AdapterError(explain(f"comparing the adapters of {cell.cell.name}", found, do))
            means.append(column_cosines(B))
    return mean_of(means) if means else np.zeros((0, 0))
