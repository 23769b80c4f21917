"""Eq. 7 as a contraction: equal to the double sum for any B, calm where B is zero, padding left out."""

from __future__ import annotations

import math

import pytest
import torch

from neurolora.core.orthogonality import coactivation, coactivation_sums, orthogonality_loss
from neurolora.core.routing import top_k_mask
from neurolora.errors import ConfigError


def drawn(*shape: int, seed: int = 0, dtype=torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def masks(*shape: int, k: int, seed: int = 1) -> torch.Tensor:
    return top_k_mask(drawn(*shape, seed=seed), k)


def double_sum(B: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Eq. 7, for each token a sum over pairs; a column without a direction has cosine 0."""
    flat = mask.reshape(-1, mask.shape[-1]).tolist()
    total = torch.zeros((), dtype=B.dtype)
    for token in flat:
        active = [i for i, on in enumerate(token) if on]
        inactive = [j for j, on in enumerate(token) if not on]
        for i in active:
            for j in inactive:
                norms = B[:, i].square().sum().sqrt() * B[:, j].square().sum().sqrt()
                if float(norms.detach()) > 0:
                    share = 1 / (len(active) * len(inactive) * len(flat))
                    total = total + share * (B[:, i].dot(B[:, j]) / norms) ** 2
    return total


def exact_coactivation(mask: torch.Tensor) -> torch.Tensor:
    sums, tokens = coactivation_sums(mask)
    return sums.double() / tokens


@pytest.mark.parametrize("spread", [1e-4, 1.0, 1e6])
@pytest.mark.parametrize(("o", "r", "k"), [(7, 5, 2), (3, 6, 1), (12, 4, 3), (1, 4, 2)])
def test_loss_and_gradient_are_those_of_the_double_sum(o, r, k, spread):
    B = (spread * drawn(o, r)).requires_grad_()
    mask = masks(2, 4, r, k=k)
    found = orthogonality_loss(B, exact_coactivation(mask), k)
    expected = double_sum(B, mask)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-14)
    mine, theirs = (torch.autograd.grad(loss, B)[0] for loss in (found, expected))
    torch.testing.assert_close(mine, theirs, rtol=1e-8, atol=1e-12 / spread)


def test_columns_of_widely_different_lengths():
    B = drawn(9, 5) * torch.tensor([1e-6, 1.0, 1e6, 1e-3, 1e3], dtype=torch.float64)
    mask = masks(6, 5, k=2)
    torch.testing.assert_close(
        orthogonality_loss(B, exact_coactivation(mask), 2), double_sum(B, mask), rtol=1e-10, atol=0
    )


def test_gradcheck():
    C = exact_coactivation(masks(6, 5, k=2))
    assert torch.autograd.gradcheck(lambda B: orthogonality_loss(B, C, 2), [drawn(7, 5).requires_grad_()])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_a_zero_start_costs_nothing_and_pulls_nowhere(dtype):
    B = torch.zeros(7, 5, dtype=dtype, requires_grad=True)
    loss = orthogonality_loss(B, coactivation(masks(6, 5, k=2)), 2)
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(B.grad, torch.zeros_like(B))


def test_single_zero_columns():
    B = drawn(7, 5)
    B[:, [0, 3]] = 0
    B.requires_grad_()
    mask = masks(6, 5, k=2)
    loss = orthogonality_loss(B, exact_coactivation(mask), 2)
    expected = double_sum(B, mask)
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=0)
    mine, theirs = torch.autograd.grad(loss, B)[0], torch.autograd.grad(expected, B)[0]
    torch.testing.assert_close(mine, theirs, rtol=1e-8, atol=1e-12)
    assert (mine[:, [0, 3]] == 0).all()
    assert mine[:, [1, 2, 4]].abs().sum() > 0


def test_nothing_inactive():
    B = drawn(7, 4).requires_grad_()
    loss = orthogonality_loss(B, coactivation(masks(3, 4, k=4)), 4)
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(B.grad, torch.zeros_like(B))


def test_extremes():
    mask = masks(6, 5, k=2)
    C = exact_coactivation(mask)
    orthogonal, _ = torch.linalg.qr(drawn(7, 5))
    assert orthogonality_loss(orthogonal, C, 2).item() == pytest.approx(0, abs=1e-28)
    parallel = drawn(7, 1).expand(7, 5)
    assert orthogonality_loss(parallel, C, 2).item() == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("o", [64, 512])
def test_expectation_under_random_columns(o):
    """Appendix A: columns from N(0, I / o) have an expected squared cosine of 1 / o."""
    r, k, draws = 32, 8, 20
    C = coactivation(masks(50, r, k=k))
    losses = [orthogonality_loss(drawn(o, r, seed=s) / math.sqrt(o), C, k).item() for s in range(draws)]
    pairs = r * (r - 1) / 2 * draws  # a squared cosine spreads by about sqrt(2) times its mean
    assert sum(losses) / draws == pytest.approx(1 / o, rel=5 * math.sqrt(2 / pairs))


# Co-activation


def test_coactivation_counts_active_with_inactive():
    mask = torch.tensor([[1, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]]).bool()
    expected = torch.tensor([[0, 2, 2], [1, 0, 1], [1, 1, 0]]) / 4
    found = coactivation(mask)
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)


@pytest.mark.parametrize("k", [1, 3, 8])
def test_coactivation_sums_up_to_the_pairs(k):
    C = coactivation(masks(3, 7, 8, k=k))
    assert C.diagonal().eq(0).all()
    assert C.sum().item() == pytest.approx(k * (8 - k), rel=1e-6)


def test_padding_is_left_out():
    mask = masks(2, 5, 6, k=2)
    keep = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 0]]).bool()
    rows = torch.cat([mask[0, :3], mask[1, :4]])
    assert torch.equal(coactivation(mask, keep), coactivation(rows))
    assert torch.equal(coactivation(mask, keep.long()), coactivation(rows))
    sums, tokens = coactivation_sums(mask, keep)
    assert int(tokens) == 7
    assert torch.equal(sums, coactivation_sums(rows)[0])
    assert not torch.equal(coactivation(mask, keep), coactivation(mask))


@pytest.mark.parametrize("shape", [(0, 6), (2, 0, 6), (2, 3, 6), (6,)])
def test_no_token_kept(shape):
    mask = masks(*shape, k=2)
    C = coactivation(mask, torch.zeros(shape[:-1]).bool())
    assert torch.equal(C, torch.zeros(6, 6))
    B = drawn(4, 6).requires_grad_()
    orthogonality_loss(B, C, 2).backward()
    assert torch.equal(B.grad, torch.zeros_like(B))


def test_micro_batches_add_up():
    mask = masks(9, 6, k=2)
    parts = [coactivation_sums(part) for part in (mask[:2], mask[2:3], mask[3:])]
    sums, tokens = sum(part[0] for part in parts), sum(part[1] for part in parts)
    assert torch.equal(sums / tokens, coactivation(mask))


def test_autocast_rounds_nothing():
    mask = masks(1000, 6, k=2)
    B = drawn(9, 6, dtype=torch.float32)
    C = coactivation(mask)
    loss = orthogonality_loss(B, C, 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(coactivation(mask), C)
        assert torch.equal(orthogonality_loss(B, C, 2), loss)


def test_at_least_float32():
    B = drawn(9, 6).to(torch.bfloat16)
    C = coactivation(masks(20, 6, k=2))
    loss = orthogonality_loss(B, C, 2)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, orthogonality_loss(B.float(), C, 2))


def test_no_gradient_through_the_counts():
    C = coactivation(masks(20, 6, k=2)).requires_grad_()
    B = drawn(9, 6).requires_grad_()
    orthogonality_loss(B, C, 2).backward()
    assert C.grad is None
    assert B.grad is not None


@pytest.mark.parametrize(("top_k", "size"), [(0, 6), (7, 6), (2, 5)])
def test_impossible_requests(top_k, size):
    with pytest.raises(ConfigError, match="orthogonality"):
        orthogonality_loss(drawn(9, 6), torch.zeros(size, size), top_k)
