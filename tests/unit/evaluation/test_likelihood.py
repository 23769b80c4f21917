"""Continuation scores against one plain forward pass a pair; batch size and neighbours change nothing."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from neurolora.errors import DataError
from neurolora.evaluation.likelihood import TokenPair, model_window, next_token_logits, score_continuations


def random_pairs(count: int, vocabulary: int = 320) -> list[TokenPair]:
    """Contexts of 1 to 40 tokens; for each four one-token choices and two longer continuations."""
    draw = random.Random(0)
    pairs = []
    for _ in range(count):
        context = tuple(draw.randrange(3, vocabulary) for _ in range(draw.randrange(1, 40)))
        pairs += [TokenPair(context, (token,)) for token in draw.sample(range(3, vocabulary), 4)]
        stem = tuple(draw.randrange(3, vocabulary) for _ in range(4))
        pairs += [TokenPair(context, stem), TokenPair(context + stem[:1], stem[1:])]
    return pairs


def plain_score(model: Any, pair: TokenPair) -> tuple[float, bool]:
    """One pair, one forward pass, token by token in float64."""
    ids = pair.context + pair.continuation
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0].double()
    total, greedy = 0.0, True
    for place in range(len(pair.context), len(ids)):
        row = logits[place - 1]
        total += float(row[ids[place]] - torch.logsumexp(row, 0))
        greedy = greedy and int(row.argmax()) == ids[place]
    return total, greedy


@pytest.mark.parametrize("batch_size", [1, 3, 16, 1000])
def test_scores_are_those_of_a_plain_forward_pass(adapted: Any, batch_size: int) -> None:
    pairs = random_pairs(12)
    found = score_continuations(adapted, pairs, batch_size)
    expected = [plain_score(adapted, pair) for pair in pairs]
    assert [score.log_likelihood for score in found] == pytest.approx([one for one, _ in expected], abs=2e-4)
    assert [score.greedy for score in found] == [one for _, one in expected]


def test_greedy_is_seen_when_the_model_would_write_the_continuation(llama: Any) -> None:
    context = (5, 6, 7)
    ids = list(context)
    for _ in range(3):
        with torch.no_grad():
            ids.append(int(llama(torch.tensor([ids])).logits[0, -1].argmax()))
    other = (*ids[3:5], (ids[5] + 1) % 320)
    right, wrong = score_continuations(
        llama, [TokenPair(context, tuple(ids[3:])), TokenPair(context, other)], 4
    )
    assert right.greedy
    assert not wrong.greedy


def test_one_token_choices_share_one_forward_pass(llama: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = []
    forward = llama.forward

    def counted(input_ids: torch.Tensor, logits_to_keep: int = 0, use_cache: bool = True) -> Any:
        rows.append(tuple(input_ids.shape))
        return forward(input_ids=input_ids, logits_to_keep=logits_to_keep, use_cache=use_cache)

    monkeypatch.setattr(llama, "forward", counted)
    score_continuations(llama, [TokenPair((4, 5, 6), (token,)) for token in range(10, 14)], 16)
    assert rows == [(1, 3)]


def test_only_the_logits_that_are_needed_are_computed(llama: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = []
    forward = llama.forward

    def watched(input_ids: torch.Tensor, logits_to_keep: int = 0, use_cache: bool = True) -> Any:
        output = forward(input_ids=input_ids, logits_to_keep=logits_to_keep, use_cache=use_cache)
        kept.append(output.logits.shape[1])
        return output

    monkeypatch.setattr(llama, "forward", watched)
    score_continuations(llama, [TokenPair(tuple(range(3, 40)), (8, 9))], 16)
    assert kept == [2]


def test_a_model_without_logits_to_keep_scores_alike(llama: Any) -> None:
    class Plain(torch.nn.Module):
        device = torch.device("cpu")

        def forward(self, input_ids: torch.Tensor) -> Any:
            return SimpleNamespace(logits=llama(input_ids).logits)

    pairs = random_pairs(4)
    found = [score.log_likelihood for score in score_continuations(Plain(), pairs, 5)]
    expected = [score.log_likelihood for score in score_continuations(llama, pairs, 5)]
    assert found == pytest.approx(expected, abs=1e-4)


class Echo(torch.nn.Module):
    """A model whose logits at a place are 9 times the token there and its place; it says what it computed."""

    device = torch.device("cpu")
    computed = 0

    def forward(self, input_ids: torch.Tensor, logits_to_keep: int = 0) -> Any:
        places = torch.arange(input_ids.shape[1]).expand_as(input_ids)
        logits = torch.stack([9.0 * input_ids, places], dim=-1)[:, -logits_to_keep:]
        self.computed = logits.shape[1]
        return SimpleNamespace(logits=logits)


def test_the_next_token_is_read_behind_the_last_real_one() -> None:
    model = Echo()
    found = next_token_logits(model, [(1, 2, 3), (4, 5), (6, 7, 8)])
    assert found.tolist() == [[27.0, 2.0], [45.0, 1.0], [72.0, 2.0]]
    assert model.computed == 2  # nothing before the shorter context's end
    next_token_logits(model, [(1,) * 50, (2,) * 50])
    assert model.computed == 1


def test_a_long_context_is_cut_on_its_left(llama: Any) -> None:
    pair = TokenPair(tuple(range(3, 60)), (8, 9, 10))
    cut = score_continuations(llama, [pair], 1, max_length=20)[0]
    # 20 inputs predict the last of the continuation's tokens: 18 of the context, 2 of the continuation.
    same = score_continuations(llama, [TokenPair(pair.context[-18:], pair.continuation)], 1)[0]
    assert cut.log_likelihood == pytest.approx(same.log_likelihood, abs=1e-5)


@pytest.mark.parametrize(
    ("pair", "word"),
    [
        (TokenPair((), (3,)), "context"),
        (TokenPair((3,), ()), "continuation"),
        (TokenPair((3,), (4,) * 9), "9 tokens"),
    ],
)
def test_a_pair_that_cannot_be_scored_is_named(llama: Any, pair: TokenPair, word: str) -> None:
    with pytest.raises(DataError, match=rf"request 1.*{word}"):
        score_continuations(llama, [TokenPair((3,), (4,)), pair], 2, max_length=8)


def test_progress_counts_pairs(llama: Any) -> None:
    pairs, seen = random_pairs(5), []
    score_continuations(llama, pairs, 4, advance=seen.append)
    assert sum(seen) == len(pairs)
    assert len(seen) > 1


def test_the_window_is_the_smaller_of_config_and_tokenizer(llama: Any, tokenizer: Any) -> None:
    assert model_window(llama) == 256
    assert model_window(llama, SimpleNamespace(model_max_length=100)) == 100
    assert model_window(llama, SimpleNamespace(model_max_length=int(1e30))) == 256
    assert model_window(SimpleNamespace(config=SimpleNamespace())) is None
