"""The adapter's output beyond the reference: gradcheck, NaN and inf, dtypes, compile, meta."""

from __future__ import annotations

import math

import pytest
import torch

from neurolora.core.gate import modulation
from neurolora.core.orthogonality import coactivation, orthogonality_loss
from neurolora.core.update import adapter_update

GATES = ["none", "static", "token"]


def draws(gate: str, dtype=torch.float64, d=5, o=4, r=6, g=3, tokens=(3,)):
    generator = torch.Generator().manual_seed(11)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    gates = {"none": [], "static": [draw(r)], "token": [draw(g, d), draw(r, g), draw(r), draw(r)]}
    return [draw(*tokens, d), draw(r, d), draw(o, r), *gates[gate]]


def apply(x, A, B, *gate, top_k=2, **options):
    m = modulation(x, *gate) if len(gate) == 4 else (gate[0] if gate else None)
    return adapter_update(x, A, B, modulation=m, top_k=top_k, scaling=0.5, **options)


@pytest.mark.parametrize("routing", ["abs", "signed"])
@pytest.mark.parametrize("gate", GATES)
def test_gradcheck(gate, routing):
    values = [value.requires_grad_() for value in draws(gate)]
    assert torch.autograd.gradcheck(lambda *v: apply(*v, routing=routing)[0], values)


@pytest.mark.parametrize("gate", GATES)
def test_only_selected_ranks_get_gradient(gate):
    values = [value.requires_grad_() for value in draws(gate, tokens=())]
    dy, mask = apply(*values)
    dy.sum().backward()
    dB = values[2].grad
    assert (dB[:, ~mask] == 0).all()
    assert (dB[:, mask] != 0).all()


def test_no_gradient_for_a_frozen_projection():
    x, A, B = draws("none")
    dy, mask = apply(x.requires_grad_(), A, B.requires_grad_())
    dy.sum().backward()
    assert A.grad is None
    assert not mask.requires_grad


def test_a_zero_start_gives_zero_and_still_learns():
    x, A, B = draws("none")
    B = torch.zeros_like(B).requires_grad_()
    dy, _ = apply(x, A, B)
    assert torch.equal(dy, torch.zeros(3, 4, dtype=dy.dtype))
    dy.sum().backward()
    assert bool(B.grad.any())


def test_nan_is_seen():
    x, A, B = draws("none")
    x[1, 0] = math.nan
    dy, mask = apply(x, A, B)
    assert dy[1].isnan().all()
    assert dy[[0, 2]].isfinite().all()
    assert (mask.sum(-1) == 2).all()


def test_one_nan_rank_is_selected_and_seen():
    x, A, B, m = draws("static")
    m = m.clone()
    m[4] = math.nan
    dy, mask = apply(x, A, B, m)
    assert mask[:, 4].all()
    assert dy.isnan().all()


def test_infinity_in_a_rank_left_out_stays_out():
    x, A, B, m = draws("static")
    x, m = x.abs() + 0.1, m.abs()
    A = A.abs()
    m[0] = -math.inf  # signed routing never takes it
    leaves = [value.requires_grad_() for value in (x, B)]
    dy, mask = apply(x, A, B, m, routing="signed")
    assert not mask[:, 0].any()
    assert dy.isfinite().all()
    assert torch.autograd.grad(dy.sum(), leaves)[1].isfinite().all()


def test_the_bias_moves_the_selection_only():
    x, A, B = draws("none")
    bias = torch.zeros(6, dtype=x.dtype)
    bias[5] = 1e6
    dy, mask = apply(x, A, B, top_k=1, bias=bias)
    assert mask[:, 5].all()
    torch.testing.assert_close(dy, 0.5 * (x @ A[5]).unsqueeze(-1) * B[:, 5])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_working_dtypes(dtype):
    exact, _ = apply(*[value.double() for value in draws("token", dtype)], top_k=6)
    dy, mask = apply(*draws("token", dtype), top_k=6)
    assert dy.dtype == dtype
    assert mask.all()
    unit = torch.finfo(dtype).eps
    torch.testing.assert_close(dy.double(), exact, rtol=20 * unit, atol=20 * unit)


def whole(x, A, B, *gate):
    dy, mask = apply(x, A, B, *gate)
    return dy, mask, orthogonality_loss(B, coactivation(mask), 2)


@pytest.mark.parametrize("gate", GATES)
def test_one_graph_without_breaks(gate):
    values = draws(gate, torch.float32, tokens=(2, 3))
    compiled = torch.compile(whole, fullgraph=True, backend="eager")
    for found, expected in zip(compiled(*values), whole(*values), strict=True):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("gate", GATES)
def test_shapes_on_the_meta_device(gate):
    found = whole(*[value.to("meta") for value in draws(gate, torch.float32, tokens=(2, 3))])
    assert [tuple(value.shape) for value in found] == [(2, 3, 4), (2, 3, 6), ()]
