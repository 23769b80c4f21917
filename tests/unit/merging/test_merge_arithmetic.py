"""The ways of merging against PEFT's, against slow loops written from the papers, and their properties."""

import itertools
import math
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft.utils import merge_utils

from neurolora.merging import arithmetic
from neurolora.merging.arithmetic import Coefficients, drop_mask, trim

SUMS = ("linear", "task_arithmetic", "magnitude_prune", "dare_linear")
VOTES = ("ties", "dare_ties")
SHAPE = (7, 5)


def draw(count, seed=0, dtype=torch.float32, shape=SHAPE):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator).to(dtype) for _ in range(count)]


def numbers(weights, density=1.0, **others):
    return Coefficients(tuple(weights), (density,) * len(weights), **others)


def run(method, tensors, coefficients):
    return getattr(arithmetic, method)(tensors, coefficients)


def bits(tensor):
    return tensor.contiguous().view(torch.uint8).tolist()


floats = st.floats(-1e4, 1e4, width=32)
lists = st.lists(floats, min_size=1, max_size=12)


@pytest.mark.parametrize("method", [*SUMS, *VOTES])
@given(values=lists)
def test_one_tensor_at_weight_1_comes_back_to_the_bit(method, values):
    tensor = torch.tensor([*values, -0.0, 1e-42])
    assert bits(run(method, [tensor], numbers([1.0]))) == bits(tensor)


@pytest.mark.parametrize("method", [*SUMS, *VOTES])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_the_dtype_of_the_first_tensor_is_kept(method, dtype):
    first, second = draw(2, dtype=dtype)
    assert run(method, [first], numbers([1.0])).dtype == dtype
    assert run(method, [first, second.float()], numbers([1.0, 1.0])).dtype == dtype


def test_slerps_ends_are_the_tensors_to_the_bit():
    first, second = draw(2)
    first[0, 0] = second[0, 1] = -0.0
    for t, expected in ((0.0, first), (1.0, second)):
        assert bits(arithmetic.slerp([first, second], numbers([1, 1], t=t))) == bits(expected)


@pytest.mark.parametrize("method", ["linear", "task_arithmetic", "magnitude_prune", "ties"])
@pytest.mark.parametrize("normalize", [False, True])
def test_the_order_of_the_adapters_does_not_matter(method, normalize):
    tensors, weights, densities = draw(4), (0.5, 1.0, 0.3, 2.0), (1.0, 0.3, 0.6, 0.8)
    results = []
    for order in itertools.permutations(range(4)):
        chosen = Coefficients(
            tuple(weights[i] for i in order), tuple(densities[i] for i in order), normalize=normalize
        )
        results.append(bits(run(method, [tensors[i] for i in order], chosen)))
    assert all(result == results[0] for result in results)


@given(
    weights=st.lists(st.floats(-4, 4, width=16), min_size=3, max_size=3), factor=st.sampled_from([0.5, 2.0])
)
def test_sums_are_linear_in_the_weights_and_in_lambda(weights, factor):
    tensors = draw(3)
    for method in ("task_arithmetic", "magnitude_prune", "dare_linear"):
        once = run(method, tensors, numbers(weights, 0.6))
        scaled = run(method, tensors, numbers([factor * w for w in weights], 0.6))
        assert bits(scaled) == bits(once * factor)
        assert bits(run(method, tensors, numbers(weights, 0.6, lambda_=factor))) == bits(once * factor)


def test_linear_is_the_mean_and_normalize_divides_by_the_weights():
    tensors = draw(3)
    mean = sum(t.double() for t in tensors) / 3
    assert torch.allclose(arithmetic.linear(tensors, numbers([1, 1, 1], normalize=True)), mean.float())
    plain = arithmetic.task_arithmetic(tensors, numbers([1.0, 2.0, 5.0]))
    divided = arithmetic.task_arithmetic(tensors, numbers([1.0, 2.0, 5.0], normalize=True))
    assert torch.allclose(divided * 8, plain)
    opposed = arithmetic.linear(tensors[:2], numbers([1.0, -1.0], normalize=True))
    assert torch.equal(opposed, tensors[0] - tensors[1])  # weights that sum to 0 divide by nothing


# ---- PEFT


def peft(method, tensors, weights, density):
    function, weights = getattr(merge_utils, method), torch.tensor(weights)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return function(tensors, weights, *(() if method == "task_arithmetic" else (density,)))


@pytest.mark.parametrize("method", ["task_arithmetic", "ties", "magnitude_prune"])
@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0), (0.7, -0.4, 1.9)])
@pytest.mark.parametrize("density", [0.1, 0.5, 1.0])
def test_the_same_as_peft(method, weights, density):
    tensors = draw(3, seed=5, shape=(20, 9))
    expected = peft(method, tensors, weights, density)
    assert torch.allclose(run(method, tensors, numbers(weights, density)), expected, atol=1e-6)


@pytest.mark.parametrize("method", ["dare_linear", "dare_ties"])
@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0), (0.7, -0.4, 1.9)])
def test_the_same_as_peft_with_the_same_random_masks(method, weights, monkeypatch):
    tensors, density = draw(3, seed=6, shape=(20, 9)), 0.4
    masks = iter([drop_mask((20, 9), density, 3, index, "b").float() for index in range(3)])
    monkeypatch.setattr(merge_utils.torch, "bernoulli", lambda full: next(masks))
    expected = peft(method, tensors, weights, density)
    found = run(method, tensors, numbers(weights, density, seed=3, name="b"))
    assert torch.allclose(found, expected, atol=1e-5)


# ---- slow loops from the papers


def slow_trim(values, density):
    """Keep the int(density n) largest, the first of equal ones (TIES, section 4.1)."""
    order = sorted(range(len(values)), key=lambda i: (-abs(values[i]), i))
    kept = set(order[: int(density * len(values))])
    return [value if i in kept else 0.0 for i, value in enumerate(values)]


def slow_ties(tensors, weights, densities, lambda_, normalize):
    rows = [slow_trim(t, d) if d < 1 else t for t, d in zip(tensors, densities, strict=True)]
    votes = weights if normalize else [1.0] * len(rows)
    merged = []
    for column in zip(*rows, strict=True):
        mass = math.fsum(v * x for v, x in zip(votes, column, strict=True))
        sign = 1 if mass >= 0 else -1
        kept = [i for i, x in enumerate(column) if x * votes[i] * sign > 0]
        share = math.fsum(votes[i] for i in kept) or 1.0
        merged.append(lambda_ * math.fsum(weights[i] * column[i] for i in kept) / share)
    return merged


@settings(deadline=None)
@given(
    rows=st.lists(st.lists(st.integers(-6, 6), min_size=9, max_size=9), min_size=1, max_size=4),
    weights=st.lists(st.sampled_from([0.25, 0.5, 1.0, 2.0]), min_size=4, max_size=4),
    densities=st.lists(st.sampled_from([0.25, 0.5, 1.0]), min_size=4, max_size=4),
    normalize=st.booleans(),
)
def test_ties_is_the_papers_loop(rows, weights, densities, normalize):
    weights, densities = weights[: len(rows)], densities[: len(rows)]
    chosen = Coefficients(tuple(weights), tuple(densities), lambda_=0.5, normalize=normalize)
    found = arithmetic.ties([torch.tensor(row, dtype=torch.float32) for row in rows], chosen)
    expected = slow_ties([[float(x) for x in row] for row in rows], weights, densities, 0.5, normalize)
    assert found.tolist() == pytest.approx(expected, rel=1e-6)


@given(values=st.lists(st.integers(-3, 3), min_size=1, max_size=20), density=st.floats(0.01, 0.99))
def test_trimming_keeps_the_largest_and_the_first_of_equal_ones(values, density):
    found = trim(torch.tensor(values, dtype=torch.float32), density)
    assert found.tolist() == slow_trim([float(v) for v in values], density)


def test_dare_drops_at_random_and_keeps_the_mean():
    tensor = torch.ones(200, 100)
    found = arithmetic.dare_linear([tensor], numbers([1.0], 0.25))
    assert set(found.unique().tolist()) == {0.0, 4.0}
    assert found.mean().item() == pytest.approx(1.0, abs=0.05)


def test_dares_masks_depend_on_seed_place_and_name_and_on_nothing_else():
    keys = [(seed, index, name) for seed in (0, 1) for index in (0, 1) for name in "ab"]
    torch.manual_seed(0)
    masks = [drop_mask((30, 30), 0.5, *key) for key in keys]
    assert all(not torch.equal(a, b) for a, b in itertools.combinations(masks, 2))
    torch.manual_seed(1)
    assert all(torch.equal(drop_mask((30, 30), 0.5, *key), m) for key, m in zip(keys, masks, strict=True))


def test_slerp_walks_along_the_arc():
    first, second = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    for t in (0.25, 0.5):
        angle = t * math.pi / 2
        found = arithmetic.slerp([first, second], numbers([1, 1], t=t))
        assert found.tolist() == pytest.approx([math.cos(angle), math.sin(angle)])
    same = arithmetic.slerp([first, first], numbers([1, 1], t=0.3))
    assert torch.allclose(same, first)
    zero = arithmetic.slerp([first, torch.zeros(2)], numbers([1, 1], t=0.25))
    assert zero.tolist() == [0.75, 0.0]
    with pytest.raises(ValueError, match="two tensors"):
        arithmetic.slerp([first], numbers([1]))


def test_each_pass_reads_the_tensors_one_by_one():
    alive = 0

    class Watched:
        passes = 0

        def __iter__(self):
            nonlocal alive
            self.passes += 1
            for tensor in draw(5):
                alive += 1
                yield tensor

    watched = Watched()
    arithmetic.ties(watched, numbers([1.0] * 5, 0.5))
    assert watched.passes == 2
    assert alive == 10
