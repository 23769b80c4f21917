"""From a table of numbers to a result: intervals, paired tests, verdicts on the paper's claims, provenance.

Room: studies. Pure; what it makes is plain JSON, which `report` shows.
"""

from __future__ import annotations

from typing import Any

from neurolora.errors import ConfigError, explain
from neurolora.intervals import interval, paired, verdict
from neurolora.provenance import fingerprint_json, made_by
from neurolora.studies.book import Book
from neurolora.studies.cells import placeless
from neurolora.studies.spec import Claim, Label, Scale, ScaleTask, Study
from neurolora.studies.table import PAPER_TASKS, Table
from neurolora.training.identity import model_fingerprint


def make_result(study: Study, scale: Scale, table: Table, book: Book) -> dict[str, Any]:
    """The result of a study as plain JSON values; `book` knows every cell that it used, searches included."""
    built_on = {told["key"]: told for record in book.used.values() for told in record.get("built_on", [])}
    made = [*book.used.values(), *built_on.values()]
    return {
        "study": study.id,
        "title": study.title,
        "about": study.about,
        "kind": study.kind,
        "scale": {name: getattr(scale, name) for name in ("id", "label", "about", "note", "quick")},
        "model": scale.model,
        "seeds": scale.seeds,
        "columns": [
            {"id": column, "name": name, "printed": PAPER_TASKS.get(column, name)}
            for column, name in table.columns.items()
        ],
        "tasks": {task: _task(scale.tasks[task], task, table) for task in study.tasks},
        "rows": [_row(study, table, label) for label in table.values],
        "base": {column: round(value, 4) for column, value in table.base.items() if column in table.columns},
        "notes": table.notes,
        "against": study.against,
        "curve": None if study.curve is None else _curve(study),
        "claims": [check_claim(claim, table) for claim in study.claims],
        "hypotheses": [check_claim(claim, table) for claim in study.hypotheses],
        "searches": table.searches,
        "search": scale.search.model_dump(),
        "sizes": {"data": scale.data, "train": scale.train, "eval": scale.eval.model_dump()},
        "cells": sorted({*book.used, *built_on}),
        "older_code": len(book.older),
        "diverged": sorted(record["name"] for record in table.records if "diverged" in record),
        "spec": fingerprint_json(study.model_dump())[:16],
        "sizes_fingerprint": settings_fingerprint(scale),
        "model_fingerprint": model_fingerprint(scale.model)[:16],
        "environment": made_by([told["environment"] for told in made if told.get("environment")]),
    }


def settings_fingerprint(scale: Scale) -> str:
    """Of what results of one page must have in common beside the model: data, sizes, first rates, seeds.

    Data go by the names that the scale gives them: whether a folder lies there now must change nothing.
    """
    values = scale.model_dump(exclude={"about", "note", "label", "dimensions", "output"})
    values |= placeless({"model": scale.model, "train": scale.train})
    values["tasks"] = {name: task.data for name, task in scale.tasks.items()}
    values["metrics"] = {name: task.metric for name, task in scale.tasks.items()}
    del values["eval"]["batch_size"]
    return fingerprint_json(values)[:16]


def _task(task: ScaleTask, role: str, table: Table) -> dict[str, Any]:
    """What was measured of a task, and on how many rows."""
    scored = [record["scores"][role] for record in table.records if role in record["scores"]]
    most: dict[str, Any] = max(scored, key=lambda score: score["n"], default={})  # a lost run's has none
    rows: dict[str, Any] = {name: most[name] for name in ("n", "left_out") if name in most}
    printed = PAPER_TASKS.get(role, role)
    return {"name": task.name, "printed": printed, "metric": task.metric, "data": task.data, **rows}


def _row(study: Study, table: Table, label: str) -> dict[str, Any]:
    values = table.values[label]
    against = [other for other in study.against if other != label and other in table.values]
    return {
        "id": label,
        "name": study.names[label],
        "values": {column: [round(value, 4) for value in each] for column, each in values.items()},
        "intervals": {column: interval(each) for column, each in values.items()},
        "paper": study.paper.get(label, {}),
        "against": {
            other: {column: paired(each, table.values[other][column]) for column, each in values.items()}
            for other in against
        },
        "costs": table.costs.get(label, {}),
        "parts": table.parts.get(label, {}),
    }


def _curve(study: Study) -> dict[str, Any]:
    """Where each row lies on the axis."""
    assert study.curve is not None
    places = {label: setting_of(row.adapter, study.curve.setting) for label, row in study.rows.items()}
    return {"label": study.curve.label, "places": places}


def setting_of(adapter: dict[str, Any], name: str) -> float:
    """An adapter's value of a setting, its own or the method's. Raises ConfigError where it has none."""
    from neurolora.training.adapter_section import AdapterSection

    resolved = AdapterSection.model_validate(adapter).resolved(seed=0)
    if not isinstance(resolved.get(name), int | float):
        found = f"the method {adapter['method']} has no number called {name}"
        raise ConfigError(explain("the curve of a study", found, "Choose a setting that all rows have"))
    return float(resolved[name])


def check_claim(claim: Claim, table: Table) -> dict[str, Any]:
    """A sentence with the difference that decides on it; a place that is not in the table leaves it open."""
    try:
        found = paired(*(_counted(place, claim.gains_over, table) for place in (claim.better, claim.than)))
    except KeyError:
        return {"say": claim.say, "verdict": "not measured", "difference": None}
    return {"say": claim.say, "verdict": verdict(found), "difference": found}


def _counted(place: Label, gains_over: str | None, table: Table) -> list[float]:
    """What a claim compares, seed by seed. Raises KeyError for a place that is not in the table."""
    row, column = place
    values = table.values[row][column]
    if gains_over is None:
        return values
    return [value - other for value, other in zip(values, table.values[gains_over][column], strict=True)]
