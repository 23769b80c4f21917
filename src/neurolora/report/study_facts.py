"""A study's result as tables of text: what the Markdown and the HTML page both show.

Room: report. Reads the plain JSON that `studies` writes; pure functions.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from neurolora.evaluation.task_scores import METRICS
from neurolora.intervals import paired, verdict, with_half
from neurolora.report.page import ABSENT, number

Result = Mapping[str, Any]
VERDICTS = {
    "held": "held",
    "opposite": "did not hold: the opposite did",
    "open": "not decided",
    "not measured": "not measured",
}


@dataclass(frozen=True)
class TextTable:
    """Columns and rows of text."""

    columns: list[str]
    rows: list[list[str]]


def spread(interval: Mapping[str, Any] | None) -> str:
    """`64.2 ± 1.1`, or a sign that there is none."""
    return ABSENT if interval is None else with_half(interval)


def scores(result: Result) -> TextTable:
    """Each row's means over seeds with intervals; before them what the model scores untrained."""
    columns = [column["id"] for column in result["columns"]]
    base = result.get("base", {})
    rows = [["before training", *(_one(base.get(column)) for column in columns)]] if base else []
    rows += [
        [row["name"], *(spread(row["intervals"].get(column)) for column in columns)] for row in result["rows"]
    ]
    return TextTable(["", *(column["name"] for column in result["columns"])], rows)


def printed(result: Result) -> TextTable:
    """The paper's figures, under the paper's names."""
    columns = [
        column for column in result["columns"] if any(column["id"] in row["paper"] for row in result["rows"])
    ]
    rows = [
        [row["name"], *(_one(row["paper"].get(column["id"])) for column in columns)]
        for row in result["rows"]
        if columns and row["paper"]
    ]
    return TextTable(["", *(column["printed"] for column in columns)], rows)


def _one(value: float | None) -> str:
    return ABSENT if value is None else f"{value:.1f}"


def task_parts(result: Result) -> TextTable:
    """What an average over tasks is made of: the mean over seeds of each task."""
    names = {column["id"]: column["name"] for column in result["columns"]}
    tasks = result["tasks"]
    rows = [
        [row["name"], names[column], *(_one(found[task]) for task in tasks)]
        for row in result["rows"]
        for column, found in row.get("parts", {}).items()
    ]
    return TextTable(["", "", *(task["name"] for task in tasks.values())], rows)


def differences(result: Result) -> TextTable:
    """Each row less those it is tested against: difference, interval and p, paired by seed."""
    names = {row["id"]: row["name"] for row in result["rows"]}
    columns = ["", "less", *(column["name"] for column in result["columns"])]
    rows = [
        [row["name"], names[other], *(difference(found.get(column["id"])) for column in result["columns"])]
        for row in result["rows"]
        for other, found in row["against"].items()
    ]
    return TextTable(columns, rows)


def difference(found: Mapping[str, Any] | None) -> str:
    """`+2.3 ± 0.7, p 0.0051`: of `paired`, half of the 95% interval behind the sign."""
    if found is None:
        return ABSENT
    centre = f"{found['mean']:+z.1f}"
    if found["low"] is None:
        return centre
    p = "" if found["p"] is None else f", p {found['p']:.2g}"
    return f"{centre} ± {found['mean'] - found['low']:.1f}{p}"


def costs(result: Result) -> TextTable:
    """What each row trains, stores and takes."""
    kinds = {
        "trainable": "trainable",
        "percent": "% of the base",
        "active": "of the trained, active for a token",
        "stored": "stored",
        "seconds": "seconds a run",
        "peak_bytes": "peak memory, MB",
        "merge_seconds": "seconds a merge",
        "adapter_bytes": "adapter at the end, MB",
        "kept_bytes": "kept beside it, MB",
    }
    have = [kind for kind in kinds if any(kind in row["costs"] for row in result["rows"])]
    printed = any("percent" in row["paper"] for row in result["rows"])
    rows = []
    for row in result["rows"]:
        cells = [_cost(kind, row["costs"].get(kind)) for kind in have]
        paper = row["paper"].get("percent")
        rows.append([row["name"], *cells, *([number(paper)] if printed else [])])
    return TextTable(["", *(kinds[kind] for kind in have), *(["paper: %"] if printed else [])], rows)


def _cost(kind: str, value: float | None) -> str:
    if value is None:
        return ABSENT
    if kind == "peak_bytes":
        return f"{value / 1e6:,.0f}"
    if kind.endswith("_bytes"):
        return f"{value / 1e6:,.2f}"
    return f"{value:.2f}" if kind in ("percent", "merge_seconds") else f"{value:,.0f}"


def searches(result: Result) -> TextTable:
    """What was tried on validation rows, by the mean over the search's seeds, and what was taken."""
    rows = [
        [
            found["name"],
            ", ".join(f"{one['value']:g}: {one['score']:.1f}" for one in found["tried"]) or ABSENT,
            f"{found['chosen']:g}",
            "yes" if found["at_an_end"] else "",
        ]
        for found in result["searches"]
    ]
    return TextTable(["", "tried: mean score on validation", "taken", "at an end"], rows)


def claims(result: Result) -> TextTable:
    """The paper's sentences with what these results say of them."""
    return _judged(result["claims"], "the paper says")


@dataclass(frozen=True)
class Order:
    """Two rows that the paper's figures of a column put in an order, and what the results say of it.

    compares: task, the paper's two figures, our values by seed; equal where two tables share both rows.
    """

    say: str
    verdict: str
    compares: tuple[str, str, tuple[float, ...], tuple[float, ...]]


def orders(result: Result) -> list[Order]:
    """Every pair of rows in every column of which the paper prints two figures that differ."""
    found = []
    for column in result["columns"]:
        name = column["id"]
        if (result["kind"], name) == ("merging", "alone"):  # Table 1's average once more
            continue
        rows = [row for row in result["rows"] if name in row["paper"] and name in row["values"]]
        for one, other in itertools.combinations(rows, 2):
            if one["paper"][name] == other["paper"][name]:
                continue
            above, below = sorted((one, other), key=lambda row: row["paper"][name], reverse=True)
            ours = paired(above["values"][name], below["values"][name])
            figures = f"{above['paper'][name]:.1f} and {below['paper'][name]:.1f}"
            say = f"{column['name']}: {above['name']} above {below['name']} ({figures})"
            compares = (column["printed"], figures, *(tuple(row["values"][name]) for row in (above, below)))
            found.append(Order(f"{say}, here {difference(ours)}", verdict(ours), compares))
    return found


def all_orders(results: Sequence[Result]) -> list[Order]:
    """The orders of all studies, each comparison once: tables share rows, as an ablation has Table 1's."""
    found = [order for result in results for order in orders(result)]
    return list({order.compares: order for order in reversed(found)}.values())[::-1]


def hypotheses(result: Result) -> TextTable:
    """Our own sentences with what these results say of them."""
    return _judged(result["hypotheses"], "we asked whether")


def _judged(sentences: Sequence[Mapping[str, Any]], who: str) -> TextTable:
    rows = [[one["say"], VERDICTS[one["verdict"]], difference(one["difference"])] for one in sentences]
    return TextTable([who, "here", "difference"], rows)


def count_verdicts(results: Sequence[Result]) -> dict[str, int]:
    """How many claims of all studies ended in each verdict."""
    counted = dict.fromkeys(VERDICTS, 0)
    for result in results:
        for claim in result["claims"]:
            counted[claim["verdict"]] += 1
    return counted


def in_words(results: Sequence[Result]) -> str:
    """One sentence on all claims."""
    counted = count_verdicts(results)
    of = sum(counted.values())
    parts = [f"{counted['held']} held", f"{counted['opposite']} turned out the other way round"]
    parts.append(f"{counted['open']} these seeds do not decide")
    if counted["not measured"]:
        parts.append(f"{counted['not measured']} could not be measured")
    statements = "statement" if of == 1 else "statements"
    told = f"Of {of} {statements} of the paper that the studies name, {'; '.join(parts)}."
    each = [order.verdict for order in all_orders(results)]
    if not each:
        return told
    pairs = "order of two rows" if len(each) == 1 else "orders of two rows"
    return (
        f"{told} Of {len(each)} {pairs} that the figures of its tables give, {each.count('held')} are the "
        f"same here, {each.count('opposite')} the other way round; {each.count('open')} are not decided."
    )


def by_verdict(results: Sequence[Result]) -> list[tuple[str, list[str]]]:
    """Which statements held, which did not, and which are open; a verdict of none is left out."""
    titles = {
        "held": "Held here",
        "opposite": "Did not hold: the opposite did",
        "open": "Not decided by these seeds",
        "not measured": "Not measured",
    }
    found: dict[str, list[str]] = {verdict: [] for verdict in VERDICTS}
    for result in results:
        for claim in result["claims"]:
            told = "" if claim["difference"] is None else f" ({difference(claim['difference'])})"
            found[claim["verdict"]].append(f"{claim['say']}{told}")
    titled = {titles[kind]: sayings for kind, sayings in found.items()}
    titled["Orders of the paper's figures that are the other way round"] = [
        order.say for order in all_orders(results) if order.verdict == "opposite"
    ]
    return [(title, sayings) for title, sayings in titled.items() if sayings]


def _task(task: Mapping[str, Any]) -> str:
    """`sums in the place of GSM8K: accuracy or exact match, in percent of 500 test rows`."""
    printed = task["printed"]
    place = task["name"] if task["name"] == printed else f"{task['name']} in the place of {printed}"
    left = f", {task['left_out']} left out" if task.get("left_out") else ""
    return f"{place}: {METRICS[task['metric']]}, in percent, of {task.get('n', '?')} test rows{left}"


def _training(sizes: Mapping[str, Any]) -> str:
    """`at most 1600 rows of a task, 3 epochs, 32 rows a step`."""
    train, rows = sizes["train"], sizes["data"].get("max_train_samples")
    told = [f"at most {rows} rows of a task" if rows else "all rows of a task"]
    told += [f"{train['num_train_epochs']:g} epochs"] if "num_train_epochs" in train else []
    told += [f"{train['max_steps']} steps"] if train.get("max_steps", -1) > 0 else []
    size = train.get("per_device_train_batch_size", 1) * train.get("gradient_accumulation_steps", 1)
    return ", ".join([*told, f"{size} rows a step and process"])


def provenance(result: Result) -> list[tuple[str, str]]:
    """Where the numbers come from."""
    made, versions = result["environment"], result["environment"]["versions"]
    commits = ", ".join(commit[:12] for commit in made["commits"]) or ABSENT
    changed = " (with changes that are in no commit)" if made["dirty"] else ""
    quick = ", a quick look" if result["scale"]["quick"] else ""
    rows = [
        ("Scale", f"{result['scale']['label']}{quick}: {result['scale']['about']}"),
        ("Model", str(result["model"]["model_name_or_path"])),
        ("Seeds", ", ".join(map(str, result["seeds"]))),
        ("Tasks", "; ".join(map(_task, result["tasks"].values()))),
        ("Trained on", _training(result["sizes"])),
        ("Cells", f"{len(result['cells'])}, searches included, from {made['first']} to {made['last']}"),
        ("Code", f"{commits}{changed}"),
        ("Device", "; ".join(made["devices"])),
        ("Versions", ", ".join(f"{name} {' and '.join(found)}" for name, found in versions.items())),
    ]
    if result.get("diverged"):
        how = "left out with its row" if result["kind"] == "streams" else "counted as 0"
        rows.append((f"Training became NaN, {how}", "; ".join(result["diverged"])))
    if result["older_code"]:
        told = f"{result['older_code']} of {len(result['cells'])} cells, taken as they were"
        rows.append(("Made by other code", told))
    if result.get("notes"):
        rows.append(("Merging", "; ".join(result["notes"])))
    if result["scale"].get("note"):
        rows.append(("To know", result["scale"]["note"]))
    return rows
