"""Watching the routing: how often each rank is used in each module, and what the gate does.

Room: tuner. A collector for inspection and reports; it costs nothing unless it is switched on.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from neurolora.core.orthogonality import orthogonality_loss
from neurolora.core.routing import active_counts
from neurolora.tuner.auxiliary import context_of
from neurolora.tuner.layer import NeuroLoraLayer


class ActiveRanks:
    """How often each rank is active, for each module and adapter, over all tokens seen; padding left out.

    No more than that: what else `RoutingStatistics` tells takes r^2 numbers, and an adapter of many blocks
    may have thousands of ranks.
    """

    def __init__(self) -> None:
        self._sums: dict[tuple[str, str], dict[str, Any]] = {}

    def observe(
        self,
        layer: NeuroLoraLayer,
        adapter: str,
        mask: Tensor,
        modulation: Tensor | None,
        keep: Tensor | None,
    ) -> None:
        """Add one module's routing in one forward (called by the layer)."""
        counts, tokens = active_counts(mask, keep)
        row = self._sums.setdefault((layer.name, adapter), {"counts": 0, "tokens": 0})
        row["counts"] = row["counts"] + counts.cpu()
        row["tokens"] += int(tokens)

    def frequencies(self) -> dict[tuple[str, str], Tensor]:
        """(module's name, adapter) -> the share of tokens on which each rank is active, (r) float64."""
        return {key: sums["counts"].double() / max(1, sums["tokens"]) for key, sums in self._sums.items()}


class RoutingStatistics(ActiveRanks):
    """What routing and gate do over all tokens seen, padding left out, for each module and adapter."""

    def __init__(self) -> None:
        super().__init__()
        self._gates: dict[tuple[str, str], dict[str, Any] | None] = {}
        self._layers: dict[tuple[str, str], NeuroLoraLayer] = {}

    def observe(
        self,
        layer: NeuroLoraLayer,
        adapter: str,
        mask: Tensor,
        modulation: Tensor | None,
        keep: Tensor | None,
    ) -> None:
        """Add one module's routing in one forward (called by the layer)."""
        super().observe(layer, adapter, mask, modulation, keep)
        key = (layer.name, adapter)
        self._layers[key] = layer
        if modulation is not None:
            self._gates[key] = _add_gate(self._gates.get(key), modulation.detach().expand(mask.shape), keep)

    def summary(self) -> dict[str, Any]:
        """`{"r", "top_k", "layers": [...]}`, one row for each module and adapter, in the order of use.

        top_k: active ranks for each token, those of all blocks together.

        A row: name, adapter, tokens, active_frequency (r), gate_mean (r), gate_std (r), gate_min, gate_max
        (None without a gate), orthogonality: mean squared cosine between B's columns active together and not.
        """
        rows = [self._row(key, frequency) for key, frequency in self.frequencies().items()]
        settings = [self._layers[key].settings[key[1]] for key in self._sums]
        return {
            "r": settings[0].r if settings else None,
            "top_k": settings[0].active if settings else None,
            "layers": rows,
        }

    def _row(self, key: tuple[str, str], frequency: Tensor) -> dict[str, Any]:
        layer, adapter = self._layers[key], key[1]
        return {
            "name": key[0],
            "adapter": adapter,
            "tokens": self._sums[key]["tokens"],
            "active_frequency": frequency.tolist(),
            "orthogonality": _mean_squared_cosine(layer, adapter),
            **_gate_row(self._gates.get(key)),
        }


@contextlib.contextmanager
def routing_statistics(model: nn.Module) -> Iterator[RoutingStatistics]:
    """Collect routing statistics of every forward of `model` inside the block.

    Example:
        with routing_statistics(model) as statistics:
            model(**batch)
        statistics.summary()
    """
    statistics = RoutingStatistics()
    with observed_by(model, statistics):
        yield statistics


@contextlib.contextmanager
def observed_by(model: nn.Module, observer: ActiveRanks) -> Iterator[None]:
    """Inside, `observer` is told of the routing in every forward of `model`."""
    context = context_of(model)
    if context is None:
        yield
        return
    before = context.observer
    context.observer = observer
    try:
        yield
    finally:
        context.observer = before


def _add_gate(sums: dict[str, Any] | None, m: Tensor, keep: Tensor | None) -> dict[str, Any]:
    flat = m.reshape(-1, m.shape[-1]).double().cpu()
    if keep is not None:
        flat = flat[keep.reshape(-1).cpu()]
    if sums is None:
        sums = {"n": 0, "sum": 0.0, "squares": 0.0, "min": float("inf"), "max": float("-inf")}
    if len(flat):
        sums = {
            "n": sums["n"] + len(flat),
            "sum": sums["sum"] + flat.sum(0),
            "squares": sums["squares"] + flat.square().sum(0),
            "min": min(sums["min"], float(flat.min())),
            "max": max(sums["max"], float(flat.max())),
        }
    return sums


def _gate_row(sums: dict[str, Any] | None) -> dict[str, Any]:
    if sums is None or not sums["n"]:
        return {"gate_mean": None, "gate_std": None, "gate_min": None, "gate_max": None}
    mean = sums["sum"] / sums["n"]
    variance = (sums["squares"] / sums["n"] - mean.square()).clamp(min=0)
    return {
        "gate_mean": mean.tolist(),
        "gate_std": variance.sqrt().tolist(),
        "gate_min": sums["min"],
        "gate_max": sums["max"],
    }


def _mean_squared_cosine(layer: NeuroLoraLayer, adapter: str) -> float:
    """Eq. 7 as if every pair of different columns met equally often: mean of cos^2 over i != j."""
    B = layer.neurolora_B[adapter].detach().float()
    r = B.shape[1]
    if r < 2:
        return 0.0
    pairs = torch.ones(r, r, device=B.device).fill_diagonal_(0.0)
    total = orthogonality_loss(B, pairs, 1) * (r - 1)  # undoes Eq. 7's 1 / (k (r - k)) for k = 1
    return float(total / (r * (r - 1)))
