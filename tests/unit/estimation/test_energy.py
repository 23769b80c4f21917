"""Meta-distribution energy: the equation by loops, what must not change it, and what it refuses."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from neurolora.errors import ConfigError, DataError
from neurolora.estimation import energies, meta_distribution_energy
from neurolora.estimation.sampling import mean_over_draws

Array = NDArray[np.float64]


def logits(rows: int = 60, classes: int = 4, seed: int = 0, scale: float = 3.0) -> Array:
    return np.random.default_rng(seed).normal(size=(rows, classes)) * scale


def slow_energies(rows: Array, temperature: float) -> list[float]:
    found = []
    for row in rows.tolist():
        total = 0.0
        for value in row:
            total += math.exp(value / temperature)
        found.append(-temperature * math.log(total))
    return found


def slow_mde(rows: Array, temperature: float) -> float:
    found = slow_energies(rows, temperature)
    below = sum(math.exp(energy) for energy in found)
    return -sum(math.log(math.exp(energy) / below) for energy in found) / len(found)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 7.0])
def test_against_loops(temperature: float) -> None:
    rows = logits()
    assert energies(rows, temperature).tolist() == pytest.approx(slow_energies(rows, temperature), rel=1e-12)
    assert meta_distribution_energy(rows, temperature, size=None) == pytest.approx(
        slow_mde(rows, temperature), rel=1e-12
    )


def test_the_lone_call_removes_log_n_and_is_never_negative() -> None:
    rows = logits()
    alone = meta_distribution_energy(rows)
    assert alone == pytest.approx(slow_mde(rows, 1.0) - math.log(60), rel=1e-10)
    assert alone == meta_distribution_energy(rows, size="remove_log_n")
    assert meta_distribution_energy(np.tile(rows[:1], (50, 1))) == pytest.approx(0.0, abs=1e-12)
    assert min(meta_distribution_energy(logits(seed=seed)) for seed in range(20)) > 0


def test_a_constant_added_to_all_energies_changes_nothing() -> None:
    rows = logits()
    assert energies(rows + 5.0) == pytest.approx(energies(rows) - 5.0)
    for size in (None, "remove_log_n", 20):
        before = meta_distribution_energy(rows, size=size)
        assert meta_distribution_energy(rows + 5000.0, size=size) == pytest.approx(before, rel=1e-11)


def test_the_order_of_rows_and_of_classes_changes_nothing() -> None:
    rows = logits()
    generator = np.random.default_rng(1)
    shuffled = generator.permutation(generator.permutation(rows), axis=1)
    for size in (None, "remove_log_n", 20):
        assert meta_distribution_energy(shuffled, size=size) == pytest.approx(
            meta_distribution_energy(rows, size=size), rel=1e-12
        )


def test_a_set_taken_twice_is_log_2_more_unless_log_n_is_removed() -> None:
    rows = logits()
    raw, twice = (meta_distribution_energy(found, size=None) for found in (rows, np.vstack([rows, rows])))
    assert twice - raw == pytest.approx(math.log(2), rel=1e-12)
    assert meta_distribution_energy(np.vstack([rows] * 3)) == pytest.approx(
        meta_distribution_energy(rows), rel=1e-10
    )


def test_one_size_makes_sets_of_different_sizes_comparable() -> None:
    small, large = logits(rows=500, seed=1, scale=1.0), logits(rows=20_000, seed=2, scale=1.0)
    raw = [meta_distribution_energy(rows, size=None) for rows in (small, large)]
    equal = [meta_distribution_energy(rows, size=500, draws=40) for rows in (small, large)]
    assert raw[1] - raw[0] > 3.5  # log 40
    assert equal[1] == pytest.approx(equal[0], abs=0.05)
    assert equal[0] == pytest.approx(raw[0], rel=1e-12)  # all rows, once


def test_subsamples_are_averaged_and_follow_from_the_seed() -> None:
    rows = logits(rows=300)
    ordered = np.sort(energies(rows))
    generator = np.random.default_rng(7)
    by_hand = []
    for _ in range(5):
        chosen = ordered[generator.choice(300, 40, replace=False)]
        by_hand.append(math.log(sum(math.exp(energy) for energy in chosen)) - sum(chosen) / 40)
    found = meta_distribution_energy(rows, size=40, draws=5, seed=7)
    assert found == pytest.approx(sum(by_hand) / 5, rel=1e-12)
    assert found == meta_distribution_energy(rows, size=40, draws=5, seed=7)
    assert found != meta_distribution_energy(rows, size=40, draws=5, seed=8)


def test_extreme_logits_neither_overflow_nor_lose_digits() -> None:
    rows = logits()
    with np.errstate(over="raise", invalid="raise"):
        found = meta_distribution_energy(np.array([[1e4, -1e4], [-1e4, 1e4], [1e4, 1e4]]), size=None)
        low = meta_distribution_energy(rows - 1e4, size=None)
    # E = -1e4, -1e4, -1e4 - log 2: softmax 2/5, 2/5, 1/5.
    assert found == pytest.approx(-(2 * math.log(0.4) + math.log(0.2)) / 3, rel=1e-10)
    assert low == pytest.approx(meta_distribution_energy(rows, size=None), rel=1e-10)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_tensors_of_any_float_dtype_are_computed_in_float64(dtype: torch.dtype) -> None:
    tensor = torch.from_numpy(logits()).to(dtype).requires_grad_()
    exact = tensor.detach().double().numpy()
    assert energies(tensor).dtype == np.float64
    assert meta_distribution_energy(tensor) == meta_distribution_energy(exact)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (np.zeros((0, 3)), "0 sample"),
        (np.zeros(5), "Expected 2D array, got 1D"),
        (np.array([[0.0, np.nan], [1.0, 2.0]]), "NaN"),
        (np.array([[0.0, np.inf], [1.0, 2.0]]), "infinity"),
        (np.zeros((5, 1)), "minimum of 2"),
        (np.zeros((1, 3)), "minimum of 2"),
        ([["a", "b"], ["c", "d"]], "could not convert"),
    ],
)
def test_wrong_logits_are_told_in_scikit_learns_words(wrong: Any, words: str) -> None:
    with pytest.raises(DataError, match=words) as caught:
        meta_distribution_energy(wrong)
    assert isinstance(caught.value, ValueError)
    assert "Give numbers of shape" in str(caught.value)


def test_more_rows_than_there_are_is_an_error_that_names_both() -> None:
    with pytest.raises(DataError, match=r"61 rows were asked for, and the set has 60"):
        meta_distribution_energy(logits(), size=61)


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": 0.0},
        {"temperature": -1.0},
        {"temperature": math.nan},
        {"temperature": math.inf},
        {"temperature": "1"},
        {"size": 1},
        {"size": 2.5},
        {"size": True},
        {"size": 20, "draws": True},
        {"size": 20, "draws": 0},
        {"size": 20, "seed": -1},
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        meta_distribution_energy(logits(), **settings)


def test_an_unknown_size_is_told_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r'it is .log.*"remove_log_n" or None'):
        meta_distribution_energy(logits(), size="log")


def test_all_rows_are_drawn_once() -> None:
    calls: list[int] = []

    def count(rows: Array) -> float:
        calls.append(len(rows))
        return 0.0

    mean_over_draws(np.arange(9.0), count, 9, 10, 0, "")
    mean_over_draws(np.arange(9.0), count, 8, 3, 0, "")
    assert calls == [9, 8, 8, 8]
