"""Benchmark `train-step`: forward, auxiliary loss and backward of each method beside the others.

Room: bench. A step is forward and backward, gradients set aside after it; no optimizer, whose work depends on
the number of parameters and not on the method. Every model's input wants a gradient, the frozen base's too.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from neurolora.bench.methods import Method, adapted
from neurolora.bench.shapes import Shape, embeddings, make_base, twin
from neurolora.bench.timing import Step, in_turn
from neurolora.core.kernels import use_kernels
from neurolora.tuner import get_auxiliary_loss


def training_step(model: nn.Module, inputs: Tensor, method: Method) -> Step:
    """One forward and backward of `model`, the orthogonality loss included where the method has one."""

    def step() -> None:
        inputs.grad = None
        with use_kernels(method.kernels):
            loss = model(inputs_embeds=inputs).last_hidden_state.float().square().mean()
            if method.config is not None:
                loss = loss + get_auxiliary_loss(model)
            loss.backward()
        model.zero_grad(set_to_none=True)

    return step


def measure_steps(
    shape: Shape,
    methods: list[Method],
    *,
    dtype: torch.dtype,
    device: torch.device,
    rounds: int,
    warmup: int = 2,
    progress: Callable[[], None] = lambda: None,
) -> dict[str, list[float]]:
    """Seconds of each method's step in each round."""
    base = make_base(shape, dtype, device)
    inputs = embeddings(shape, dtype, device)
    steps = {}
    for method in methods:
        model = adapted(twin(base), method).train()
        steps[method.name] = training_step(model, inputs, method)
    return in_turn(steps, rounds, warmup, device, progress)
