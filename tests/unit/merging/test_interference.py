"""The maths of interference against whole matrices in float64, and against cases that are known."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from neurolora.errors import ConfigError
from neurolora.merging.interference import (
    Delta,
    chance_overlap,
    delta_cosine,
    energy,
    inner_product,
    principal_angles,
    routing_overlap,
    sign_conflict,
)

OUT, D, R = 11, 7, 3


def make(seed, with_A=True, r=R, scaling=0.5):
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    return Delta(draw(OUT, r), scaling, draw(r, D) if with_A else None)


def whole(delta):
    B = delta.scaling * delta.B.double()
    return B if delta.A is None else B @ delta.A.double()


@pytest.mark.parametrize("with_A", [True, False])
def test_products_energy_and_cosine_are_those_of_whole_matrices(with_A):
    first, second = make(1, with_A), make(2, with_A, scaling=2.0)
    one, two = whole(first), whole(second)
    assert inner_product(first, second) == pytest.approx(float((one * two).sum()))
    assert energy(first) == pytest.approx(float(one.norm() ** 2))
    assert delta_cosine(first, second) == pytest.approx(float((one * two).sum() / one.norm() / two.norm()))


def test_ranks_may_differ_in_whole_updates():
    first, second = make(1, r=2), make(2, r=5)
    assert inner_product(first, second) == pytest.approx(float((whole(first) * whole(second)).sum()))


@pytest.mark.parametrize("with_A", [True, False])
@pytest.mark.parametrize("block", [1, 20, 10_000])
def test_sign_conflicts_are_those_of_a_slow_loop(with_A, block):
    first, second = make(3, with_A), make(4, with_A)
    first.B[2] = 0
    conflicts = entries = 0
    conflict_mass = mass = 0.0
    one, two = whole(first).flatten().tolist(), whole(second).flatten().tolist()
    for a, b in zip(one, two, strict=True):
        if a == 0 or b == 0:
            continue
        entries, mass = entries + 1, mass + abs(a) + abs(b)
        if a * b < 0:
            conflicts, conflict_mass = conflicts + 1, conflict_mass + abs(a) + abs(b)
    found = sign_conflict(first, second, block)
    assert (found.conflicts, found.entries) == (conflicts, entries)
    assert (found.conflict_mass, found.mass) == pytest.approx((conflict_mass, mass))
    assert found.share == pytest.approx(conflicts / entries)
    assert found.weighted == pytest.approx(conflict_mass / mass)


@pytest.mark.parametrize("with_A", [True, False])
def test_an_adapter_is_at_one_with_itself_and_against_its_negative(with_A):
    own = make(5, with_A)
    other = Delta(-own.B, own.scaling, own.A)
    assert delta_cosine(own, own) == pytest.approx(1.0)
    assert delta_cosine(own, other) == pytest.approx(-1.0)
    assert sign_conflict(own, own).share == sign_conflict(own, own).weighted == 0.0
    assert sign_conflict(own, other).share == sign_conflict(own, other).weighted == 1.0


def test_nothing_conflicts_with_zero():
    own, nothing = make(6), Delta(torch.zeros(OUT, R, dtype=torch.float64), 1.0, make(6).A)
    assert delta_cosine(own, nothing) == 0.0
    assert energy(nothing) == 0.0
    assert sign_conflict(own, nothing).share == sign_conflict(own, nothing).weighted == 0.0


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 10**6), st.booleans(), st.floats(0.01, 100))
def test_order_does_not_matter_and_size_does_not_turn(seed, other, with_A, factor):
    first, second = make(seed, with_A), make(other, with_A)
    larger = Delta(first.B * factor, first.scaling, first.A)
    assert delta_cosine(first, second) == pytest.approx(delta_cosine(second, first), abs=1e-12)
    assert delta_cosine(larger, second) == pytest.approx(delta_cosine(first, second), abs=1e-9)
    assert energy(larger) == pytest.approx(factor**2 * energy(first))
    assert sign_conflict(first, second) == sign_conflict(second, first)
    forth, back = principal_angles(first.B, second.B), principal_angles(second.B, first.B)
    torch.testing.assert_close(forth, back)


def test_routing_overlap_is_that_of_sets():
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.rand(50, 6, generator=generator).argsort(-1) < 2 for _ in range(2))
    expected = 0.0
    for one, two in zip(first, second, strict=True):
        a, b = set(one.nonzero().flatten().tolist()), set(two.nonzero().flatten().tolist())
        expected += len(a & b) / len(a | b) / 50
    assert routing_overlap(first, second) == pytest.approx(expected)
    assert routing_overlap(first, first) == 1.0


@pytest.mark.parametrize(("first_k", "second_k", "r"), [(2, 2, 6), (1, 3, 5), (4, 3, 5), (3, 3, 3)])
def test_chance_is_the_mean_over_all_sets(first_k, second_k, r):
    pairs = itertools.product(
        itertools.combinations(range(r), first_k), itertools.combinations(range(r), second_k)
    )
    found = [len({*a} & {*b}) / len({*a} | {*b}) for a, b in pairs]
    assert chance_overlap(first_k, second_k, r) == pytest.approx(sum(found) / len(found))


def test_chance_is_near_the_rule_of_thumb():
    assert chance_overlap(8, 8, 32) == pytest.approx(8 / (64 - 8), rel=0.05)


def test_angles_of_known_spaces():
    turned = torch.tensor([[1.0, 0], [0, math.cos(0.3)], [0, math.sin(0.3)]], dtype=torch.float64)
    flat = torch.eye(3, 2, dtype=torch.float64)
    torch.testing.assert_close(principal_angles(flat, turned), torch.tensor([0.0, 0.3], dtype=torch.float64))
    third = torch.tensor([[0.0], [0], [2]], dtype=torch.float64)
    torch.testing.assert_close(
        principal_angles(flat, third), torch.tensor([math.pi / 2], dtype=torch.float64)
    )


def test_angles_belong_to_spaces_not_to_columns():
    B = make(7).B
    mixed = B @ torch.randn(R, R, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert float(principal_angles(B, mixed).max()) == pytest.approx(0.0, abs=1e-6)
    doubled = torch.cat([B, B[:, :1] * 3], dim=1)
    assert len(principal_angles(doubled, doubled)) == R
    assert len(principal_angles(B, torch.zeros_like(B))) == 0


def test_angles_equal_a_search_over_directions():
    """The smallest angle, from its definition: the nearest pair of unit vectors of the two spaces."""
    first, second = make(8, r=2).B, make(9, r=2).B
    bases = [torch.linalg.qr(B).Q for B in (first, second)]
    turns = torch.linspace(0, math.pi, 2001, dtype=torch.float64)
    directions = torch.stack([turns.cos(), turns.sin()])
    best = ((bases[0] @ directions).T @ (bases[1] @ directions)).abs().max()
    assert float(principal_angles(first, second)[0]) == pytest.approx(math.acos(float(best)), abs=1e-3)


@pytest.mark.parametrize(
    ("compare", "message"),
    [
        (lambda: inner_product(make(1), make(1, with_A=False)), "without its A"),
        (lambda: sign_conflict(make(1), Delta(torch.ones(4, 2), 1.0, torch.ones(2, D))), r"\(4, 7\)"),
        (lambda: inner_product(make(1, False, r=2), make(1, False, r=3)), r"\(11, 3\)"),
        (lambda: routing_overlap(torch.ones(2, 3).bool(), torch.ones(2, 4).bool()), r"\(2, 4\)"),
        (lambda: principal_angles(torch.ones(3, 2), torch.ones(4, 2)), "3 and 4 entries"),
    ],
)
def test_what_does_not_fit_is_refused(compare, message):
    with pytest.raises(ConfigError, match=message):
        compare()
