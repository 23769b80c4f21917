"""Off-task silence: a loss that keeps an adapter quiet on text that is none of its business.

Room: tuner. `NeuroLoraTrainer` calls it; a loop of one's own may as well. Nothing of it is in the papers.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from neurolora.errors import ConfigError, explain
from neurolora.tuner.auxiliary import context_of

CHECKPOINTING = "gradient_checkpointing"  # transformers' switch on each module that can be checkpointed


@contextlib.contextmanager
def listening(model: nn.Module) -> Iterator[None]:
    """Inside, every forward of `model` keeps how loud each trainable adapter was: ask `take_silence_loss`.

    Activation checkpointing is off inside: the backward, which runs a layer again, comes when nobody listens.
    Raises ConfigError if `model` has no adapted layers.
    """
    context = context_of(model)
    if context is None:
        do = "Add a NeuroLoRA or FlyLoRA adapter first"
        raise ConfigError(explain("listening to a model", "it has no routed adapter", do))
    checkpointed = [module for module in model.modules() if getattr(module, CHECKPOINTING, False)]
    before, context.listens = context.listens, True
    for module in checkpointed:
        setattr(module, CHECKPOINTING, False)
    try:
        yield
    finally:
        context.listens = before
        for module in checkpointed:
            setattr(module, CHECKPOINTING, True)


def take_silence_loss(model: nn.Module) -> Tensor:
    """Mean over adapted modules of `core.silence.loudness` in the last forward inside `listening`: a scalar.

    With gradient to B and the gates. Zero where nothing was heard. What was heard is forgotten by this.
    """
    context = context_of(model)
    layers = [] if context is None else context.layers
    heard = [loud for layer in layers for loud in layer.loudness.values()]
    for layer in layers:
        layer.loudness.clear()
    if not heard:
        return torch.tensor(0.0)
    return torch.stack([loud.to(heard[0].device) for loud in heard]).mean()
