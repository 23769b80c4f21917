"""Scores for models too small to answer: how likely the right answer is, token by token or among choices.

Room: evaluation. Called by the harness (completion tasks), by training (before and after) and by studies.
It runs the model as it is and puts its training mode back.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from neurolora.errors import DataError, explain
from neurolora.evaluation.encoding import encode_answer, encode_choices, scored_tokens
from neurolora.evaluation.likelihood import model_window, score_continuations
from neurolora.evaluation.statistics import mean, mean_stderr, ratio, ratio_stderr
from neurolora.tasks import Example


@dataclass(frozen=True)
class TokenLoss:
    """Mean negative log-likelihood of a completion's tokens, the end token among them.

    `value` = sum of losses / sum of tokens over all examples; `stderr` its standard error over examples;
    `per_example` each example's own mean; `tokens` its number of tokens; `greedy` whether greedy decoding
    writes just this completion. `float(loss)` is `value`.
    """

    value: float
    stderr: float
    per_example: list[float] = field(repr=False)
    tokens: list[int] = field(repr=False)
    greedy: list[bool] = field(repr=False)

    def __float__(self) -> float:
        return self.value

    @property
    def perplexity(self) -> float:
        """exp(value); infinite where that is more than a float holds."""
        return math.exp(self.value) if self.value < 700 else math.inf


@dataclass(frozen=True)
class LikelihoodAccuracy:
    """How often the likeliest choice is the right one. `float(accuracy)` is `value`.

    `value` compares sums of log-likelihoods, `normalised` divides them by the choice's characters, without
    the space before it (lm-eval's `acc` and `acc_norm`); `predictions` are those of `value`;
    `log_likelihoods` has a list for each example, one number a choice.
    """

    value: float
    stderr: float
    normalised: float
    normalised_stderr: float
    predictions: list[int] = field(repr=False)
    log_likelihoods: list[list[float]] = field(repr=False)

    def __float__(self) -> float:
        return self.value


def answer_token_loss(
    model: Any, tokenizer: Any, examples: Sequence[Example], batch_size: int = 8
) -> TokenLoss:
    """Mean loss per completion token over `examples`, encoded exactly as for training.

    Raises `DataError` without examples, or for a completion that does not fit into the model's window.
    """
    _need(examples, "answer_token_loss")
    window = model_window(model, tokenizer)
    pairs = [encode_answer(example, tokenizer, window) for example in examples]
    with in_eval_mode(model):
        scores = score_continuations(model, pairs, batch_size, window)
    sizes = scored_tokens(pairs)
    losses = [-score.log_likelihood for score in scores]
    return TokenLoss(
        value=ratio(losses, sizes),
        stderr=ratio_stderr(losses, sizes),
        per_example=[loss / size for loss, size in zip(losses, sizes, strict=True)],
        tokens=sizes,
        greedy=[score.greedy for score in scores],
    )


def label_likelihood_accuracy(
    model: Any, tokenizer: Any, examples: Sequence[Example], batch_size: int = 8
) -> LikelihoodAccuracy:
    """Accuracy of the likeliest choice over `examples`, which all have choices and an answer.

    Raises `DataError` without examples or for an example without choices.
    """
    _need(examples, "label_likelihood_accuracy")
    plain = next((example.source for example in examples if not example.choices), None)
    if plain is not None:
        do = "Use a multiple-choice or labelled-text task, or answer_token_loss"
        raise DataError(explain("label_likelihood_accuracy", f"the row of {plain} has no choices", do))
    window = model_window(model, tokenizer)
    encoded = [encode_choices(example, tokenizer, window) for example in examples]
    with in_eval_mode(model):
        flat = score_continuations(model, [pair for pairs in encoded for pair in pairs], batch_size, window)
    scores = iter(flat)
    likelihoods = [[next(scores).log_likelihood for _ in pairs] for pairs in encoded]
    return _accuracy(examples, likelihoods)


def _accuracy(examples: Sequence[Example], likelihoods: list[list[float]]) -> LikelihoodAccuracy:
    predictions = [_argmax(found) for found in likelihoods]
    normalised = [
        _argmax(
            [
                value / max(len(choice.removeprefix(" ")), 1)
                for value, choice in zip(found, example.choices, strict=True)
            ]
        )
        for found, example in zip(likelihoods, examples, strict=True)
    ]
    right = [float(found == example.answer) for found, example in zip(predictions, examples, strict=True)]
    right_normalised = [
        float(found == example.answer) for found, example in zip(normalised, examples, strict=True)
    ]
    return LikelihoodAccuracy(
        value=mean(right),
        stderr=mean_stderr(right),
        normalised=mean(right_normalised),
        normalised_stderr=mean_stderr(right_normalised),
        predictions=predictions,
        log_likelihoods=likelihoods,
    )


def _argmax(values: Sequence[float]) -> int:
    return max(range(len(values)), key=values.__getitem__)


def _need(examples: Sequence[Any], asked: str) -> None:
    if not examples:
        raise DataError(explain(asked, "no examples", "Give at least one"))


@contextlib.contextmanager
def in_eval_mode(model: Any) -> Iterator[None]:
    """Dropout off inside the block; every module's own mode is put back behind it."""
    before = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in before:
            module.training = True
