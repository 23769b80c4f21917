"""The models that are measured: random Llamas of given shapes, frozen.

Room: bench. Weights are random because only the arithmetic counts here, never what a model says.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj")
RANK = 32


@dataclass(frozen=True)
class Shape:
    """A Llama's body and the batch that it is given."""

    name: str
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    batch: int
    length: int
    vocabulary: int = 1024


SHAPES = {
    shape.name: shape
    for shape in (
        Shape("tiny", 64, 128, 2, 4, 2, 2, 16),
        Shape("small", 1024, 2816, 4, 16, 8, 4, 256),
        Shape("llama-3-8b", 4096, 14336, 32, 32, 8, 4, 1024),
    )
}


def llama_config(shape: Shape) -> Any:
    """The `LlamaConfig` of a shape."""
    from transformers import LlamaConfig

    return LlamaConfig(
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        vocab_size=shape.vocabulary,
        max_position_embeddings=8192,
    )


def make_base(shape: Shape, dtype: torch.dtype, device: torch.device | str, head: bool = False) -> nn.Module:
    """A frozen random Llama, with a language head or (for training steps) without, made on the device."""
    from transformers import LlamaForCausalLM, LlamaModel

    torch.manual_seed(0)
    with torch.device(device):
        model: nn.Module = (LlamaForCausalLM if head else LlamaModel)(llama_config(shape))
    return model.to(dtype).requires_grad_(False)


def twin(base: nn.Module) -> nn.Module:
    """A copy with modules of its own and the same weights, so that all methods read the same memory."""
    return copy.deepcopy(base, {id(value): value for value in [*base.parameters(), *base.buffers()]})


def embeddings(shape: Shape, dtype: torch.dtype, device: torch.device | str) -> Tensor:
    """A batch of input embeddings (batch, length, hidden) that wants a gradient."""
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(shape.batch, shape.length, shape.hidden, generator=generator)
    return values.to(device=device, dtype=dtype).requires_grad_()
