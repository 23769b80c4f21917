"""Logits only where a label is compared: the loss and its gradients are those of the whole logits."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from neurolora.training.labelled import cut_to_labels, takes_positions

SIZES: dict[str, Any] = {
    "vocab_size": 50, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64, "head_dim": 8,
}  # fmt: skip
ARCHITECTURES = (
    "llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "phi3", "olmo2", "gpt_neox", "gpt2", "opt",
    "bloom", "granite",
)  # fmt: skip


def model_of(kind: str) -> nn.Module:
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind)
    for name, value in SIZES.items():
        if hasattr(config, name):
            setattr(config, name, value)
    for name in ("ffn_dim", "word_embed_proj_dim"):
        if hasattr(config, name):
            setattr(config, name, 32)
    for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
        setattr(config, name, 1)
    return AutoModelForCausalLM.from_config(config).eval()


def batch() -> dict[str, Any]:
    """Three rows, padded right; answers of two tokens at unequal places."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(2, 50, (3, 20), generator=generator)
    mask, labels = torch.ones_like(ids), torch.full_like(ids, -100)
    for row, end in enumerate((20, 14, 19)):
        mask[row, end:] = 0
        labels[row, end - 2 : end] = ids[row, end - 2 : end]
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_the_loss_and_its_gradients_are_the_same(kind: str) -> None:
    model, whole = model_of(kind), batch()
    assert takes_positions(model)
    found = []
    for inputs in (whole, cut_to_labels(whole)):
        model.zero_grad()
        out = model(**inputs, num_items_in_batch=torch.tensor(6))
        out.loss.backward()
        found.append((out.loss.detach(), [p.grad.clone() for p in model.parameters() if p.grad is not None]))
        columns = out.logits.shape[1]
    assert (
        columns == 5 + 1
    )  # 12, 13; 17, 18, 19 hold answers: each is predicted from the one before; and the last
    torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-6, atol=1e-6)
    for one, other in zip(found[0][1], found[1][1], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_labels_everywhere_are_left_as_they_are() -> None:
    whole = batch()
    whole["labels"] = whole["input_ids"]
    assert cut_to_labels(whole) is whole


def test_the_first_column_is_never_compared() -> None:
    whole = batch()
    whole["labels"][:, 0] = 3  # nothing predicts it
    assert (
        cut_to_labels(whole)["logits_to_keep"].tolist() == cut_to_labels(batch())["logits_to_keep"].tolist()
    )


def test_a_batch_without_labels_has_a_loss_of_nothing() -> None:
    whole = batch()
    whole["labels"] = torch.full_like(whole["labels"], -100)
    cut = cut_to_labels(whole)
    assert (cut["labels"] == -100).all()
    assert cut["labels"].shape == (3, 1)
