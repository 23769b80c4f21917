"""The two hooks on the whole model that open and close the forward context and add the auxiliary loss.

Room: tuner. Hooks on the base model itself, because PEFT calls it in several ways: through the tuner's
`forward` for a task type, past it without one, and without any wrapper under transformers' `add_adapter`.
Only a wrapper's forward gets the loss added.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from neurolora.errors import explain
from neurolora.tuner.auxiliary import auxiliary_share, get_auxiliary_loss, has_auxiliary_loss
from neurolora.tuner.context import ForwardContext
from neurolora.tuner.likelihoods import attach_to_likelihoods

SCALE = "auxiliary_scale"


class _Open:
    """Pre-forward hook of the whole model: takes the padding masks, and our own argument out of the way."""

    def __init__(self, context: ForwardContext) -> None:
        self.context = context

    def __call__(
        self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        _warn_if_untaken(self.context)
        self.context.begin(_named_inputs(model.forward, args, kwargs))
        self.context.auxiliary_scale = kwargs.get(SCALE)
        if SCALE not in kwargs:
            return None
        return args, {key: value for key, value in kwargs.items() if key != SCALE}


class _Close:
    """Forward hook of the whole model; runs after an exception too."""

    def __init__(self, context: ForwardContext) -> None:
        self.context = context

    def __call__(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], outputs: Any) -> Any:
        self.context.end()
        self.context.task_loss = self.context.orthogonality_loss = None
        self.context.untaken = torch.is_grad_enabled() and has_auxiliary_loss(self.context)
        if not self.context.adds_loss or outputs is None:
            return None
        return _add_auxiliary_loss(self.context, model, outputs, _named_inputs(model.forward, args, kwargs))


def attach_context(model: nn.Module) -> ForwardContext:
    """The context of `model`, with its two hooks; made on the first call, found again on later ones."""
    for hook in model._forward_pre_hooks.values():
        if isinstance(hook, _Open):
            return hook.context
    is_two_sided = getattr(getattr(model, "config", None), "is_encoder_decoder", False)
    context = ForwardContext(two_sided=bool(is_two_sided))
    model.register_forward_pre_hook(_Open(context), with_kwargs=True)
    model.register_forward_hook(_Close(context), with_kwargs=True, always_call=True)
    return context


def detach_context(model: nn.Module) -> None:
    """Take the hooks away again, when the last adapted layer is gone, and let go of the layers."""
    for hooks in (model._forward_pre_hooks, model._forward_hooks):
        for key, hook in list(hooks.items()):
            if isinstance(hook, (_Open, _Close)):
                hook.context.layers.clear()
                del hooks[key]
                model._forward_pre_hooks_with_kwargs.pop(key, None)
                model._forward_hooks_with_kwargs.pop(key, None)
                model._forward_hooks_always_called.pop(key, None)


def _named_inputs(
    forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> dict[str, Any]:
    if len(args) < 2:  # the first is the tokens, which nobody here asks for
        return kwargs
    names = [p.name for p in inspect.signature(forward).parameters.values() if p.kind != p.VAR_POSITIONAL]
    return {**dict(zip(names, args, strict=False)), **kwargs}


def _add_auxiliary_loss(
    context: ForwardContext, model: nn.Module, outputs: Any, inputs: dict[str, Any]
) -> Any:
    """The outputs with the auxiliary loss (Eq. 8) in their own, if there is one and routing was recorded."""
    task_loss = _loss_of(outputs, inputs)
    if task_loss is None:
        return None
    context.task_loss = task_loss.detach()
    if not any(layer.records for layer in context.layers):
        return None
    auxiliary = get_auxiliary_loss(model)
    if context.auxiliary_scale is None:
        context.auxiliary_scale = auxiliary_share(inputs, _shifts_labels(model))
    likelihoods = getattr(outputs, "log_probs", None)
    if isinstance(likelihoods, Tensor) and likelihoods.requires_grad:  # of TRL's fused head
        outputs.log_probs = attach_to_likelihoods(likelihoods, auxiliary, context)
    return _with_loss(outputs, task_loss + (auxiliary * context.auxiliary_scale).to(task_loss))


def _warn_if_untaken(context: ForwardContext) -> None:
    """Say once that the auxiliary loss of the forward before was taken by nobody."""
    if not context.untaken or context.has_warned or not torch.is_grad_enabled():
        return
    context.untaken, context.has_warned = False, True
    warnings.warn(UNTAKEN, UserWarning, stacklevel=2)


UNTAKEN = explain(
    "Adding the orthogonality loss (Eq. 8)",
    "the last training forward was not given labels, or not by PEFT's wrapper, and so had no loss to add it "
    "to; the caller did not add it either",
    "Add neurolora.get_auxiliary_loss(model) to your loss, use NeuroLoraTrainer, or set "
    "orthogonality_weight=0",
)


def _shifts_labels(model: nn.Module) -> bool:
    """Whether the model's loss leaves out the first label, as those of decoders do."""
    config = getattr(model, "config", None)
    is_encoder_decoder = getattr(config, "is_encoder_decoder", False)
    return getattr(model, "loss_type", None) == "ForCausalLM" and not is_encoder_decoder


def _loss_of(outputs: Any, inputs: dict[str, Any]) -> Tensor | None:
    """The loss in a model's outputs: an attribute, or the first of a tuple when labels were given."""
    if isinstance(outputs, tuple):
        first = outputs[0] if outputs and inputs.get("labels") is not None else None
        return first if isinstance(first, Tensor) and first.dim() == 0 else None
    loss = outputs.get("loss") if isinstance(outputs, dict) else getattr(outputs, "loss", None)
    return loss if isinstance(loss, Tensor) and loss.is_floating_point() else None


def _with_loss(outputs: Any, loss: Tensor) -> Any:
    if isinstance(outputs, tuple):
        return (loss, *outputs[1:])
    if isinstance(outputs, dict):
        outputs["loss"] = loss  # a transformers ModelOutput sets its attribute too
    else:
        outputs.loss = loss
    return outputs
