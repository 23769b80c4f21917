"""Benchmark `scaling`: how a method's cost grows with tokens, rank, width and the number of loaded adapters.

Room: bench. Each point times the adapted step and the frozen one in turn. What is fitted is the growth of the
step itself and of what the adapter adds: time ~ size ** exponent, by least squares on logarithms.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from neurolora.bench.memory import saved_bytes
from neurolora.bench.methods import BASE, METHODS, Method, adapted
from neurolora.bench.shapes import Shape, embeddings, make_base, twin
from neurolora.bench.timing import in_turn
from neurolora.bench.train_step import training_step


@dataclass(frozen=True)
class Axis:
    """One thing that grows, and the sizes it takes, relative to the shape or absolute for `rank`."""

    name: str
    sizes: tuple[int, ...]


AXES = (
    Axis("tokens", (256, 512, 1024, 2048)),
    Axis("rank", (8, 16, 32, 64, 128)),
    Axis("width", (256, 512, 1024, 2048)),
    Axis("adapters", (1, 2, 4, 8)),
)


def measure_scaling(
    axis: Axis,
    method: Method,
    shape: Shape,
    *,
    dtype: torch.dtype,
    device: torch.device,
    rounds: int,
    progress: Callable[[], None] = lambda: None,
) -> list[dict[str, Any]]:
    """A row for each size: seconds of a step, of a frozen one, and bytes saved beyond the frozen base's."""
    rows = []
    for size in axis.sizes:
        at, changes, count = _point(axis.name, size, shape)
        base, inputs = make_base(at, dtype, device), embeddings(at, dtype, device)
        frozen = twin(base).train()
        model = adapted(twin(base), method, **changes).train()
        for index in range(1, count):
            model.add_adapter(f"other{index}", method.config())  # type: ignore[operator, misc]
        steps = {
            BASE: training_step(frozen, inputs, METHODS[BASE]),
            method.name: training_step(model, inputs, method),
        }
        times = in_turn(steps, rounds, 1, device, progress)
        saved = saved_bytes(model, inputs, method) - saved_bytes(frozen, inputs, METHODS[BASE])
        rows.append(
            {
                "size": size,
                "seconds": statistics.median(times[method.name]),
                "frozen_seconds": statistics.median(times[BASE]),
                "adapter_seconds": statistics.median(
                    a - b for a, b in zip(times[method.name], times[BASE], strict=True)
                ),
                "adapter_saved_bytes": saved,
            }
        )
    return rows


def _point(axis: str, size: int, shape: Shape) -> tuple[Shape, dict[str, Any], int]:
    """The shape, the changed settings and the number of loaded adapters (one of them active) at a point."""
    if axis == "tokens":
        return replace(shape, batch=1, length=size), {}, 1
    if axis == "rank":
        return shape, {"r": size, "top_k": max(1, size // 4)}, 1
    if axis == "width":
        heads = max(1, size // 64)
        wide = replace(
            shape, hidden=size, intermediate=int(2.75 * size), heads=heads, kv_heads=max(1, heads // 2)
        )
        return wide, {}, 1
    return shape, {}, size


def exponent(rows: list[dict[str, Any]], key: str) -> float | None:
    """The slope of log(value) over log(size); None if a value is not above zero."""
    values = [row[key] for row in rows]
    if min(values) <= 0:
        return None
    return float(np.polyfit(np.log([row["size"] for row in rows]), np.log(values), 1)[0])
