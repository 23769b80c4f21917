"""What one forward of the whole model tells its adapted layers, and what they leave behind.

Room: tuner. One `ForwardContext` is shared by all adapted layers of a model. Hooks on the model open it
before a forward and close it after, so it works the same below a `PeftModel`, below transformers' own
`add_adapter`, and under any trainer. A forward that is run again for activation checkpointing finds the
context closed and records nothing: nothing is ever counted twice, and nothing is kept of padding masks.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from neurolora.tuner.layer import NeuroLoraLayer


@dataclass(frozen=True)
class RoutingRecord:
    """The routing of one adapter in one module over one forward, padding left out, without gradient.

    coactivation: (r, r) float32, sum over tokens of a_t (1 - a_t)^T (see core/orthogonality.py).
    counts: (r) int64, how often each rank was active. tokens: int64 (), over how many tokens.
    """

    coactivation: Tensor
    counts: Tensor
    tokens: Tensor


class Observer(Protocol):
    """Something that watches the routing during a forward, such as `RoutingStatistics`."""

    def observe(
        self, layer: NeuroLoraLayer, adapter: str, mask: Tensor, modulation: Tensor | None, keep: Tensor | None
    ) -> None:
        """Take note of one module's routing: mask bool (..., r), modulation (..., r) or (r), keep bool (...)."""


@dataclass
class ForwardContext:
    """State of the forward that is running, if one is."""

    layers: list[NeuroLoraLayer] = field(default_factory=list)
    is_open: bool = False
    encoder_keep: Tensor | None = None
    decoder_keep: Tensor | None = None
    observer: Observer | None = None
    task_loss: Tensor | None = None
    orthogonality_loss: Tensor | None = None

    def begin(self, encoder_mask: Any, decoder_mask: Any) -> None:
        """Open the context: forget the last forward's records and take the padding masks, 1 = a real token."""
        for layer in self.layers:
            layer.records.clear()
        self.encoder_keep, self.decoder_keep = _as_keep(encoder_mask), _as_keep(decoder_mask)
        self.is_open = True

    def end(self) -> None:
        """Close the context; the records stay until the next forward or until the loss is taken."""
        self.is_open = False
        self.encoder_keep = self.decoder_keep = None
        for layer in self.layers:
            layer.add_to_balance()

    def keep(self, shape: torch.Size, from_encoder: bool) -> Tensor | None:
        """Which of the tokens of a layer's input are real: bool of `shape`, or None where no mask fits.

        `shape` is the input's without its last dimension. A longer mask belongs to a sequence whose first
        part is in the key-value cache. Inputs with tokens flattened into one dimension are understood.
        """
        first, second = self.encoder_keep, self.decoder_keep
        for mask in (first, second) if from_encoder or second is None else (second, first):
            fitted = _fit(mask, shape)
            if fitted is not None:
                return fitted
        return None


def _as_keep(mask: Any) -> Tensor | None:
    """A 2-d padding mask as bool; anything else (a 4-d additive mask, a dict of masks) says nothing here."""
    if not isinstance(mask, Tensor) or mask.dim() != 2 or mask.is_floating_point():
        return None
    return mask.bool()


def _fit(mask: Tensor | None, shape: torch.Size) -> Tensor | None:
    if mask is None:
        return None
    if len(shape) == 2 and mask.shape[0] == shape[0] and mask.shape[1] >= shape[1]:
        return mask[:, mask.shape[1] - shape[1] :]
    if len(shape) == 1 and mask.numel() == shape[0]:
        return mask.reshape(-1)
    return None


class _Open:
    """Pre-forward hook of the whole model."""

    def __init__(self, context: ForwardContext) -> None:
        self.context = context

    def __call__(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        inputs = _named_inputs(model.forward, args, kwargs)
        self.context.begin(inputs.get("attention_mask"), inputs.get("decoder_attention_mask"))


class _Close:
    """Forward hook of the whole model; runs after an exception too."""

    def __init__(self, context: ForwardContext) -> None:
        self.context = context

    def __call__(self, model: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        self.context.end()


def _named_inputs(
    forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Mapping[str, Any]:
    if len(args) < 2 or "attention_mask" in kwargs:
        return kwargs
    names = [p.name for p in inspect.signature(forward).parameters.values() if p.kind != p.VAR_POSITIONAL]
    return {**dict(zip(names, args, strict=False)), **kwargs}


def attach_context(model: nn.Module) -> ForwardContext:
    """The context of `model`, with its two hooks; made on the first call, found again on later ones."""
    for hook in model._forward_pre_hooks.values():
        if isinstance(hook, _Open):
            return hook.context
    context = ForwardContext()
    model.register_forward_pre_hook(_Open(context), with_kwargs=True)
    model.register_forward_hook(_Close(context), always_call=True)
    return context


def detach_context(model: nn.Module) -> None:
    """Take the hooks away again, when the last adapted layer is gone."""
    for hooks in (model._forward_pre_hooks, model._forward_hooks):
        for key, hook in list(hooks.items()):
            if isinstance(hook, (_Open, _Close)):
                del hooks[key]
                model._forward_pre_hooks_with_kwargs.pop(key, None)
                model._forward_hooks_always_called.pop(key, None)
