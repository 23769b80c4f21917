"""Tables, pictures and the page of a benchmark's result.

Room: report. Called by the command `bench`; takes the plain values that `neurolora.bench` gives.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neurolora.report.drawing import Picture
from neurolora.report.figures import bars, growth, intervals
from neurolora.report.page import flatten, write_page

ABOUT = {
    "train-step": "Seconds of one forward and backward, every method once in each round, in turn. A ratio "
    "is taken within a round; shown are the median over rounds and the quartiles. "
    "No optimizer step. The frozen base computes the gradient of its input, as all others do.",
    "memory": "Bytes saved for the backward, a storage that several share counted once, weights left out, "
    "beyond those of the frozen base; and the size of the adapter's file for the shape of Llama-3-8B.",
    "decode": "Seconds a token with a key-value cache, every method once in each round, in turn; ratios as "
    "for a training step.",
    "scaling": "Median seconds of a step and bytes saved, as one thing grows: fitted exponents of a power "
    "law, 1 for linear growth. What the adapter adds is the paired difference to the frozen base.",
}


@dataclass(frozen=True)
class Table:
    """A title, the columns' names, and rows of plain values."""

    title: str
    columns: tuple[str, ...]
    rows: list[list[Any]]


def benchmark_tables(document: Mapping[str, Any]) -> list[Table]:
    """What `neurolora bench` prints and its page shows."""
    result, kind = document["result"], document["request"]["benchmark"]
    if kind == "train-step":
        return [_timing_table("A training step", result["methods"], "ms", 1e3)]
    if kind == "decode":
        return [
            _timing_table(f"Decoding, batch {batch}", rows, "tokens/s", None)
            for batch, rows in result["batches"].items()
        ]
    if kind == "memory":
        return [_memory_table(result["methods"])]
    return [_scaling_table(name, axes) for name, axes in result["methods"].items()]


def _timing_table(title: str, rows: list[dict[str, Any]], unit: str, factor: float | None) -> Table:
    made = []
    for row in rows:
        figure = row["tokens_per_second"] if factor is None else row["seconds"] * factor
        ratios = [_spell_ratio(row.get(f"over_{other}")) for other in ("lora", "frozen")]
        made.append([row["method"], round(figure, 1), *ratios])
    return Table(title, ("method", unit, "/ LoRA (quartiles)", "/ frozen base (quartiles)"), made)


def _spell_ratio(ratio: Mapping[str, Any] | None) -> str | None:
    if ratio is None:
        return None
    low, high = ratio["quartiles"]
    return f"{ratio['median']:.3f} ({low:.3f} to {high:.3f})"


def _memory_table(rows: list[dict[str, Any]]) -> Table:
    columns = ("method", "saved for backward, MB", "/ LoRA", "file, MB", "file / LoRA", "peak, MB")
    made = [
        [
            row["method"],
            _mega(row["adapter_saved_bytes"]),
            round(row["over_lora"], 3),
            _mega(row["file_bytes"]),
            None if row["file_over_lora"] is None else round(row["file_over_lora"], 3),
            _mega(row.get("peak_bytes")),
        ]
        for row in rows
    ]
    return Table("What each method keeps", columns, made)


def _mega(size: int | None) -> float | None:
    return None if size is None else round(size / 1e6, 2)


def _scaling_table(method: str, axes: Mapping[str, Any]) -> Table:
    columns = ("as this grows", "sizes", "step", "what the adapter adds", "its saved bytes")
    made = []
    for name, axis in axes.items():
        sizes = ", ".join(str(row["size"]) for row in axis["rows"])
        found = axis["exponents"]
        exponents = [found[key] for key in ("seconds", "adapter_seconds", "adapter_saved_bytes")]
        made.append([name, sizes, *(None if value is None else round(value, 2) + 0.0 for value in exponents)])
    return Table(f"{method}: exponents", columns, made)


def benchmark_pictures(document: Mapping[str, Any]) -> list[Picture]:
    """The ratios with their spread, the bytes as bars, the growth on logarithmic axes."""
    result, kind = document["result"], document["request"]["benchmark"]
    if kind == "memory":
        rows = [row for row in result["methods"] if row["adapter_saved_bytes"] > 0]
        sizes = [row["adapter_saved_bytes"] / 1e6 for row in rows]
        drawn = [bars("Saved for the backward", "MB", [row["method"] for row in rows], sizes)]
    elif kind == "scaling":
        drawn = [_growth(name, result["methods"]) for name in next(iter(result["methods"].values()))]
    else:
        groups = result["batches"] if kind == "decode" else {"": result["methods"]}
        drawn = [_ratios(f"batch {batch}" if batch else "", rows) for batch, rows in groups.items()]
    return [picture for picture in drawn if picture is not None]


def _ratios(which: str, rows: list[dict[str, Any]]) -> Picture:
    shown = [row for row in rows if row["method"] != "lora"]
    ratios = [row["over_lora"] for row in shown]
    return intervals(
        f"Time over LoRA's{', ' + which if which else ''}",
        "paired ratio (dot: median; line: quartiles)",
        [row["method"] for row in shown],
        [(ratio["median"], *ratio["quartiles"]) for ratio in ratios],
        reference=1.0,
    )


def _growth(axis: str, methods: Mapping[str, Any]) -> Picture:
    lines = {
        name: [(row["size"], 1e3 * row["seconds"]) for row in axes[axis]["rows"]]
        for name, axes in methods.items()
    }
    return growth(f"Time of a step by {axis}", axis, "ms", lines)


def write_benchmark_page(document: Mapping[str, Any], path: Path | str) -> Path:
    """Write one self-contained page. Raises OutputError."""
    request = document["request"]
    values = {
        "title": f"Benchmark: {request['benchmark']}",
        "subtitle": f"{request['shape']}, {request['dtype']}, {request['device']}",
        "problems": [],
        "about": ABOUT[request["benchmark"]],
        "pictures": benchmark_pictures(document),
        "tables": benchmark_tables(document),
        "request": flatten(request),
        "environment": flatten(document["environment"]),
    }
    return write_page("benchmark.html.j2", path, values)
