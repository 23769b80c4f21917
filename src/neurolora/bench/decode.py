"""Benchmark `decode`: one token at a time with a key-value cache, each method beside the others.

Room: bench. The time of a token is that of a whole forward of a body of the given shape, after a prompt; all
methods decode the same number of tokens from caches of their own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from neurolora.bench.methods import Method, adapted
from neurolora.bench.shapes import Shape, make_base, twin
from neurolora.bench.timing import Step, in_turn
from neurolora.core.kernels import use_kernels

PROMPT, TOKENS = 16, 8


def decoding(model: nn.Module, shape: Shape, method: Method, device: torch.device) -> Step:
    """A prompt once, then `TOKENS` greedy tokens in every step, from the end of the prompt again."""
    generator = torch.Generator().manual_seed(0)
    prompt = torch.randint(0, shape.vocabulary, (shape.batch, PROMPT), generator=generator).to(device)
    with torch.inference_mode(), use_kernels(method.kernels):
        first = model(input_ids=prompt, use_cache=True)
    cache: Any = first.past_key_values
    start = first.logits[:, -1:].argmax(-1)

    def step() -> None:
        token = start
        with torch.inference_mode(), use_kernels(method.kernels):
            for _ in range(TOKENS):
                token = model(input_ids=token, past_key_values=cache, use_cache=True).logits.argmax(-1)
            cache.crop(-TOKENS)

    return step


def measure_decode(
    shape: Shape,
    methods: list[Method],
    batch: int,
    *,
    dtype: torch.dtype,
    device: torch.device,
    rounds: int,
    warmup: int = 2,
    progress: Callable[[], None] = lambda: None,
) -> dict[str, list[float]]:
    """Seconds for `TOKENS` tokens of each of `batch` rows, for each method in each round."""
    shape = replace(shape, batch=batch)
    base = make_base(shape, dtype, device, head=True)
    steps = {}
    for method in methods:
        model = adapted(twin(base), method).eval()
        steps[method.name] = decoding(model, shape, method, device)
    return in_turn(steps, rounds, warmup, device, progress)
