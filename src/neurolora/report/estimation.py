"""The page of `neurolora estimate --html`: the line from measure to accuracy, and the data on it.

Room: report.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from neurolora.estimation import AccuracyEstimator, Estimate
from neurolora.report.drawing import INK, SERIES, Picture, canvas, to_svg
from neurolora.report.page import number, write_page

#: So that perturbations can be told apart without colours.
MARKS = ("o", "s", "^", "v", "P", "X", "D")


def write_estimate_page(
    calibration: Mapping[str, Any], found: Estimate, data: str, rows: int, path: Path | str
) -> Path:
    """One self-contained page. calibration: as `estimate --save` writes it. Raises OutputError."""
    estimator = AccuracyEstimator.from_state(calibration["estimator"])
    percent = [number(100 * value, 1) for value in (found.accuracy, found.low, found.high)]
    facts = [
        ("Estimated accuracy", f"{percent[0]}% (95% interval {percent[1]} to {percent[2]})"),
        (f"{estimator.measure} of {rows} rows", number(found.value)),
        ("Calibrated on", f"{len(calibration['sets'])} versions of {calibration['rows']} rows"),
        ("Task", calibration["request"]["task"]),
        ("Of", calibration["what"]),
    ]
    problems = [] if not found.outside else [
        "No calibration set was like these data: the measure lies outside the calibrated range, by "
        f"{abs(found.beyond):.2f} of its width."
    ]  # fmt: skip
    reading = estimator.reading(rows)
    table = [
        (one["perturbation"], one["strength"], 100 * one["accuracy"], value)
        for one, value in zip(calibration["sets"], reading.values, strict=True)
    ]
    values = {
        "title": "Accuracy without labels",
        "subtitle": data,
        "problems": problems,
        "facts": facts,
        "pictures": [fit_picture(calibration, estimator, found, rows), strength_picture(calibration)],
        "columns": ("version of the labelled rows", "strength", "accuracy, %", estimator.measure),
        "rows": table,
    }
    return write_page("estimate.html.j2", path, values)


def fit_picture(
    calibration: Mapping[str, Any], estimator: AccuracyEstimator, found: Estimate, rows: int
) -> Picture:
    """Calibration sets as points, the line with its 95% band for so many rows, and the estimate on it."""
    reading = estimator.reading(rows)
    line, values = reading.line, reading.values
    low, high = min(values.min(), found.value), max(values.max(), found.value)
    x = np.linspace(low - 0.05 * (high - low), high + 0.05 * (high - low), 100)
    middle, band = (100 * np.array([way(one) for one in x]) for way in (line.at, reading.margin))
    with canvas(3.6) as (figure, axes):
        axes.fill_between(x, middle - band, middle + band, color=SERIES[0], alpha=0.12, lw=0)
        axes.plot(x, middle, color=SERIES[0], lw=1.2)
        for name, style, chosen in _by_perturbation(calibration):
            axes.scatter(values[chosen], 100 * estimator.accuracies_[chosen], s=20, label=name, **style)
        errors = [[100 * (found.accuracy - found.low)], [100 * (found.high - found.accuracy)]]
        style = {"fmt": "*", "markersize": 11, "color": INK, "capsize": 4, "lw": 1.2}
        axes.errorbar([found.value], [100 * found.accuracy], yerr=errors, label="these data", **style)
        axes.set(ylim=(0, 100), xlabel=estimator.measure.replace("_", " "), ylabel="accuracy, %")
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=3, fontsize=8.5)
        told = f"{len(values)} sets; estimate {100 * found.accuracy:.1f}% at {found.value:.4f}"
        return Picture("From the measure to accuracy", to_svg(figure), told)


def strength_picture(calibration: Mapping[str, Any]) -> Picture:
    """What each perturbation does to the accuracy, by its strength."""
    sets = calibration["sets"]
    clean = [(0.0, 100 * one["accuracy"]) for one in sets if one["strength"] == 0]
    with canvas(3.6) as (figure, axes):
        for name, style, chosen in _by_perturbation(calibration):
            own = [(sets[index]["strength"], 100 * sets[index]["accuracy"]) for index in chosen]
            points = sorted({*own, *clean})
            if len(points) > len(clean):
                axes.plot(*zip(*points, strict=True), label=name, markersize=4, **style)
        axes.set(ylim=(0, 100), xlabel="strength", ylabel="accuracy, %")
        axes.grid(axis="y")
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=3, fontsize=8.5)
        worst = min(sets, key=lambda one: one["accuracy"])
        told = f"lowest {100 * worst['accuracy']:.1f}%, by {worst['perturbation']} {worst['strength']:g}"
        return Picture("What the perturbations cost", to_svg(figure), told)


def _by_perturbation(calibration: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any], list[int]]]:
    """Each perturbation with its mark and colour, and the places of its sets."""
    names = [one["perturbation"] for one in calibration["sets"]]
    for place, name in enumerate(dict.fromkeys(names)):
        style = {"marker": MARKS[place % len(MARKS)], "color": SERIES[place % len(SERIES)]}
        chosen = [index for index, one in enumerate(names) if one == name]
        yield name.replace("_", " "), style, chosen
