"""Log-likelihoods of continuations under a causal model: the one body behind every likelihood score.

Room: evaluation. Called by the lm-eval bridge and by `scores.py`. It runs the model it is given, as it is
(adapters unmerged, no gradient), and changes nothing of it.
"""

from __future__ import annotations

import inspect
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from neurolora.errors import DataError, explain


@dataclass(frozen=True)
class TokenPair:
    """What is given (`context`, at least one token) and what is scored (`continuation`, likewise)."""

    context: tuple[int, ...]
    continuation: tuple[int, ...]


@dataclass(frozen=True)
class ContinuationScore:
    """Sum of the continuation's token log-probabilities; whether greedy decoding would write it."""

    log_likelihood: float
    greedy: bool


@dataclass(frozen=True)
class _Group:
    """Pairs that ask for one and the same forward pass: equal up to the last token.

    All one-token choices of a question are such a group. `keep` is the longest continuation among them.
    """

    inputs: tuple[int, ...]
    members: tuple[int, ...]
    keep: int


def score_continuations(
    model: Any,
    pairs: Sequence[TokenPair],
    batch_size: int,
    max_length: int | None = None,
    advance: Callable[[int], object] | None = None,
) -> list[ContinuationScore]:
    """log p(continuation | context) = sum_t log softmax(logits_{t-1})[token_t], per pair, in float32.

    Inputs longer than `max_length` lose tokens on the left, never in the continuation. Rows are padded on
    the right, where a causal model cannot look, so neither padding nor neighbours enter a score.
    `advance` is told how many pairs each batch finished. Raises `DataError` for an empty context or
    continuation, or a continuation that is itself longer than `max_length`.
    """
    groups = _group(pairs, max_length)
    scores: list[ContinuationScore | None] = [None] * len(pairs)
    with torch.no_grad():
        for batch in _batches(groups, batch_size):
            for member, score in _score_batch(model, batch, pairs):
                scores[member] = score
            if advance is not None:
                advance(sum(len(group.members) for group in batch))
    return [score for score in scores if score is not None]


def _group(pairs: Sequence[TokenPair], max_length: int | None) -> list[_Group]:
    members: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for index, pair in enumerate(pairs):
        _check(pair, index, max_length)
        inputs = (pair.context + pair.continuation)[:-1]
        members[inputs if max_length is None else inputs[-max_length:]].append(index)
    return [
        _Group(inputs, tuple(found), max(len(pairs[index].continuation) for index in found))
        for inputs, found in members.items()
    ]


def _check(pair: TokenPair, index: int, max_length: int | None) -> None:
    if not pair.context or not pair.continuation:
        empty = "context" if not pair.context else "continuation"
        raise DataError(
            explain(f"scoring request {index}", f"its {empty} has no tokens", "Give it at least one token")
        )
    if max_length is not None and len(pair.continuation) > max_length:
        found = f"{len(pair.continuation)} tokens to score and a model that reads {max_length}"
        raise DataError(explain(f"scoring request {index}", found, "Shorten the answer"))


def _batches(groups: list[_Group], batch_size: int) -> Iterator[list[_Group]]:
    """Longest first: padding stays small, and too little memory shows at once."""
    ordered = sorted(groups, key=lambda group: (-len(group.inputs), group.inputs))
    for start in range(0, len(ordered), batch_size):
        yield ordered[start : start + batch_size]


def _score_batch(
    model: Any, batch: list[_Group], pairs: Sequence[TokenPair]
) -> Iterator[tuple[int, ContinuationScore]]:
    """One forward pass; what is read back from the device is two short lists, whatever the vocabulary."""
    width = max(len(group.inputs) for group in batch)
    inputs = torch.tensor([group.inputs + (0,) * (width - len(group.inputs)) for group in batch])
    logits = _logits(model, inputs, wanted=max(width - len(group.inputs) + group.keep for group in batch))
    ends = [len(group.inputs) - width + logits.shape[1] for group in batch]
    rows = [row for row, group in enumerate(batch) for _ in range(group.keep)]
    columns = [
        end - group.keep + step for end, group in zip(ends, batch, strict=True) for step in range(group.keep)
    ]
    log_probabilities = torch.log_softmax(logits[rows, columns].float(), dim=-1)  # (sum of keeps, vocabulary)
    asked = list(_asked(batch, pairs))
    slots = [slot for _, first, tokens in asked for slot in range(first, first + len(tokens))]
    targets = [token for _, _, tokens in asked for token in tokens]
    chosen = iter(log_probabilities[slots, targets].tolist())
    greedy = log_probabilities.argmax(dim=-1).tolist()
    for member, first, tokens in asked:
        likeliest = greedy[first : first + len(tokens)] == list(tokens)
        yield member, ContinuationScore(sum(next(chosen) for _ in tokens), likeliest)


def _asked(batch: list[_Group], pairs: Sequence[TokenPair]) -> Iterator[tuple[int, int, tuple[int, ...]]]:
    """(pair, its first row in the batch's log-probabilities, its tokens): each ends where its group ends."""
    end = 0
    for group in batch:
        end += group.keep
        for member in group.members:
            tokens = pairs[member].continuation
            yield member, end - len(tokens), tokens


def _logits(model: Any, inputs: Tensor, wanted: int) -> Tensor:
    """Logits (batch, at least `wanted` last positions, vocabulary); fewer are computed where a model can."""
    accepted = accepted_arguments(model)
    options: dict[str, Any] = {}
    if "logits_to_keep" in accepted:
        options["logits_to_keep"] = wanted
    if "use_cache" in accepted:
        options["use_cache"] = False
    logits: Tensor = model(input_ids=inputs.to(model.device), **options).logits
    return logits


def next_token_logits(model: Any, contexts: Sequence[Sequence[int]]) -> Tensor:
    """Logits of the token after each context: (rows, vocabulary), float32, on the model's device.

    Positions before the shortest context's last are not computed where a model can leave them out: contexts
    of like length cost least. Padding stands on the right, where a causal model cannot look.
    """
    width, shortest = max(map(len, contexts)), min(map(len, contexts))
    inputs = torch.tensor([(*context, *(0,) * (width - len(context))) for context in contexts])
    logits = _logits(model, inputs, wanted=width - shortest + 1)
    ends = [logits.shape[1] - 1 - (width - len(context)) for context in contexts]
    return logits[torch.arange(len(contexts)), ends].float()


def accepted_arguments(model: Any) -> frozenset[str]:
    """Names that the model's own forward takes, seen through PEFT's wrapper."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    return frozenset(inspect.signature(inner.forward).parameters)


def model_window(model: Any, tokenizer: Any = None) -> int | None:
    """How many tokens the model reads at once, by its config and its tokenizer; None if neither says."""
    config = getattr(model, "config", None)
    config = getattr(config, "text_config", None) or config
    names = ("max_position_embeddings", "n_positions", "n_ctx")
    sizes = [getattr(config, name, None) for name in names]
    sizes.append(getattr(tokenizer, "model_max_length", None))
    # Tokenizers without a limit say 1e30.
    known = [size for size in sizes if isinstance(size, int) and 0 < size < 10**9]
    return min(known) if known else None
