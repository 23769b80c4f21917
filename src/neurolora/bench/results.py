"""A benchmark from request to result: plain values with provenance, ready for JSON, tables and pictures.

Room: bench. Called by `neurolora bench`.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from neurolora.bench.decode import TOKENS, measure_decode
from neurolora.bench.memory import file_bytes, measure_memory
from neurolora.bench.methods import BASE, LORA, METHODS, Method
from neurolora.bench.scaling import AXES, exponent, measure_scaling
from neurolora.bench.shapes import SHAPES, Shape
from neurolora.bench.timing import ratio
from neurolora.bench.train_step import measure_steps
from neurolora.errors import ConfigError, explain
from neurolora.provenance import environment

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
BATCHES = (1, 8, 32)
FILE_SHAPE = "llama-3-8b"
FILES = (LORA, "neurolora", "neurolora-input", "neurolora-kind", "flylora")


@dataclass(frozen=True)
class Request:
    """What to measure. Raises ConfigError for a shape, dtype or device that there is not."""

    benchmark: str
    shape: str = "small"
    dtype: str = "float32"
    device: str = "cpu"
    rounds: int = 20
    layers: int | None = None
    methods: tuple[str, ...] = tuple(METHODS)

    def __post_init__(self) -> None:
        asked = f"benchmark {self.benchmark}"
        for value, known in (
            (self.benchmark, tuple(BENCHMARKS)),
            (self.shape, tuple(SHAPES)),
            (self.dtype, tuple(DTYPES)),
        ):
            if value not in known:
                raise ConfigError(
                    explain(asked, f"there is no {value!r}", f"Choose among {', '.join(known)}")
                )
        if self.rounds < 1:
            raise ConfigError(
                explain(asked, f"rounds is {self.rounds}", "Use at least 1; 20 or more to compare")
            )
        if self.device.startswith("cuda") and not torch.cuda.is_available():
            raise ConfigError(explain(asked, "this machine has no usable CUDA device", "Use --device cpu"))

    @property
    def settings(self) -> dict[str, Any]:
        """What the measuring functions take."""
        return {"dtype": DTYPES[self.dtype], "device": torch.device(self.device)}

    @property
    def rows(self) -> list[Method]:
        """The methods, in the table's order."""
        return [METHODS[name] for name in METHODS if name in self.methods]


Progress = Callable[[], None]


def run_benchmark(request: Request, progress: Progress = lambda: None) -> dict[str, Any]:
    """Measure, and give `request`, `result` (see the function of each benchmark) and `environment`."""
    shape = SHAPES[request.shape]
    shape = shape if request.layers is None else replace(shape, layers=request.layers)
    result = BENCHMARKS[request.benchmark](request, shape, progress)
    return {"request": asdict(request), "result": result, "environment": environment()}


def _train_step(request: Request, shape: Shape, progress: Progress) -> dict[str, Any]:
    times = measure_steps(shape, request.rows, rounds=request.rounds, progress=progress, **request.settings)
    return {"methods": compare(times)}


def _decode(request: Request, shape: Shape, progress: Progress) -> dict[str, Any]:
    found = {}
    for batch in BATCHES:
        times = measure_decode(
            shape, request.rows, batch, rounds=request.rounds, progress=progress, **request.settings
        )
        rows = compare(times)
        for row in rows:
            row["tokens_per_second"] = batch * TOKENS / row["seconds"]
        found[str(batch)] = rows
    return {"batches": found}


def _memory(request: Request, shape: Shape, progress: Progress) -> dict[str, Any]:
    rows = measure_memory(shape, request.rows, **request.settings)
    lora = next(row["adapter_saved_bytes"] for row in rows if row["method"] == LORA)
    for row, method in zip(rows, request.rows, strict=True):
        row["over_lora"] = row["adapter_saved_bytes"] / lora
        row["file_bytes"] = file_bytes(SHAPES[FILE_SHAPE], method) if method.name in FILES else None
        progress()
    lora_file = next(row["file_bytes"] for row in rows if row["method"] == LORA)
    for row in rows:
        row["file_over_lora"] = row["file_bytes"] / lora_file if row["file_bytes"] else None
    return {"methods": rows, "file_shape": FILE_SHAPE}


def _scaling(request: Request, shape: Shape, progress: Progress) -> dict[str, Any]:
    found = {}
    for method in request.rows:
        if method.name in (LORA, "neurolora", "flylora"):
            found[method.name] = {axis.name: _axis(axis, method, request, shape, progress) for axis in AXES}
    return {"methods": found}


def _axis(axis: Any, method: Method, request: Request, shape: Shape, progress: Progress) -> dict[str, Any]:
    rows = measure_scaling(axis, method, shape, rounds=request.rounds, progress=progress, **request.settings)
    keys = ("seconds", "adapter_seconds", "adapter_saved_bytes")
    return {"rows": rows, "exponents": {key: exponent(rows, key) for key in keys}}


BENCHMARKS: dict[str, Callable[[Request, Shape, Progress], dict[str, Any]]] = {
    "train-step": _train_step,
    "memory": _memory,
    "decode": _decode,
    "scaling": _scaling,
}


def compare(times: dict[str, list[float]]) -> list[dict[str, Any]]:
    """For each method: median seconds, all rounds, and its ratio to the frozen base and to LoRA."""
    return [
        {
            "method": name,
            "seconds": statistics.median(values),
            "rounds": values,
            **{
                f"over_{other}": ratio(values, times[other]).to_dict()
                for other in (BASE, LORA)
                if other in times
            },
        }
        for name, values in times.items()
    ]
