"""What a model gives each row to choose from, whole or reduced batch by batch: what estimates are made of.

Room: evaluation. `accuracy_estimate.py`, the command `estimate` and the search of merges' weights call it. It
runs the model as it is and changes nothing of it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from neurolora.errors import DataError, explain
from neurolora.evaluation.classification import classifier_logits, is_classifier
from neurolora.evaluation.encoding import encode_answer, encode_choices
from neurolora.evaluation.likelihood import model_window, next_token_logits, score_continuations
from neurolora.evaluation.scores import in_eval_mode
from neurolora.tasks import Example, Row, TaskRequest, make_example, template_of

#: What fills up a row with fewer choices than another: so far below its best that it counts for nothing.
ABSENT = 1e4
NO_ANSWER = " ?"  # in the place of every answer that is not to be read
LABELS, CHOICES, FIRST_TOKENS = (
    "logits of the labels",
    "log-likelihoods of the choices",
    "logits of the first answer token",
)
Advance = Callable[[int], object]
#: Logits (B, C) to what is kept of them, (B, ...): a row's must depend on no other row.
Reduce = Callable[[NDArray[np.float32]], NDArray[Any]]


class AnswerLogits(NamedTuple):
    """logits: (N, C) float32. gold: (N,), the right column of each row. what: of what the logits are."""

    logits: NDArray[np.float32]
    gold: NDArray[np.int64]
    what: str

    @property
    def accuracy(self) -> float:
        """The share of rows whose largest logit is the right one."""
        return float((self.logits.argmax(axis=1) == self.gold).mean())


class AnswerScores(NamedTuple):
    """scores: (N,), of each row's logits. right: (N,) bool, whether the largest was the right one.

    what: of what the logits are. columns: how many a row has; None for choices, of which a row may have more
    or fewer.
    """

    scores: NDArray[np.float64]
    right: NDArray[np.bool_]
    what: str
    columns: int | None

    @property
    def accuracy(self) -> float:
        """The share of right rows."""
        return float(self.right.mean())


def answer_logits(
    model: Any,
    tokenizer: Any,
    request: TaskRequest,
    rows: Sequence[Row],
    batch_size: int = 32,
    advance: Advance = lambda count: None,
) -> AnswerLogits:
    """Logits of a classifier's labels; else log-likelihoods of the choices; else of the first answer token.

    rows: canonical rows of the request's task (`load_rows`). The last is for tasks without choices: (N, V),
    and what is right is then the first token of the right answer. Raises DataError without rows.
    """
    return AnswerLogits(*_reduced(model, tokenizer, request, rows, _whole, batch_size, advance))


def answer_scores(
    model: Any,
    tokenizer: Any,
    request: TaskRequest,
    rows: Sequence[Row],
    score: Reduce,
    batch_size: int = 32,
    advance: Advance = lambda count: None,
) -> AnswerScores:
    """`answer_logits`, of which is kept whether each row is right, and `score` of its logits, (B, C) to (B,).

    So no more than a batch of a large vocabulary is ever held. Raises DataError without rows.
    """

    def reduce(logits: NDArray[np.float32]) -> NDArray[np.float64]:
        widths = np.full(len(logits), logits.shape[1])
        return np.column_stack([score(logits), logits.argmax(axis=1), widths])

    found, gold, what = _reduced(model, tokenizer, request, rows, reduce, batch_size, advance)
    columns = None if what == CHOICES else int(found[0, 2])
    return AnswerScores(found[:, 0], found[:, 1] == gold, what, columns)


def _reduced(
    model: Any,
    tokenizer: Any,
    request: TaskRequest,
    rows: Sequence[Row],
    reduce: Reduce,
    batch_size: int,
    advance: Advance,
) -> tuple[NDArray[Any], NDArray[np.int64], str]:
    """(what is kept of each row's logits, the right columns, of what the logits are)."""
    if not rows:
        raise DataError(explain("computing answers' logits", "there are no rows", "Give at least one"))
    if is_classifier(model):
        logits = classifier_logits(model, tokenizer, rows, batch_size, advance=advance).numpy()
        for row, own in zip(rows, logits, strict=True):
            _refuse_nan(own, row.get("source", ""))
        return reduce(logits), np.array([row["label"] for row in rows], dtype=np.int64), LABELS
    template = template_of(request)
    examples = [make_example(template, row) for row in rows]
    found = example_scores(model, tokenizer, examples, reduce, batch_size, advance)
    if has_choices(examples):
        return found, np.array([example.answer for example in examples], dtype=np.int64), CHOICES
    window = model_window(model, tokenizer)
    first = [encode_answer(example, tokenizer, window).continuation[0] for example in examples]
    return found, np.array(first, dtype=np.int64), FIRST_TOKENS


def has_choices(examples: Sequence[Example]) -> bool:
    """Whether all of them have choices, so that these are compared, and not tokens."""
    return all(example.choices for example in examples)


def example_logits(
    model: Any,
    tokenizer: Any,
    examples: Sequence[Example],
    batch_size: int = 32,
    advance: Advance = lambda count: None,
) -> NDArray[np.float32]:
    """Log-likelihoods of the choices (N, most choices), or logits of the first answer token (N, V).

    No answer is read. A row with fewer choices than another is filled up with what counts for nothing.
    """
    return example_scores(model, tokenizer, examples, _whole, batch_size, advance)


def example_scores(
    model: Any,
    tokenizer: Any,
    examples: Sequence[Example],
    reduce: Reduce,
    batch_size: int = 32,
    advance: Advance = lambda count: None,
) -> NDArray[Any]:
    """`reduce` of `example_logits`, (B, C) to (B, ...) batch by batch: (N, ...), in their order."""
    with in_eval_mode(model):
        if has_choices(examples):
            return reduce(_of_choices(model, tokenizer, examples, batch_size, advance))
        return _of_first_tokens(model, tokenizer, examples, reduce, batch_size, advance)


def _whole(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    return logits


def _of_choices(
    model: Any, tokenizer: Any, examples: Sequence[Example], batch_size: int, advance: Advance
) -> NDArray[np.float32]:
    window = model_window(model, tokenizer)
    encoded = [encode_choices(example, tokenizer, window) for example in examples]
    flat = iter(score_continuations(model, [pair for own in encoded for pair in own], batch_size, window))
    advance(len(encoded))
    logits = np.empty((len(encoded), max(map(len, encoded))), dtype=np.float32)
    for row, (own, example) in enumerate(zip(encoded, examples, strict=True)):
        found = [next(flat).log_likelihood for _ in own]
        _refuse_nan(np.array(found), example.source)
        logits[row, : len(own)], logits[row, len(own) :] = found, max(found) - ABSENT
    return logits


def _refuse_nan(logits: NDArray[Any], source: str) -> None:
    """Raises DataError: nothing can be made of a model that gives no number."""
    if np.isnan(logits).any():
        found = f"the model gives NaN for {source or 'a row'}"
        do = "Check the adapter (neurolora inspect), or load it in another dtype"
        raise DataError(explain("computing answers' logits", found, do))


def _of_first_tokens(
    model: Any,
    tokenizer: Any,
    examples: Sequence[Example],
    reduce: Reduce,
    batch_size: int,
    advance: Advance,
) -> NDArray[Any]:
    window = model_window(model, tokenizer)
    unread = [dataclasses.replace(example, completion=NO_ANSWER) for example in examples]
    contexts = [encode_answer(example, tokenizer, window).context for example in unread]
    # Longest first: padding stays small, and too little memory shows at once.
    order = sorted(range(len(contexts)), key=lambda index: -len(contexts[index]))
    parts = []
    for start in range(0, len(order), batch_size):
        batch = [contexts[index] for index in order[start : start + batch_size]]
        with torch.no_grad():
            logits = next_token_logits(model, batch).cpu().numpy()
        for place, row in zip(order[start : start + batch_size], logits, strict=True):
            _refuse_nan(row, examples[place].source)
        parts.append(reduce(logits))
        advance(len(batch))
    return np.concatenate(parts)[np.argsort(order)]
