"""core equals the paper's equations as loops: forward, selection, losses and all gradients, float64."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import pytest
import torch

from neurolora.core.gate import modulation, static_modulation
from neurolora.core.orthogonality import coactivation, coactivation_sums, orthogonality_loss
from neurolora.core.update import adapter_update, low_rank_activations

ALPHA, WEIGHT, GATE_WIDTH = 16.0, 0.1, 3


@dataclass(frozen=True)
class Case:
    name: str
    shape: tuple[int, ...]
    r: int
    k: int
    o: int = 4


CASES = [
    Case("2-d", (5, 6), 5, 2),
    Case("3-d", (2, 3, 6), 5, 2),
    Case("one-token", (1, 6), 5, 3),
    Case("one-token-3-d", (1, 1, 6), 4, 1),
    Case("bare-vector", (6,), 5, 2),
    Case("empty", (0, 6), 5, 2),
    Case("empty-3-d", (2, 0, 6), 5, 2),
    Case("all-active", (4, 6), 4, 4),
    Case("wide-output", (3, 2), 6, 3, o=9),
]


def tensors(case: Case, gate: str) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(zlib.crc32(f"{case} {gate}".encode()))

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    d, r = case.shape[-1], case.r
    values = {"x": draw(*case.shape), "A": draw(r, d), "B": draw(case.o, r)}
    if gate == "token":
        gates = {"W1": draw(GATE_WIDTH, d), "W2": draw(r, GATE_WIDTH), "gamma": draw(r), "beta": draw(r)}
        values |= gates
    elif gate == "static":
        values["gamma"] = draw(r)
    for value in values.values():
        value.requires_grad_()
    return values | {"weights": draw(*case.shape[:-1], case.o), "bias": draw(r)}


def by_core(v, case, gate, routing, bias):
    m = None
    if gate == "token":
        m = modulation(v["x"], v["W1"], v["W2"], v["gamma"], v["beta"])
    elif gate == "static":
        m = static_modulation(v["gamma"])
    h_mod = low_rank_activations(v["x"], v["A"], m)
    dy, mask = adapter_update(
        v["x"],
        v["A"],
        v["B"],
        modulation=m,
        top_k=case.k,
        scaling=ALPHA / case.r,
        routing=routing,
        bias=bias,
    )
    sums, tokens = coactivation_sums(mask)
    # Divided in float64: `coactivation` itself is float32, and is compared apart.
    orth = orthogonality_loss(v["B"], sums.double() / tokens.clamp(min=1), case.k)
    total = (dy * v["weights"]).sum() + WEIGHT * orth
    return h_mod, mask, dy, orth, total


def by_loops(paper, v, case, gate, routing, bias):
    gate_values = {
        "none": None,
        "static": (v.get("gamma"),),
        "token": (v.get("W1"), v.get("W2"), v.get("gamma"), v.get("beta")),
    }[gate]
    tokens = list(v["x"].reshape(-1, case.shape[-1]))
    weights = list(v["weights"].reshape(-1, case.o))
    h_mods, sets, outputs, orth = paper.run(tokens, v["A"], v["B"], gate_values, case.k, ALPHA, routing, bias)
    task = 0.0
    for token_output, token_weights in zip(outputs, weights, strict=True):
        for value, weight in zip(token_output, token_weights, strict=True):
            task = task + value * weight
    return h_mods, sets, outputs, orth, paper.total_loss(task, orth, WEIGHT)


def stacked(rows, width: int, shape: tuple[int, ...]) -> torch.Tensor:
    flat = [torch.stack([torch.as_tensor(v, dtype=torch.float64) for v in row]) for row in rows]
    whole = torch.stack(flat) if flat else torch.zeros(0, width, dtype=torch.float64)
    return whole.reshape(*shape, width)


def close(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("biased", [False, True], ids=["plain", "biased"])
@pytest.mark.parametrize("routing", ["abs", "signed"])
@pytest.mark.parametrize("gate", ["none", "static", "token"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_forward_and_gradients(paper, case, gate, routing, biased):
    v = tensors(case, gate)
    bias = v["bias"] if biased else None
    leading = case.shape[:-1]

    h_mod, mask, dy, orth, total = by_core(v, case, gate, routing, bias)
    loop_h, loop_sets, loop_dy, loop_orth, loop_total = by_loops(paper, v, case, gate, routing, bias)

    close(h_mod, stacked(loop_h, case.r, leading))
    expected_mask = [[i in chosen for i in range(case.r)] for chosen in loop_sets]
    assert mask.reshape(-1, case.r).tolist() == expected_mask
    assert mask.shape == h_mod.shape
    close(dy, stacked(loop_dy, case.o, leading))
    close(orth, torch.as_tensor(loop_orth, dtype=torch.float64))
    close(total, torch.as_tensor(loop_total, dtype=torch.float64))

    leaves = {name: value for name, value in v.items() if value.requires_grad}
    found = torch.autograd.grad(total, leaves.values(), allow_unused=True, materialize_grads=True)
    if isinstance(loop_total, torch.Tensor):
        expected = torch.autograd.grad(loop_total, leaves.values(), allow_unused=True, materialize_grads=True)
    else:  # no token, so the loops made no graph at all
        expected = tuple(torch.zeros_like(value) for value in leaves.values())
    for mine, theirs in zip(found, expected, strict=True):
        close(mine, theirs)


@pytest.mark.parametrize("gate", ["none", "static", "token"])
def test_gradients_are_the_slopes_of_the_loops(paper, gate):
    """Without any autograd on the reference's side: central differences on Python floats."""
    case = Case("slopes", (3, 4), 4, 2, o=3)
    v = tensors(case, gate)
    total = by_core(v, case, gate, "abs", None)[-1]
    leaves = {name: value for name, value in v.items() if value.requires_grad}
    gradients = dict(zip(leaves, torch.autograd.grad(total, leaves.values()), strict=True))
    plain = {name: value.detach().clone() for name, value in v.items()}

    def loss_at(name, position, step):
        moved = dict(plain)
        moved[name] = plain[name].clone()
        moved[name].view(-1)[position] += step
        lists = {key: value.tolist() for key, value in moved.items()}
        gates = {"none": None, "static": (lists.get("gamma"),)}.get(
            gate, tuple(lists.get(key) for key in ("W1", "W2", "gamma", "beta"))
        )
        _, _, outputs, orth = paper.run(lists["x"], lists["A"], lists["B"], gates, case.k, ALPHA)
        task = sum(
            value * weight
            for row, weights in zip(outputs, lists["weights"], strict=True)
            for value, weight in zip(row, weights, strict=True)
        )
        return paper.total_loss(task, orth, WEIGHT)

    step = 1e-6
    for name, gradient in gradients.items():
        slopes = [
            (loss_at(name, position, step) - loss_at(name, position, -step)) / (2 * step)
            for position in range(gradient.numel())
        ]
        expected = torch.tensor(slopes, dtype=torch.float64).reshape(gradient.shape)
        torch.testing.assert_close(gradient, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_coactivation_is_the_mean_over_tokens(paper, case):
    v = tensors(case, "none")
    _, mask, *_ = by_core(v, case, "none", "abs", None)
    _, sets, *_ = by_loops(paper, v, case, "none", "abs", None)
    expected = [[0.0] * case.r for _ in range(case.r)]
    for chosen in sets:
        for i in range(case.r):
            for j in range(case.r):
                if i in chosen and j not in chosen:
                    expected[i][j] += 1 / len(sets)
    found = coactivation(mask)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, torch.tensor(expected), rtol=1e-6, atol=1e-7)
