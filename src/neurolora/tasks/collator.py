"""Rows of ids -> one padded batch.

Room: tasks. Trainers and scorers call it; it imports torch when it is first used, and touches nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from neurolora.errors import ConfigError, explain
from neurolora.tasks.encoding import IGNORED

if TYPE_CHECKING:
    from torch import Tensor


class CompletionCollator:
    """Pad a batch of `encode`'s rows on the right, to its longest row or a multiple above it.

    The mask comes from the lengths, not from the ids, so a pad token that is also the end token
    hides nothing.

    Returns `input_ids`, `attention_mask` and `labels`, each int64 (rows, length).
    """

    def __init__(self, tokenizer: Any, pad_to_multiple_of: int | None = None) -> None:
        if tokenizer.pad_token_id is None:
            do = "Call prepare_tokenizer(tokenizer, model.config) first"
            raise ConfigError(explain("a batch", "the tokenizer has no pad token", do))
        self.pad_id = int(tokenizer.pad_token_id)
        self.multiple = pad_to_multiple_of or 1

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        """(rows, length) tensors; see the class."""
        import torch

        longest = max(len(row["input_ids"]) for row in rows)
        length = -(-longest // self.multiple) * self.multiple
        batch = {
            "input_ids": [_padded(row["input_ids"], length, self.pad_id) for row in rows],
            "attention_mask": [_padded([1] * len(row["input_ids"]), length, 0) for row in rows],
            "labels": [_padded(row["labels"], length, IGNORED) for row in rows],
        }
        return {name: torch.tensor(values, dtype=torch.int64) for name, values in batch.items()}


def _padded(values: Sequence[int], length: int, filler: int) -> list[int]:
    return [*values, *([filler] * (length - len(values)))]
