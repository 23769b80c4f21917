"""Times taken in turn, and what they say: medians of ratios with their spread.

Room: bench. Every round runs every method once, so that whatever slows the machine for a while slows all of
them; a ratio is taken within a round, and the median over rounds is what is reported.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch

Step = Callable[[], None]


@dataclass(frozen=True)
class Ratio:
    """Of paired times: the median ratio, its quartiles, and a 95% interval of the median itself."""

    median: float
    quartiles: tuple[float, float]
    interval: tuple[float, float]

    def to_dict(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


def in_turn(
    steps: Mapping[str, Step],
    rounds: int,
    warmup: int,
    device: torch.device,
    progress: Callable[[], None] = lambda: None,
) -> dict[str, list[float]]:
    """Seconds of each step in each round: A B C A B C ...; the warm-up's rounds are left out."""
    for step in steps.values():
        for _ in range(warmup):
            step()
        progress()
    times: dict[str, list[float]] = {name: [] for name in steps}
    collected = gc.isenabled()
    gc.collect()
    gc.disable()  # a collection would fall on whoever runs at that moment
    try:
        for _ in range(rounds):
            for name, step in steps.items():
                times[name].append(_seconds(step, device))
            progress()
    finally:
        if collected:
            gc.enable()
    return times


def _seconds(step: Step, device: torch.device) -> float:
    _wait(device)
    started = time.perf_counter()
    step()
    _wait(device)
    return time.perf_counter() - started


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def ratio(times: list[float], reference: list[float]) -> Ratio:
    """`times` over `reference`, round by round."""
    ratios = sorted(a / b for a, b in zip(times, reference, strict=True))
    low, _, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else (ratios[0],) * 3
    return Ratio(statistics.median(ratios), (low, high), _interval_of_median(ratios))


def _interval_of_median(ordered: list[float]) -> tuple[float, float]:
    """Distribution-free: the order statistics that hold the median with at least 95% (binomial, normal)."""
    n = len(ordered)
    reach = int(0.98 * n**0.5 + 0.5)
    low, high = max(0, (n - 1) // 2 - reach), min(n - 1, n // 2 + reach)
    return ordered[low], ordered[high]
