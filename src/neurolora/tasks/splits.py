"""Which rows are train, validation and test, when the data have all, some or one of them.

Room: tasks. `registry` calls it; it touches nothing.

Rules, in order:
1. A split that the data have is used whole, under any of its usual names (`val`, `dev`, ...).
2. A file whose name says no split is train.
3. Where validation (or test) is missing and `validation_fraction` (or `test_fraction`) is set, that part of
   train is held out, and train is the rest. Where the data are one split only, under whatever name, and
   `test_fraction` is set, that one is divided. A fraction does nothing where the split exists.
4. Else a missing split is an error that says what there is. Nothing that is called test is ever trained on
   unless `test_fraction` says so.

What is held out is decided by a hash of the row's question (not of its answer, not of its place): the same on
every machine and for every seed, unchanged when rows are added or sorted, and a question that stands twice
falls on one side.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from neurolora.errors import DataError, explain
from neurolora.tasks.naming import listed
from neurolora.tasks.records import Row
from neurolora.tasks.request import TaskRequest

UNNAMED = ""  # the raw split of a file whose name says none

USUAL_NAMES: Mapping[str, tuple[str, ...]] = {
    "train": ("train", "training", UNNAMED),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test",),
}


@dataclass(frozen=True)
class SplitPlan:
    """Read the raw split `raw`; keep the rows of `wanted` when parts of it are held out."""

    wanted: str
    raw: str
    validation: float = 0.0
    test: float = 0.0


def plan_split(
    wanted: str, there: list[str], names: Mapping[str, tuple[str, ...]], request: TaskRequest, data: str
) -> SplitPlan:
    """How to get the split `wanted` from the raw splits that are `there`; see the rules above.

    Raises `DataError` when it is missing and nothing says what to hold out.
    """
    found = {split: next((name for name in names[split] if name in there), None) for split in names}
    whole = len(there) == 1 and request.test_fraction > 0
    pool = there[0] if whole else found["train"]
    fractions = {"validation": request.validation_fraction, "test": request.test_fraction}
    parts = {name: part if whole or found[name] is None else 0.0 for name, part in fractions.items()}
    own = found[wanted]
    if own is not None and own != pool:
        return SplitPlan(wanted, own)
    if pool is not None and (wanted == "train" or parts[wanted] > 0):
        return SplitPlan(wanted, pool, parts["validation"], parts["test"])
    raise _missing(wanted, there, pool, data)


def apply_plan(rows: list[Row], plan: SplitPlan, data: str) -> list[Row]:
    """The rows that the plan keeps. Raises `DataError` if a held-out part is empty."""
    if plan.validation == plan.test == 0.0:
        return rows
    kept = [row for row in rows if held_out_part(row, plan.validation, plan.test) == plan.wanted]
    if not kept:
        found = f"of {len(rows)} rows none falls into it"
        do = "Give more rows, or a larger validation_fraction or test_fraction"
        raise DataError(explain(f"holding out the {plan.wanted} split of {data}", found, do))
    return kept


def held_out_part(row: Row, validation: float, test: float) -> str:
    """`train`, `validation` or `test`: where the hash of the row's question puts it.

    With u in [0, 1) from the hash: test when u < test, validation when u < test + validation, else train.
    """
    digest = hashlib.sha256(json.dumps(_question(row), sort_keys=True).encode()).digest()
    u = int.from_bytes(digest[:8], "big") / 2.0**64
    if u < test:
        return "test"
    return "validation" if u < test + validation else "train"


def _question(row: Row) -> list[object]:
    """What is asked, without the answer: equal questions are held out together."""
    if "messages" in row:
        return [[turn["role"], turn["content"]] for turn in row["messages"][:-1]]
    return [row.get(name, "") for name in ("context", "question", "sentence", "prompt")]


def _missing(wanted: str, there: Iterable[str], pool: str | None, data: str) -> DataError:
    shown = listed(name or "a file that says no split in its name, taken as train" for name in there)
    fraction = "validation_fraction" if wanted == "validation" and pool is not None else "test_fraction"
    of = "train" if pool is not None else "what there is"
    do = f"Add a file named {wanted}, or set {fraction} (e.g. 0.1) to hold out a part of {of} by row hash"
    return DataError(explain(f"loading the {wanted} split of {data}", f"there is {shown}", do))
