"""The auxiliary loss of Eq. 8 and the two steps that belong to it: scaling and load balancing.

Room: tuner. Public helpers for trainers and for people with a loop of their own; all work on any model that
holds adapted layers, whoever wrapped it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from neurolora.core.orthogonality import orthogonality_loss
from neurolora.core.router import balance_loss
from neurolora.core.routing import load_balance_step
from neurolora.tuner.context import ForwardContext
from neurolora.tuner.layer import NeuroLoraLayer


def adapter_layers(model: nn.Module) -> Iterator[tuple[str, NeuroLoraLayer]]:
    """Path and layer of every adapted module of `model`, in the model's order."""
    for path, module in model.named_modules():
        if isinstance(module, NeuroLoraLayer):
            yield path, module


def context_of(model: nn.Module) -> ForwardContext | None:
    """The forward context that the adapted layers of `model` share; None if there are none."""
    return next((layer.context for _, layer in adapter_layers(model)), None)


def get_auxiliary_loss(model: nn.Module) -> Tensor:
    """What the last training forward adds to the task's loss: a scalar.

    lambda * L_orth (Eqs. 7, 8), with gradient to B only, and the weighted balancing loss of learned routers.
    Each is the mean over the adapted modules, for each active trainable adapter. Zero when there is nothing
    to add: no forward in training mode yet, weights 0, adapters disabled.

    Only for forwards that do not add it by themselves: those without labels, or without PEFT's wrapper. A
    `PeftModel` that is given labels has it in `outputs.loss` already.
    """
    orthogonality, context = weighted_orthogonality_loss(model), context_of(model)
    if context is not None:
        context.orthogonality_loss = orthogonality.detach()
        context.untaken = False
    return orthogonality + weighted_balance_loss(model)


def has_auxiliary_loss(context: ForwardContext) -> bool:
    """Whether the last forward recorded something that a loss with a weight is made of."""
    return any(
        _weight(layer, adapter) > 0 or layer.settings[adapter].balance_weight > 0
        for layer in context.layers
        for adapter in layer.records
    )


def weighted_balance_loss(model: nn.Module) -> Tensor:
    """The balancing loss of learned routers (core/router.py), weighted; zero without any."""
    context = context_of(model)
    if context is None:
        return torch.tensor(0.0)
    main = _device(context)
    losses: dict[str, list[Tensor]] = {}
    for layer in context.layers:
        for adapter, record in layer.records.items():
            if layer.settings[adapter].balance_weight > 0 and record.probabilities is not None:
                losses.setdefault(adapter, []).append(_balance(layer, adapter).to(main))
    means = [torch.stack(each).mean() for each in losses.values()]
    return torch.stack([torch.zeros((), device=main), *means]).sum()


def _balance(layer: NeuroLoraLayer, adapter: str) -> Tensor:
    settings, record = layer.settings[adapter], layer.records[adapter]
    assert record.probabilities is not None
    assert record.counts is not None
    each = settings.r // settings.experts
    found = balance_loss(record.probabilities, record.counts[::each], record.tokens, settings.top_k // each)
    return settings.balance_weight * found


def weighted_orthogonality_loss(model: nn.Module) -> Tensor:
    """lambda * L_orth (Eqs. 7, 8), the mean over modules; zero where its weight is."""
    context = context_of(model)
    if context is None:
        return torch.tensor(0.0)
    rows = [(layer, a) for layer in context.layers for a in layer.records if _weight(layer, a) > 0]
    main = _device(context)
    total = torch.zeros((), device=main)
    for adapter in dict.fromkeys(adapter for _, adapter in rows):
        layers = [layer for layer, name in rows if name == adapter]
        losses = [_summed_losses(alike, adapter).to(main) for alike in _of_equal_shape(layers, adapter)]
        total = total + _weight(layers[0], adapter) * torch.stack(losses).sum() / len(layers)
    return total


def _weight(layer: NeuroLoraLayer, adapter: str) -> float:
    return layer.settings[adapter].orthogonality_weight


def _of_equal_shape(layers: list[NeuroLoraLayer], adapter: str) -> list[list[NeuroLoraLayer]]:
    """The layers in groups whose B's can be stacked, so that a whole group costs a few operations."""
    groups: dict[tuple[object, ...], list[NeuroLoraLayer]] = {}
    for layer in layers:
        B = layer.neurolora_B[adapter]
        groups.setdefault((B.shape, B.dtype, B.device, layer.settings[adapter].active), []).append(layer)
    return list(groups.values())


def _summed_losses(layers: list[NeuroLoraLayer], adapter: str) -> Tensor:
    records = [layer.records[adapter] for layer in layers]
    C = torch.stack([record.coactivation / record.tokens.clamp(min=1) for record in records])
    B = torch.stack([layer.neurolora_B[adapter] for layer in layers])
    return orthogonality_loss(B, C, layers[0].settings[adapter].active).sum()


def step_load_balance(model: nn.Module) -> None:
    """Move the routing biases once, from all forwards since the last call; call it after `optimizer.step()`.

    `NeuroLoraTrainer` and `NeuroLoraCallback` do so by themselves. Without adapters that balance, nothing.
    Under `torch.distributed` every process must call it: the counts of all are added, in one reduction.
    """
    rows = [(layer, adapter) for _, layer in adapter_layers(model) for adapter in layer.neurolora_bias]
    if not rows:
        return
    totals = _sum_over_processes([layer.take_pending(adapter) for layer, adapter in rows])
    for (layer, adapter), total in zip(rows, totals, strict=True):
        settings, bias = layer.settings[adapter], layer.neurolora_bias[adapter]
        counts, tokens = total[:-1].to(bias.device), total[-1].to(bias.device)
        bias.copy_(load_balance_step(bias, counts, tokens, settings.active, settings.load_balance_rate))


def _sum_over_processes(totals: list[Tensor]) -> list[Tensor]:
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return totals
    flat = torch.cat([total.to(totals[0].device) for total in totals])
    torch.distributed.all_reduce(flat)
    return list(torch.split(flat, [len(total) for total in totals]))


def auxiliary_share(kwargs: dict[str, Any], shifts_labels: bool) -> Tensor | float:
    """The share of a micro-batch in its optimizer step: its label tokens / `num_items_in_batch`, else 1.

    A trainer that passes `num_items_in_batch` sums the losses of the micro-batches (and of the processes)
    as they come; one that does not divides each by their number. With this factor the auxiliary loss has
    weight one in a step either way.
    """
    items = kwargs.get("num_items_in_batch")
    labels = kwargs.get("shift_labels", kwargs.get("labels"))
    if items is None or not isinstance(labels, Tensor):
        return 1.0
    if "shift_labels" not in kwargs and shifts_labels:
        labels = labels[..., 1:]
    counted = labels.ne(-100).sum()
    return counted / items.to(counted.device) if isinstance(items, Tensor) else counted / items


def _device(context: ForwardContext) -> torch.device:
    for layer in context.layers:
        for B in layer.neurolora_B.values():
            return B.device  # type: ignore[no-any-return]
    return torch.device("cpu")
