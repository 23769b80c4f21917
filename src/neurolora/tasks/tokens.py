"""A tokenizer that can train: pad and end tokens where they lack, and one rule for the first token.

Room: tasks. Training and evaluation call it; it changes only the tokenizer it is given, never an embedding.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from neurolora.errors import ConfigError, explain

END_TOKENS = (
    "</s>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<eos>",
    "<|im_end|>",
    "<|eot_id|>",
    "[SEP]",
    "[EOS]",
)
PAD_TOKENS = (
    "<pad>",
    "[PAD]",
    "<|pad|>",
    "<PAD>",
    "<|padding|>",
    "<|finetune_right_pad_id|>",
    "<|reserved_special_token_0|>",
    "<|extra_0|>",
    "<unused0>",
    "<|endoftext|>",
)


def prepare_tokenizer(tokenizer: Any, model_config: Any = None) -> tuple[str, ...]:
    """Give the tokenizer an end token and a pad token from its own vocabulary; return what was done.

    End: the model config's; a usual name in the vocabulary; the token of a new line; the first special token;
    the last token of the vocabulary. Pad: the model config's; a usual or reserved name; unk; the end token
    (which is learned all the same, see `encoding`). A tokenizer that writes an end token after every text by
    itself is told not to. No embedding is added.
    Raises `ConfigError` when one of the chosen tokens has no embedding in the model.
    """
    notes = []
    if getattr(tokenizer, "add_eos_token", False):
        tokenizer.add_eos_token = False
        notes.append("the tokenizer no longer adds an end token to every text; completions get theirs")
    if tokenizer.eos_token_id is None:
        tokenizer.eos_token = _end_token(tokenizer, model_config)
        notes.append(f"no end token: {tokenizer.eos_token!r} (id {tokenizer.eos_token_id}) takes its place")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = _pad_token(tokenizer, model_config)
        notes.append(f"no pad token: {tokenizer.pad_token!r} (id {tokenizer.pad_token_id}) takes its place")
    _check_size(tokenizer, model_config)
    return tuple(notes)


def encode_text(tokenizer: Any, text: str) -> list[int]:
    """Token ids of a text that stands at the start, with the tokenizer's own first token (BOS) or without.

    The one rule, the same as lm-eval's: what the tokenizer adds by default, but nothing when the text
    already begins with the first token's own text, as chat templates write it. An end token that the
    tokenizer adds is taken off.
    """
    first = prefix_id(tokenizer)
    written = first is not None and text.startswith(tokenizer.decode(first))
    ids = plain_ids(tokenizer, text, add_special_tokens=not written)
    end = tokenizer.eos_token_id
    if ids and ids[-1] == end and end is not None and not text.endswith(tokenizer.decode(end)):
        ids.pop()
    return ids


def plain_ids(tokenizer: Any, text: str, add_special_tokens: bool = False) -> list[int]:
    """The tokenizer's own encoding, without its warning about long texts: shortening comes later."""
    return list(tokenizer.encode(text, add_special_tokens=add_special_tokens, verbose=False))


def prefix_id(tokenizer: Any) -> int | None:
    """The token that stands in for an empty prompt: BOS, else the end token (as in lm-eval)."""
    first: int | None = tokenizer.bos_token_id
    return first if first is not None else tokenizer.eos_token_id


def leading_specials(tokenizer: Any, ids: list[int]) -> int:
    """How many of the first ids are the tokenizer's own start (0 or 1 for BOS), which shortening keeps."""
    first = prefix_id(tokenizer)
    return 1 if ids and ids[0] == first else 0


def _end_token(tokenizer: Any, model_config: Any) -> str:
    named = _config_tokens(tokenizer, model_config, "eos_token_id") + _in_vocabulary(tokenizer, END_TOKENS)
    if named:
        return named[0]
    newline = plain_ids(tokenizer, "\n")
    if newline and "\n" in tokenizer.decode(newline[-1:]):  # and not a token for the unknown
        return str(tokenizer.convert_ids_to_tokens(newline[-1]))
    special = [str(token) for token in tokenizer.all_special_tokens]
    return special[0] if special else str(tokenizer.convert_ids_to_tokens(len(tokenizer) - 1))


def _pad_token(tokenizer: Any, model_config: Any) -> str:
    named = _config_tokens(tokenizer, model_config, "pad_token_id") + _in_vocabulary(tokenizer, PAD_TOKENS)
    other = [token for token in named if token != tokenizer.eos_token]
    return str((other + [token for token in (tokenizer.unk_token, tokenizer.eos_token) if token])[0])


def _config_tokens(tokenizer: Any, model_config: Any, name: str) -> list[str]:
    """Tokens that the model's config names, if the tokenizer has them."""
    given = getattr(model_config, name, None)
    ids = given if isinstance(given, list) else [given]
    return [
        str(tokenizer.convert_ids_to_tokens(one))
        for one in ids
        if isinstance(one, int) and 0 <= one < len(tokenizer)
    ]


def _in_vocabulary(tokenizer: Any, tokens: Iterable[str]) -> list[str]:
    vocabulary = tokenizer.get_vocab()
    return [token for token in tokens if token in vocabulary]


def _check_size(tokenizer: Any, model_config: Any) -> None:
    size = getattr(model_config, "vocab_size", None)
    for name in ("eos_token", "pad_token"):
        token_id = getattr(tokenizer, f"{name}_id")
        if size is not None and token_id >= size:
            found = f"its {name} has id {token_id}, the model only {size} embeddings"
            raise ConfigError(explain("the tokenizer", found, "Use the model's own tokenizer"))
