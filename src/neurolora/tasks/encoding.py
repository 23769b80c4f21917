"""Example -> token ids and labels: loss on the completion and its end token alone, and no answer cut off.

Room: tasks. Training and evaluation call it, so that both see the same ids; it touches nothing.

The border between prompt and completion is lm-eval's: spaces at the prompt's end belong to the completion,
the whole text is encoded, and what follows the prompt's own ids is the completion. Where a token would span
the border (a completion without a leading space may melt into the prompt), the completion is encoded by
itself, since the prompt's ids are all that a model has when it generates; `joined` counts such rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from neurolora.errors import ConfigError, DataError, explain
from neurolora.tasks.template import Example, Message, split_trailing_space
from neurolora.tasks.tokens import encode_text, leading_specials, plain_ids, prefix_id

IGNORED = -100  # the label that cross entropy leaves out
Overlong = Literal["shorten", "drop"]


@dataclass(frozen=True)
class EncodedPair:
    """Ids of a prompt and of its completion (without an end token); `joined` when a token would span both."""

    prompt: list[int]
    completion: list[int]
    joined: bool = False


@dataclass(frozen=True)
class EncodingReport:
    """What became of the examples: how many, and of how many tokens."""

    total: int
    kept: int
    shortened: int
    dropped: int
    joined: int
    longest: int
    tokens: int
    completion_tokens: int

    def to_dict(self) -> dict[str, int]:
        """Plain JSON values."""
        return asdict(self)

    @classmethod
    def join(cls, reports: Sequence[EncodingReport]) -> EncodingReport:
        """One report for all: the sums, and the longest of all rows."""
        sums = {f.name: sum(getattr(one, f.name) for one in reports) for f in fields(cls)}
        return cls(**{**sums, "longest": max(one.longest for one in reports)})


def encode_pair(tokenizer: Any, prompt: str, completion: str) -> EncodedPair:
    """Ids of a prompt and a completion of it, equal to those that lm-eval scores.

    For an empty prompt the prompt is the tokenizer's first token (BOS, else the end token).
    Raises `DataError` if the completion has no tokens.
    """
    prompt, spaces = split_trailing_space(prompt)
    completion = spaces + completion
    if not prompt:
        pair = _after_nothing(tokenizer, completion)
    else:
        whole = encode_text(tokenizer, prompt + completion)
        start = encode_text(tokenizer, prompt)
        clean = whole[: len(start)] == start and len(whole) > len(start)
        rest = whole[len(start) :] if clean else encode_after(tokenizer, completion)
        pair = EncodedPair(start, rest, joined=not clean)
    if not pair.completion:
        found = f"{completion!r} has no tokens"
        raise DataError(explain("encoding a completion", found, "Fill it in, or use another tokenizer"))
    return pair


def encode_after(tokenizer: Any, text: str) -> list[int]:
    """Ids of a text that follows another: without the space some tokenizers put at every start."""
    anchor = plain_ids(tokenizer, "\n")
    both = plain_ids(tokenizer, "\n" + text)
    if anchor and both[: len(anchor)] == anchor and len(both) > len(anchor):
        return both[len(anchor) :]
    return plain_ids(tokenizer, text)


def prompt_text(prompt: str | Sequence[Message], tokenizer: Any) -> str:
    """The prompt as the model is given it: a chat is rendered by the tokenizer's template."""
    return prompt if isinstance(prompt, str) else _apply_chat_template(tokenizer, list(prompt), generate=True)


def encode_prompt(prompt: str | Sequence[Message], tokenizer: Any) -> list[int]:
    """Ids to generate from: the same as stand before the completion in training."""
    text = prompt.rstrip() if isinstance(prompt, str) else prompt_text(prompt, tokenizer)
    first = prefix_id(tokenizer)
    return encode_text(tokenizer, text) if text or first is None else [first]


def encode(
    example: Example, tokenizer: Any, max_length: int, overlong: Overlong = "shorten"
) -> dict[str, list[int]] | None:
    """`input_ids` = prompt, completion, end token; `labels` the same with -100 on the prompt.

    Both are lists of equal length, at most `max_length`.

    An over-long row loses tokens at the left of its prompt, after BOS (`shorten`), or is None (`drop`).
    Raises `DataError` when the completion alone does not fit (`shorten`), or has no tokens.
    """
    row, _ = _encode_one(example, tokenizer, max_length, overlong)
    return row


def encode_all(
    examples: Sequence[Example], tokenizer: Any, max_length: int, overlong: Overlong = "shorten"
) -> tuple[list[dict[str, list[int]]], EncodingReport]:
    """All rows that are kept, in order, and the count of what was shortened and dropped.

    Raises `DataError` when nothing is kept.
    """
    rows: list[dict[str, list[int]]] = []
    shortened = joined = 0
    for example in examples:
        row, marks = _encode_one(example, tokenizer, max_length, overlong)
        if row is not None:
            rows.append(row)
            shortened += marks.shortened
            joined += marks.joined
    if not rows:
        found = f"none of {len(examples)} rows fits into max_length {max_length}"
        raise DataError(explain("encoding", found, "Raise max_length, or set overlong to shorten"))
    lengths = [len(row["input_ids"]) for row in rows]
    learned = sum(label != IGNORED for row in rows for label in row["labels"])
    dropped = len(examples) - len(rows)
    report = EncodingReport(
        len(examples), len(rows), shortened, dropped, joined, max(lengths), sum(lengths), learned
    )
    return rows, report


def completion_fits(example: Example, tokenizer: Any, max_length: int) -> bool:
    """Whether a completion with its end leaves room for some of the prompt; if not, `shorten` raises."""
    pair = encode_example(example, tokenizer)
    room = max_length - len(_ended(pair.completion, tokenizer))
    return _shorten(pair.prompt, room, tokenizer) is not None


@dataclass(frozen=True)
class _Marks:
    shortened: bool
    joined: bool


def _encode_one(
    example: Example, tokenizer: Any, max_length: int, overlong: Overlong
) -> tuple[dict[str, list[int]] | None, _Marks]:
    if overlong not in ("shorten", "drop"):
        raise ConfigError(explain("overlong", f"unknown choice {overlong!r}", "Use 'shorten' or 'drop'"))
    pair = encode_example(example, tokenizer)
    completion = _ended(pair.completion, tokenizer)
    marks = _Marks(len(pair.prompt) + len(completion) > max_length, pair.joined)
    if marks.shortened and overlong == "drop":
        return None, marks
    prompt = _shorten(pair.prompt, max_length - len(completion), tokenizer)
    if prompt is None:
        found = f"the completion alone has {len(completion)} tokens with its end, max_length is {max_length}"
        do = "Raise max_length, or set overlong to drop"
        raise DataError(explain(f"encoding {example.source or 'an example'}", found, do))
    ids = prompt + completion
    return {"input_ids": ids, "labels": [IGNORED] * len(prompt) + completion}, marks


def encode_example(example: Example, tokenizer: Any) -> EncodedPair:
    """Ids of an example's prompt and completion, without the end token and without shortening."""
    if isinstance(example.prompt, str):
        return encode_pair(tokenizer, example.prompt, example.completion)
    return _encode_chat(example.prompt, example.completion, tokenizer)


def _encode_chat(messages: list[Message], answer: str, tokenizer: Any) -> EncodedPair:
    """The template's own text around the answer, up to the end of the turn, is learned with it."""
    prompt = _apply_chat_template(tokenizer, messages, generate=True)
    turn = {"role": "assistant", "content": answer}
    whole = _apply_chat_template(tokenizer, [*messages, turn], generate=False)
    rest = whole[len(prompt) :].rstrip() if whole.startswith(prompt) else answer
    start = encode_text(tokenizer, prompt)
    both = encode_text(tokenizer, prompt + rest)
    clean = both[: len(start)] == start and len(both) > len(start)
    return EncodedPair(start, both[len(start) :] if clean else encode_after(tokenizer, rest), not clean)


def _apply_chat_template(tokenizer: Any, messages: list[Message], generate: bool) -> str:
    if getattr(tokenizer, "chat_template", None) is None:
        do = "Use an instruction-tuned model's tokenizer, set tokenizer.chat_template, or use task completion"
        raise ConfigError(explain("rendering a chat", "the tokenizer has no chat template", do))
    try:
        return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=generate))
    except Exception as error:  # templates raise what they like, e.g. for a role they do not know
        found = f"the tokenizer's chat template refused it ({(str(error).splitlines() or [''])[0]})"
        raise DataError(explain("rendering a chat", found, "Use the roles and the order it knows")) from error


def _shorten(prompt: list[int], room: int, tokenizer: Any) -> list[int] | None:
    """The prompt's start token and its last ids, `room` in all; None if not even one id has room."""
    if len(prompt) <= room:
        return prompt
    kept = leading_specials(tokenizer, prompt)
    if room < max(kept, 1):
        return None
    tail = room - kept
    return prompt[:kept] + (prompt[-tail:] if tail else [])


def _ended(completion: list[int], tokenizer: Any) -> list[int]:
    """A completion with an end."""
    return completion + ([] if _has_ended(completion, tokenizer) else [_end_id(tokenizer)])


def _has_ended(completion: list[int], tokenizer: Any) -> bool:
    """Whether the text itself ends with the end token, or a special token that ends a chat's turn."""
    return completion[-1] in tokenizer.all_special_ids and completion[-1] != tokenizer.unk_token_id


def _end_id(tokenizer: Any) -> int:
    if tokenizer.eos_token_id is None:
        do = "Call prepare_tokenizer(tokenizer, model.config) first"
        raise ConfigError(explain("encoding", "the tokenizer has no end token", do))
    return int(tokenizer.eos_token_id)


def _after_nothing(tokenizer: Any, completion: str) -> EncodedPair:
    first = prefix_id(tokenizer)
    ids = plain_ids(tokenizer, completion)
    if first is None:
        return EncodedPair(ids[:1], ids[1:])
    return EncodedPair(ids[:1], ids[1:]) if ids[:1] == [first] else EncodedPair([first], ids)
