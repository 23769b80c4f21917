"""Exactly k active, ties to the lower index, NaN seen; counts and load balancing."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from neurolora.core.routing import active_counts, load_balance_step, routing_score, top_k_mask
from neurolora.errors import ConfigError

AWKWARD = [math.nan, math.inf, -math.inf, 0.0, -0.0, 1.0, -1.0, 2.5, 1e-45]
awkward_or_any = st.one_of(st.sampled_from(AWKWARD), st.floats(width=32))


@st.composite
def batches(draw):
    r = draw(st.integers(1, 40))
    row = st.lists(awkward_or_any, min_size=r, max_size=r)
    return draw(st.lists(row, min_size=0, max_size=4)), r, draw(st.integers(1, r))


def expected_row(row: list[float], k: int) -> list[bool]:
    """Sorted by Python: NaN first, then the larger, then the lower index."""
    order = sorted(range(len(row)), key=lambda i: (0, 0, i) if math.isnan(row[i]) else (1, -row[i], i))
    return [i in order[:k] for i in range(len(row))]


CALM = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}  # for a busy machine


@settings(**CALM)
@given(batches())
def test_exactly_k_and_which(batch):
    rows, r, k = batch
    score = torch.tensor(rows, dtype=torch.float32).reshape(len(rows), r)
    mask = top_k_mask(score, k)
    assert mask.dtype == torch.bool
    assert mask.shape == score.shape
    assert (mask.sum(-1) == k).all()
    # From the tensor, not from `rows`: rounding to float32 may make ties.
    assert mask.tolist() == [expected_row(row, k) for row in score.tolist()]


@settings(**CALM)
@given(st.permutations([float(v) for v in range(12)]), st.integers(1, 12), st.randoms())
def test_selection_follows_a_permutation(values, k, random):
    order = list(range(12))
    random.shuffle(order)
    score = torch.tensor(values)
    assert torch.equal(top_k_mask(score[order], k), top_k_mask(score, k)[order])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("r", [32, 100, 4096])
def test_all_equal_takes_the_first(dtype, r):
    mask = top_k_mask(torch.ones(3, r, dtype=dtype), 7)
    assert mask[:, :7].all()
    assert not mask[:, 7:].any()


@pytest.mark.parametrize("shape", [(4,), (1, 4), (3, 4), (2, 3, 4), (0, 4), (2, 0, 4)])
def test_any_leading_shape(shape):
    score = torch.randn(shape)
    assert top_k_mask(score, 2).shape == score.shape
    assert top_k_mask(score, 4).all()
    assert top_k_mask(score.to("meta"), 2).shape == score.shape


def test_views_of_other_strides():
    score = torch.randn(6, 5)
    assert torch.equal(top_k_mask(score.T, 2), top_k_mask(score.T.contiguous(), 2))


@pytest.mark.parametrize("k", [0, 5, -1])
def test_impossible_k(k):
    with pytest.raises(ConfigError, match=f"top_k is {k} and r is 4"):
        top_k_mask(torch.randn(2, 4), k)


def test_scores():
    h = torch.tensor([1.0, -3.0, 2.0], requires_grad=True)
    bias = torch.tensor([5.0, 0.0, 0.5])
    assert routing_score(h, "abs").tolist() == [1.0, 3.0, 2.0]
    assert routing_score(h, "signed").tolist() == [1.0, -3.0, 2.0]
    assert routing_score(h, "abs", bias).tolist() == [6.0, 3.0, 2.5]
    assert routing_score(h, "signed", bias).tolist() == [6.0, -3.0, 2.5]
    assert not routing_score(h, "abs", bias.requires_grad_()).requires_grad
    with pytest.raises(ConfigError, match="'magnitude'"):
        routing_score(h, "magnitude")


def test_counts_leave_padding_out():
    mask = torch.tensor([[[1, 1, 0], [0, 1, 1]], [[1, 0, 1], [1, 1, 0]]]).bool()
    counts, tokens = active_counts(mask)
    assert (counts.tolist(), int(tokens)) == ([3, 3, 2], 4)
    counts, tokens = active_counts(mask, torch.tensor([[1, 1], [1, 0]]).bool())
    assert (counts.tolist(), int(tokens)) == ([2, 2, 2], 3)
    counts, tokens = active_counts(mask, torch.zeros(2, 2).bool())
    assert (counts.tolist(), int(tokens)) == ([0, 0, 0], 0)
    assert counts.dtype == torch.int64


def test_balance_moves_towards_the_mean_frequency():
    bias = torch.tensor([0.0, 1.0, 2.0, 3.0])
    counts = torch.tensor([50, 25, 25, 0])  # k / r = 1/4 of 100 tokens is the mean
    after = load_balance_step(bias, counts, 100, k=1, rate=0.5)
    assert after.tolist() == [-0.5, 1.0, 2.0, 3.5]
    assert bias.tolist() == [0.0, 1.0, 2.0, 3.0]
    assert torch.equal(load_balance_step(bias, counts, torch.tensor(100), k=1, rate=0.5), after)


def test_balance_compares_frequencies_with_frequencies():
    """The step depends on how often, not on how many tokens were seen."""
    bias, counts = torch.zeros(3), torch.tensor([30, 20, 10])
    one = load_balance_step(bias, counts, 30, k=2, rate=0.1)
    assert torch.equal(load_balance_step(bias, counts * 1000, 30_000, k=2, rate=0.1), one)
    assert one.sign().tolist() == [-1.0, 0.0, 1.0]


def test_balance_without_tokens_stays():
    bias = torch.tensor([0.5, -0.5])
    assert torch.equal(load_balance_step(bias, torch.zeros(2, dtype=torch.int64), 0, k=1, rate=0.1), bias)


def test_balance_evens_out_a_lopsided_router():
    """One rank that always wins loses its lead within the steps that its lead divided by the rate allows."""
    h = torch.rand(400, 8, generator=torch.Generator().manual_seed(0))
    h[:, 0] += 2.0
    bias = torch.zeros(8)
    for _ in range(200):
        counts, tokens = active_counts(top_k_mask(routing_score(h, "abs", bias), 2))
        bias = load_balance_step(bias, counts, tokens, k=2, rate=0.02)
    counts, tokens = active_counts(top_k_mask(routing_score(h, "abs", bias), 2))
    assert (counts / tokens - 0.25).abs().max() < 0.1
