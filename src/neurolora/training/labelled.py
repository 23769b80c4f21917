"""Logits only where a label is compared: of a batch whose prompts have none, most need not be computed.

Room: training; used by `trainer` alone. With a large vocabulary the logits, kept in float32 for the loss, are
the largest tensor of a step; the answers' are a small part of them.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from neurolora.tasks import IGNORED

WORTH_IT = 0.8  # of the columns; above, cutting saves less than it costs


def takes_positions(model: Any) -> bool:
    """Whether the model, or the base of an adapted one, is a causal one that can be told where logits are
    wanted (`logits_to_keep`)."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    names = inspect.signature(type(base).forward).parameters
    return "logits_to_keep" in names and type(base).__name__.endswith(("ForCausalLM", "LMHeadModel"))


def cut_to_labels(inputs: dict[str, Any]) -> dict[str, Any]:
    """The same batch, asking for logits only in the columns in which some row is compared with a label.

    inputs: labels (rows, length) int64 among them, where column t is predicted from column t - 1, as the
    models' own loss does it. The result has C + 1 columns of logits and labels: the C that predict something,
    and a last one, which that loss compares with nothing. The loss is the same sum.
    """
    labels: Tensor = inputs["labels"]
    targets = functional.pad(labels[:, 1:], (0, 1), value=IGNORED)  # what each column predicts
    columns = (targets != IGNORED).any(dim=0).nonzero().flatten()
    if len(columns) + 1 > WORTH_IT * labels.shape[1]:
        return inputs
    wanted = torch.cat([columns, columns.new_tensor([labels.shape[1] - 1])])
    cut = functional.pad(targets[:, columns], (1, 0), value=IGNORED)
    return {**inputs, "labels": cut, "logits_to_keep": wanted}
