"""The gate's start: exactly one under "identity", half under "paper", and the same bits everywhere."""

from __future__ import annotations

import math

import pytest
import torch

from neurolora.core.gate import initial_gate, initial_static_gate, modulation, static_modulation
from neurolora.core.projection import make_projection
from neurolora.core.update import adapter_update
from neurolora.errors import ConfigError

G, D, R = 64, 96, 32


def start(init="identity", seed=0, name="layers.0.q_proj", g=G, d=D, r=R):
    return initial_gate(g, d, r, init=init, seed=seed, name=name)


def inputs(*shape: int, spread: float = 1.0) -> torch.Tensor:
    return spread * torch.randn(*shape, generator=torch.Generator().manual_seed(3))


def test_shapes_and_dtype():
    shapes = {name: tuple(value.shape) for name, value in start().items()}
    assert shapes == {"W1": (G, D), "W2": (R, G), "gamma": (R,), "beta": (R,)}
    assert {value.dtype for value in start("paper").values()} == {torch.float32}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("spread", [1e-3, 1.0, 1e3])
def test_identity_start_is_one_to_the_bit(dtype, spread):
    gate = {name: value.to(dtype) for name, value in start().items()}
    m = modulation(inputs(2, 5, D, spread=spread).to(dtype), **gate)
    assert torch.equal(m, torch.ones(2, 5, R, dtype=dtype))


@pytest.mark.parametrize("kind", ["token", "static"])
def test_step_zero_is_flylora_to_the_bit(kind):
    x = inputs(3, 7, D)
    A = make_projection(R, D, kind="ternary", density=0.25, scale="unit", seed=0, name="q").dense()
    B = inputs(40, R)
    m = modulation(x, **start()) if kind == "token" else static_modulation(**initial_static_gate(R))
    gated, gated_mask = adapter_update(x, A, B, modulation=m, top_k=8, scaling=0.5)
    plain, plain_mask = adapter_update(x, A, B, top_k=8, scaling=0.5)
    assert torch.equal(gated_mask, plain_mask)
    assert torch.equal(gated, plain)
    assert plain.abs().max() > 0


def test_the_identity_start_can_learn():
    """W2 = 0 must not be a dead end: it gets a gradient, and once it has moved W1 gets one too."""
    x = inputs(5, D)
    gate = {name: value.requires_grad_() for name, value in start().items()}
    m = modulation(x, **gate)
    gradients = torch.autograd.grad((m * inputs(5, R)).sum(), gate.values())
    moves = {name: bool(gradient.any()) for name, gradient in zip(gate, gradients, strict=True)}
    assert moves == {"W1": False, "W2": True, "gamma": True, "beta": True}
    moved = gate | {"W2": gate["W2"].detach() - 0.1 * gradients[1]}
    assert bool(torch.autograd.grad((modulation(x, **moved) * inputs(5, R)).sum(), gate["W1"])[0].any())


def test_paper_start_is_a_half_and_not_one():
    m = modulation(inputs(200, D), **start("paper"))
    assert m.mean().item() == pytest.approx(0.5, abs=0.02)
    assert 0.01 < m.std().item() < 0.1


def test_weights_are_spread_as_in_a_linear_layer():
    gate = start("paper", g=256, d=400)
    for weight, fan_in in ((gate["W1"], 400), (gate["W2"], 256)):
        bound = 1 / math.sqrt(fan_in)
        assert bound * 0.99 < weight.abs().max().item() <= bound
        assert weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.03)
        assert abs(weight.mean().item()) < 0.03 * bound


def test_same_bits_whatever_is_global():
    expected = start("paper")
    torch.manual_seed(5)
    try:
        torch.set_default_dtype(torch.float64)
        with torch.device("meta"):
            found = start("paper")
    finally:
        torch.set_default_dtype(torch.float32)
    for name, value in expected.items():
        assert torch.equal(found[name], value)
        assert found[name].dtype == torch.float32


def test_real_tensors_while_weights_are_made_empty():
    from accelerate import init_empty_weights

    with init_empty_weights(include_buffers=True):
        made = [*start("identity").values(), *initial_static_gate(R).values()]
    assert {value.device.type for value in made} == {"cpu"}


def test_seed_and_name_matter_and_the_start_does_not():
    W1 = start("paper")["W1"]
    assert torch.equal(W1, start("identity")["W1"])
    assert torch.equal(W1, start("paper", r=16)["W1"])  # W1 may be shared by gates of other ranks
    assert not torch.equal(W1, start("paper", seed=1)["W1"])
    assert not torch.equal(W1, start("paper", name="layers.1.q_proj")["W1"])
    square = start("paper", g=8, d=8, r=8)
    assert not torch.equal(square["W1"], square["W2"])


@pytest.mark.parametrize("wrong", [{"init": "ones"}, {"g": 0}, {"d": 0}, {"r": 0}])
def test_impossible_starts(wrong):
    with pytest.raises(ConfigError, match="gate"):
        start(**wrong)
