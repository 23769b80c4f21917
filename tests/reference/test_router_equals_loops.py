"""The learned router equals a mixture of LoRA experts written as loops: outputs, choice, loss, gradients."""

from __future__ import annotations

import math

import pytest
import torch

from neurolora.core.router import (
    balance_loss,
    chosen_experts,
    expert_probabilities,
    initial_router,
    summed_probabilities,
)
from neurolora.core.update import adapter_update
from neurolora.errors import ConfigError

ALPHA = 16.0


def mixture_by_loops(tokens, W, A, B, experts, k):
    """Each expert a LoRA of its own, called by itself: dy of every token, and the balancing loss."""
    each = len(A) // experts
    outputs, choices, probabilities = [], [], []
    for x in tokens:
        logits = [sum(W[e, j] * x[j] for j in range(len(x))) for e in range(experts)]
        total = sum(torch.exp(v) for v in logits)
        p = [torch.exp(v) / total for v in logits]
        chosen = sorted(range(experts), key=lambda e: (-float(p[e].detach()), e))[:k]
        share = sum(p[e] for e in chosen)
        dy = torch.zeros(len(B), dtype=torch.float64)
        for e in chosen:
            rows = slice(e * each, (e + 1) * each)
            dy = dy + (ALPHA / len(A)) * (p[e] / share) * (B[:, rows] @ (A[rows] @ x))
        outputs.append(dy)
        choices.append(chosen)
        probabilities.append(p)
    loss = 0.0
    for e in range(experts):
        used = sum(e in chosen for chosen in choices) / (k * len(tokens))
        loss = loss + experts * used * sum(p[e] for p in probabilities) / len(tokens)
    return torch.stack(outputs), choices, loss


@pytest.mark.parametrize(("experts", "k", "each"), [(4, 2, 1), (3, 1, 2), (2, 2, 3), (1, 1, 4)])
def test_the_router_is_a_mixture_of_experts(experts: int, k: int, each: int) -> None:
    generator = torch.Generator().manual_seed(experts)
    r, d, o, n = experts * each, 5, 4, 7

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()

    x, W, A, B = draw(n, d), draw(experts, d), draw(r, d), draw(o, r)
    weights = draw(n, o).detach()
    expected, choices, expected_loss = mixture_by_loops(x, W, A, B, experts, k)
    wanted = torch.autograd.grad((expected * weights).sum() + 0.3 * expected_loss, (x, W, A, B))

    p = expert_probabilities(x, W)
    m, mask = chosen_experts(p, k, each)
    dy, used = adapter_update(x, A, B, modulation=m, top_k=k * each, scaling=ALPHA / r, mask=mask)
    counts = mask.sum(0)[::each]
    loss = balance_loss(summed_probabilities(p), counts, torch.tensor(n), k)
    found = torch.autograd.grad((dy * weights).sum() + 0.3 * loss, (x, W, A, B))

    torch.testing.assert_close(dy, expected)
    torch.testing.assert_close(loss, torch.as_tensor(expected_loss))
    assert [row.nonzero().flatten()[::each].floor_divide(each).tolist() for row in used] == [
        sorted(chosen) for chosen in choices
    ]
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other)


def test_the_loss_is_one_when_all_are_used_alike_and_more_when_not() -> None:
    tokens = torch.tensor(8)
    even = balance_loss(torch.full((4,), 2.0), torch.full((4,), 4), tokens, 2)
    one_sided = balance_loss(torch.tensor([8.0, 0.0, 0.0, 0.0]), torch.tensor([8, 8, 0, 0]), tokens, 2)
    assert even.item() == pytest.approx(1.0)
    assert one_sided.item() == pytest.approx(2.0)


def test_padding_counts_for_nothing() -> None:
    p = torch.softmax(torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0)), -1)
    keep = torch.tensor([[True, True, False], [True, False, False]])
    p.requires_grad_()
    expected, found = p[0, 0] + p[0, 1] + p[1, 0], summed_probabilities(p, keep)
    torch.testing.assert_close(found, expected)
    weights = torch.arange(4.0)
    wanted = torch.autograd.grad((expected * weights).sum(), p)[0]
    torch.testing.assert_close(torch.autograd.grad((found * weights).sum(), p)[0], wanted)


def test_no_token_gives_no_loss_and_no_nan() -> None:
    loss = balance_loss(torch.zeros(4), torch.zeros(4, dtype=torch.int64), torch.tensor(0), 2)
    assert loss.item() == 0.0


def test_equal_experts_go_by_the_lower_index_and_too_many_are_refused() -> None:
    p = torch.full((1, 4), 0.25)
    m, mask = chosen_experts(p, 2, 2)
    assert mask.tolist() == [[True] * 4 + [False] * 4]
    assert m.tolist() == [[0.5] * 4 + [0.0] * 4]
    with pytest.raises(ConfigError, match="top_k is 5"):
        chosen_experts(p, 5, 2)


def test_the_start_is_that_of_a_linear_layer_and_follows_seed_and_name() -> None:
    W = initial_router(8, 64, seed=0, name="a")["W1"]
    assert W.shape == (8, 64)
    assert W.abs().max() <= 1 / math.sqrt(64)
    assert W.std().item() == pytest.approx(1 / math.sqrt(3 * 64), rel=0.1)
    assert W.equal(initial_router(8, 64, seed=0, name="a")["W1"])
    assert not W.equal(initial_router(8, 64, seed=1, name="a")["W1"])
    assert not W.equal(initial_router(8, 64, seed=0, name="b")["W1"])
