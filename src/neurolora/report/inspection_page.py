"""The page of `inspect --html`: one adapter folder, counted and drawn.

Room: report. Called by the command `inspect`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from neurolora.report.drawing import Picture
from neurolora.report.figures import bars, short_names
from neurolora.report.inspection import AdapterFacts
from neurolora.report.page import flatten, number, spell, write_page
from neurolora.report.training import (
    describe_adapter,
    fingerprint_rows,
    layer_table,
    parameter_rows,
    routing_pictures,
)

COLUMNS = ("module", "in", "out", "r", "trainable", "norm of B", "mean squared cosine of B", "norm of W2",
           "gamma", "beta", "least column of B", "greatest column of B")  # fmt: skip


def write_inspection_report(
    facts: AdapterFacts, path: Path | str, routing: Mapping[str, Any] | None = None
) -> Path:
    """Write one self-contained page about an adapter.

    routing: the contents of a `routing.json`, if the model was run. Raises OutputError.
    """
    values = {
        "title": f"{facts.method} adapter: {Path(facts.path).resolve().name}",
        "subtitle": f"For the base model {spell(facts.base_model)}",
        "problems": facts.notes,
        "facts": [("Adapter", describe_adapter(facts.config)), *parameter_rows(facts)],
        "pictures": module_pictures(facts),
        "modules": {
            "columns": COLUMNS,
            "rows": [module_row(facts, index) for index in range(len(facts.modules))],
        },
        "routing": routing_pictures(routing),
        "layers": layer_table(routing),
        "fingerprints": fingerprint_rows(facts),
        "config": flatten({key: value for key, value in facts.config.items() if key != "base_fingerprint"}),
    }
    return write_page("inspection.html.j2", path, values)


def module_pictures(facts: AdapterFacts) -> list[Picture]:
    """The size of B and how orthogonal its columns are, module by module."""
    names = short_names([module.name for module in facts.modules])
    drawn = [
        bars("Norm of B", "Frobenius norm", names, [module.up_norm for module in facts.modules]),
        bars("Columns of B: mean squared cosine", "0 = all orthogonal, 1 = all parallel", names,
             [module.orthogonality for module in facts.modules]),
    ]  # fmt: skip
    return [picture for picture in drawn if picture is not None]


def module_row(facts: AdapterFacts, index: int) -> list[Any]:
    """One line of the table of modules, in the order of `COLUMNS`."""
    module = facts.modules[index]
    return [
        module.name,
        module.in_features,
        module.out_features,
        module.r,
        module.trainable,
        module.up_norm,
        module.orthogonality,
        module.gate.get("norm_W2"),
        spell_range(module.gate, "gamma"),
        spell_range(module.gate, "beta"),
        min(module.rank_norms),
        max(module.rank_norms),
    ]


def spell_range(gate: Mapping[str, float], part: str) -> str | None:
    """`1.9 to 2.1`; None where the module holds no such part."""
    if f"{part}_min" not in gate:
        return None
    return f"{number(gate[f'{part}_min'])} to {number(gate[f'{part}_max'])}"
