"""Tiny random models of several architectures, with inputs for them: what the tuner's tests adapt."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

VOCABULARY = 40
SMALL: dict[str, Any] = {"r": 6, "top_k": 2, "gate_dim": 4}


class LinearWithMemory(nn.Linear):
    """A subclass of nn.Linear, as libraries have them."""


class MLP(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = LinearWithMemory(8, 12)
        self.second = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.relu(self.first(x)))


def llama() -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY, hidden_size=16, intermediate_size=24, num_hidden_layers=2,
            num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=64, pad_token_id=0,
            bos_token_id=1, eos_token_id=2,
        )
    )  # fmt: skip


def gpt2() -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=VOCABULARY, n_embd=16, n_layer=2, n_head=2, n_positions=64, pad_token_id=0,
            bos_token_id=1, eos_token_id=2, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
        )
    )  # fmt: skip


def opt() -> nn.Module:
    from transformers import OPTConfig, OPTForCausalLM

    return OPTForCausalLM(
        OPTConfig(
            vocab_size=VOCABULARY, hidden_size=16, ffn_dim=24, num_hidden_layers=2, num_attention_heads=2,
            word_embed_proj_dim=16, max_position_embeddings=64, dropout=0.0, pad_token_id=0, bos_token_id=1,
            eos_token_id=2,
        )
    )  # fmt: skip


def bert() -> nn.Module:
    from transformers import BertConfig, BertForSequenceClassification

    return BertForSequenceClassification(
        BertConfig(
            vocab_size=VOCABULARY, hidden_size=16, intermediate_size=24, num_hidden_layers=2,
            num_attention_heads=2, max_position_embeddings=64, hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0, pad_token_id=0, num_labels=3,
        )
    )  # fmt: skip


def t5() -> nn.Module:
    from transformers import T5Config, T5ForConditionalGeneration

    return T5ForConditionalGeneration(
        T5Config(
            vocab_size=VOCABULARY, d_model=16, d_kv=8, d_ff=24, num_layers=2, num_heads=2, dropout_rate=0.0,
            decoder_start_token_id=0, pad_token_id=0, eos_token_id=2,
        )
    )  # fmt: skip


MODELS: dict[str, Callable[[], nn.Module]] = {
    "llama": llama, "gpt2": gpt2, "opt": opt, "bert": bert, "t5": t5, "mlp": MLP,
}  # fmt: skip
TASK_TYPES = {
    "llama": "CAUSAL_LM",
    "gpt2": "CAUSAL_LM",
    "opt": "CAUSAL_LM",
    "bert": "SEQ_CLS",
    "t5": "SEQ_2_SEQ_LM",
}


def make(kind: str, seed: int = 0) -> nn.Module:
    """The model of that kind, always with the same weights."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return MODELS[kind]().eval()


def targets(kind: str) -> dict[str, Any]:
    """What a config needs for that kind: nothing, where PEFT knows the architecture."""
    return {"target_modules": ["first", "second"]} if kind == "mlp" else {}


def make_config(kind: str, **fields: Any) -> Any:
    from neurolora import NeuroLoraConfig

    return NeuroLoraConfig(**{**SMALL, **targets(kind), "task_type": TASK_TYPES.get(kind), **fields})


def inputs(kind: str, rows: int = 3, length: int = 5, seed: int = 1) -> dict[str, Tensor]:
    """A batch without labels."""
    generator = torch.Generator().manual_seed(seed)
    if kind == "mlp":
        return {"x": torch.randn(rows, length, 8, generator=generator)}
    ids = torch.randint(3, VOCABULARY, (rows, length), generator=generator)
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    return {**batch, "decoder_input_ids": ids[:, :4]} if kind == "t5" else batch


def labelled(kind: str, rows: int = 3, length: int = 5, seed: int = 1) -> dict[str, Tensor]:
    """A batch with labels (not for the MLP)."""
    batch = inputs(kind, rows, length, seed)
    batch.pop("decoder_input_ids", None)
    if kind == "bert":
        return {**batch, "labels": torch.arange(rows) % 3}
    labels = batch["input_ids"].clone()
    return {**batch, "labels": labels[:, :4].contiguous() if kind == "t5" else labels}


def outputs(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """The logits, without gradient."""
    with torch.no_grad():
        result = model(**batch)
    return result if isinstance(result, Tensor) else result.logits


def train(model: nn.Module, batch: dict[str, Tensor], steps: int = 3, rate: float = 1e-2) -> None:
    """A few steps, so that B and the gate are no longer what they were at the start."""
    was_training = model.training
    model.train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=rate)
    for _ in range(steps):
        optimizer.zero_grad()
        result = model(**batch)
        loss = result.square().mean() if isinstance(result, Tensor) else result.loss
        loss.backward()
        optimizer.step()
    model.train(was_training)
