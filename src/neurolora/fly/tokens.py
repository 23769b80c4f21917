"""Texts as an encoder takes them: cut to its window, padded on the right, with a mask of what is no padding.

Room: fly. Called by `backbone.py` with a loaded tokenizer and model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from neurolora.errors import ConfigError, DataError, explain

#: Texts and what to call each in an error -> tensors (rows, length) by name, `attention_mask` among them.
Reader = Callable[[Sequence[str], Sequence[str]], dict[str, Any]]


def text_reader(tokenizer: Any, model: Any, max_length: int, name: str) -> Reader:
    """How texts are read, cut to `max_length` tokens or the model's window, whichever is shorter.

    Raises ConfigError where that leaves no room for a word. The reader raises DataError for a text without
    tokens, ConfigError for tokens that the model does not know.
    """
    length = min(max_length, window(tokenizer, model))
    special = tokenizer.num_special_tokens_to_add()
    if length <= special:
        asked = f"reading texts of {length} tokens with {name}"
        raise ConfigError(explain(asked, f"{special} of them are the tokenizer's own", "Give more tokens"))
    # A token's place counts from the left: padding there would move the words of all but the longest text.
    tokenizer.padding_side = "right"
    if tokenizer.pad_token is None:  # masked, so any token will do
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token or tokenizer.convert_ids_to_tokens(0)
    options = {"padding": True, "truncation": True, "max_length": length, "return_attention_mask": True}
    words = getattr(model.get_input_embeddings(), "num_embeddings", None)

    def read(items: Sequence[str], called: Sequence[str]) -> dict[str, Any]:
        inputs = dict(tokenizer(list(items), return_tensors="pt", **options))
        for row, count in enumerate(inputs["attention_mask"].sum(dim=1).tolist()):
            if count == 0:
                found = f"{called[row]}, {items[row]!r}, has no tokens"
                raise DataError(
                    explain(f"reading texts with {name}", found, "Leave it out, or give it words")
                )
        largest = int(inputs["input_ids"].max())
        if words is not None and largest >= words:
            found = f"its tokenizer gives token {largest}, and its model knows {words}"
            raise ConfigError(explain(f"reading texts with {name}", found, "Give a tokenizer of this model"))
        return inputs

    return read


def window(tokenizer: Any, model: Any) -> int:
    """How many tokens of a text the model takes, by its table of positions and by its tokenizer."""
    found = int(tokenizer.model_max_length)
    places = getattr(model.config, "max_position_embeddings", None)
    if isinstance(places, int) and places > 0:
        found = min(found, places - _skipped(model))
    return found


def _skipped(model: Any) -> int:
    """Rows of the table of positions that no token uses: in RoBERTa's family those up to the padding's."""
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and getattr(module, "padding_idx", None) is not None:
            return int(module.padding_idx) + 1
    return 0
