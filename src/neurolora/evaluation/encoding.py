"""Token ids of prompts and answers for scoring: those of training, by the tasks' own encoder.

Room: evaluation. The only file here that knows how an example becomes tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from neurolora.evaluation.likelihood import TokenPair
from neurolora.tasks import IGNORED, Example, encode, encode_example

UNLIMITED = 10**9


def encode_answer(example: Example, tokenizer: Any, window: int | None) -> TokenPair:
    """The prompt as context, and what training teaches as continuation: the completion and its end token.

    An example that does not fit into `window` tokens loses some in its prompt, as in training. Raises
    `DataError` if its completion alone does not fit.
    """
    encoded = encode(example, tokenizer, window or UNLIMITED, overlong="shorten")
    assert encoded is not None  # only overlong="drop" gives None
    learned = next(place for place, label in enumerate(encoded["labels"]) if label != IGNORED)
    ids = tuple(encoded["input_ids"])
    return TokenPair(ids[:learned], ids[learned:])


def encode_continuation(example: Example, tokenizer: Any, window: int | None) -> TokenPair:
    """Like `encode_answer` without the end token: a choice's likelihood ends with its text, as in lm-eval."""
    pair = encode_example(example, tokenizer)
    if window is None or len(pair.prompt) + len(pair.completion) <= window + 1:
        return TokenPair(tuple(pair.prompt), tuple(pair.completion))
    fitting = encode_answer(example, tokenizer, window + 1)
    return TokenPair(fitting.context, fitting.continuation[: len(pair.completion)])


def encode_choices(example: Example, tokenizer: Any, window: int | None) -> list[TokenPair]:
    """One pair for each choice of an example that has some."""
    return [encode_continuation(Example(example.prompt, one), tokenizer, window) for one in example.choices]


def scored_tokens(pairs: Sequence[TokenPair]) -> list[int]:
    """How many tokens are scored in each pair."""
    return [len(pair.continuation) for pair in pairs]
