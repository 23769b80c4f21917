"""The page of `inspect A B ... --html`: what adapters have against each other, counted and drawn.

Room: report. Called by the command `inspect`; the terminal's tables are made here too, so that both agree.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neurolora.merging.interference_report import FORMULA, InterferenceReport, PairNumbers
from neurolora.report.drawing import Picture
from neurolora.report.figures import bars, short_names
from neurolora.report.heatmaps import Cell, module_heatmap, square_heatmap, stacked_shares
from neurolora.report.page import number, write_page

MOST_STACKED = 8
ADAPTERS = ("adapter", "method", "energy share", "score", "kept", "foreign", "others / own")
PAIRS = ("pair", "cosine", "sign conflicts", "by mass", "overlap of S", "by chance", "cos² of B", "by chance",
         "least angle")  # fmt: skip


@dataclass(frozen=True)
class Measure:
    """One number of a pair: how it is called, what its values mean, and where it is."""

    title: str
    meaning: str
    value: Callable[[PairNumbers], Cell]


MEASURES = (
    Measure("Cosine of the deltas", "-1 = opposed, 0 = unrelated, 1 = parallel", lambda pair: pair.cosine),
    Measure("Sign conflicts, by mass", "0 = none, 0.5 = as by chance", lambda pair: pair.signs.weighted),
    Measure("Overlap of the routing sets", "Jaccard, 1 = the same ranks", lambda pair: pair.routing_overlap),
    Measure(
        "Shared column space of B", "mean cos² of the principal angles", lambda pair: pair.subspace_overlap
    ),
)


def write_interference_report(report: InterferenceReport, path: Path | str) -> Path:
    """Write one self-contained page. Raises OutputError."""
    names = [adapter.label for adapter in report.adapters]
    values = {
        "title": f"Interference of {len(names)} adapters",
        "subtitle": ", ".join(names),
        "problems": report.notes,
        "facts": fact_rows(report),
        "formula": FORMULA,
        "prediction": prediction_pictures(report),
        "adapters": {"columns": ADAPTERS, "rows": adapter_rows(report)},
        "pair_pictures": pair_pictures(report),
        "pairs": {"columns": PAIRS, "rows": [pair_row(pair) for pair in report.pairs]},
        "module_pictures": module_pictures(report),
        "energy": energy_picture(report),
        "modules": {"columns": ("module", *PAIRS), "rows": module_rows(report)},
        "left_out": [(label, ", ".join(modules)) for label, modules in report.left_out.items()],
    }
    return write_page("interference.html.j2", path, values)


def fact_rows(report: InterferenceReport) -> list[tuple[str, str]]:
    """What was compared, in a few lines."""
    return [
        ("Modules in common", number(len(report.modules))),
        ("Compared deltas", report.basis),
        ("Routed", report.inputs or "nothing: no adapter has routing sets"),
    ]


def adapter_rows(report: InterferenceReport) -> list[list[Any]]:
    """One line an adapter in the order of `ADAPTERS`, the one that will lose most first."""
    return [
        [one.label, one.method, one.energy_share, one.score, one.kept, one.foreign, one.others_over_own]
        for one in report.by_score
    ]


def pair_name(pair: PairNumbers) -> str:
    """Both adapters of a pair in one name."""
    return f"{pair.first} × {pair.second}"


def pair_row(pair: PairNumbers) -> list[Any]:
    """One line of the table of pairs, in the order of `PAIRS`."""
    angle = None if pair.smallest_angle is None else f"{pair.smallest_angle:.1f}°"
    return [
        pair_name(pair),
        rounded(pair.cosine),
        rounded(pair.signs.share),
        rounded(pair.signs.weighted),
        rounded(pair.routing_overlap),
        rounded(pair.routing_chance),
        rounded(pair.subspace_overlap),
        rounded(pair.subspace_chance),
        angle,
    ]


def rounded(value: float | None) -> str | None:
    """Three decimals: these numbers lie in [-1, 1], and rounding noise is no information."""
    return None if value is None else f"{value + 0.0:.3f}".replace("-0.000", "0.000")


def module_rows(report: InterferenceReport) -> list[list[Any]]:
    """One line for each module and pair."""
    return [[module.name, *pair_row(pair)] for module in report.modules for pair in module.pairs]


def prediction_pictures(report: InterferenceReport) -> list[Picture]:
    """The scores as bars, the greatest on top, and beside them the energy, which moves them most."""
    scored = [one for one in report.by_score if one.score is not None]
    names = [one.label for one in scored]
    drawn = [
        bars("Predicted loss when merged", "score", names, [one.score or 0.0 for one in scored], "adapters"),
        bars("Share of all energy", "share of the squared norms", names,
             [one.energy_share for one in scored], "adapters"),
    ]  # fmt: skip
    return [picture for picture in drawn if picture is not None]


def pair_pictures(report: InterferenceReport) -> list[Picture]:
    """For each measure all pairs at once; a measure that nobody has is left out."""
    names = [adapter.label for adapter in report.adapters]
    place = {name: index for index, name in enumerate(names)}
    drawn = []
    for measure in _measured(report):
        table: list[list[Cell]] = [[None] * len(names) for _ in names]
        for pair in report.pairs:
            i, j = place[pair.first], place[pair.second]
            table[i][j] = table[j][i] = measure.value(pair)
        drawn.append(square_heatmap(measure.title, measure.meaning, names, table))
    return drawn


def module_pictures(report: InterferenceReport) -> list[Picture]:
    """For each measure every module and pair."""
    modules = short_names([module.name for module in report.modules])
    columns = [pair_name(pair) for pair in report.pairs]
    return [
        module_heatmap(measure.title, measure.meaning, modules, columns,
                       [[measure.value(pair) for pair in module.pairs] for module in report.modules])
        for measure in _measured(report)
    ]  # fmt: skip


def energy_picture(report: InterferenceReport) -> list[Picture]:
    """Each adapter's share of the energy, module by module: stacked bars, or a heatmap for many adapters."""
    modules = short_names([module.name for module in report.modules])
    names = [adapter.label for adapter in report.adapters]
    table = [module.energy_share for module in report.modules]
    title, label = "Share of the energy", "share of the squared norms"
    if len(names) <= MOST_STACKED:
        return [stacked_shares(title, label, modules, names, table)]
    return [module_heatmap(title, label, modules, names, table)]


def _measured(report: InterferenceReport) -> list[Measure]:
    return [one for one in MEASURES if any(one.value(pair) is not None for pair in report.pairs)]
