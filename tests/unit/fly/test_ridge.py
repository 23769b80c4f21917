"""Ridge from sums against the textbook on the samples themselves."""

import numpy as np
import pytest
import scipy.sparse as sp

from neurolora.errors import DataError
from neurolora.fly.ridge import AUTO_GRID, add_to_gram, penalties, solve_best, solve_for


def samples(n, cells, classes=3, seed=0):
    random = np.random.default_rng(seed)
    code = random.normal(size=(n, cells)) * (random.random((n, cells)) < 0.4)
    labels = random.integers(0, classes, size=n)
    return code, np.eye(classes)[labels]


def sums(code, Y):
    gram = np.zeros((code.shape[1],) * 2, order="F")
    add_to_gram(gram, sp.csr_matrix(code))
    return gram, code.T @ Y


def gcv_by_the_hat_matrix(code, Y, alpha):
    """Golub, Heath and Wahba's score from the definition: H maps Y to its fitted values."""
    n, cells = code.shape
    hat = code @ np.linalg.inv(code.T @ code + alpha * np.eye(cells)) @ code.T
    residual = Y - hat @ Y
    return np.square(residual).sum() / n / (1 - np.trace(hat) / n) ** 2


@pytest.mark.parametrize("cells", [7, 600])  # one block of a triangle's copy, and more than one
def test_the_solution_is_that_of_the_normal_equations_and_the_sums_are_kept(cells):
    code, Y = samples(80, cells)
    gram, moments = sums(code, Y)
    kept = np.tril(gram).copy()
    np.testing.assert_allclose(kept, np.tril(code.T @ code), rtol=1e-12, atol=1e-12)
    for alpha in (0.3, 5.0):
        expected = np.linalg.solve(code.T @ code + alpha * np.eye(cells), code.T @ Y)
        np.testing.assert_allclose(solve_for(gram, moments, alpha), expected, rtol=1e-8, atol=1e-10)
        np.testing.assert_array_equal(np.tril(gram), kept)


@pytest.mark.parametrize(("n", "cells"), [(120, 20), (30, 45)])
def test_the_score_from_sums_is_the_score_from_the_hat_matrix(n, cells):
    code, Y = samples(n, cells)
    gram, moments = sums(code, Y)
    grid = [0.01, 0.5, 3.0, 40.0, 500.0]
    found = solve_best(gram, moments, float(n), n, grid)
    expected = {alpha: gcv_by_the_hat_matrix(code, Y, alpha) for alpha in grid}
    for alpha in grid:
        assert found.scores[alpha] == pytest.approx(expected[alpha], rel=1e-7)
    assert found.alpha == min(expected, key=expected.__getitem__)
    np.testing.assert_array_equal(found.weights, solve_for(gram, moments, found.alpha))


def test_a_singular_matrix_is_refused_and_left_out_of_a_grid():
    code, Y = samples(5, 9)
    gram, moments = sums(code, Y)
    with pytest.raises(DataError, match=r"alpha 0: G \+ alpha I is singular.*larger alpha"):
        solve_for(gram, moments, 0.0)
    found = solve_best(gram, moments, 5.0, 5, [0.0, 1.0])
    assert found.alpha == 1.0
    assert found.scores[0.0] == float("inf")
    with pytest.raises(DataError, match="singular"):
        solve_best(gram, moments, 5.0, 5, [0.0])


SEEDS = range(40)


@pytest.mark.parametrize("cells", [20, 90])
@pytest.mark.parametrize("lack", [1, 2, 3])
def test_a_rank_that_is_too_low_is_found_whatever_the_samples(cells, lack):
    for seed in SEEDS:
        gram, moments = sums(*samples(cells - lack, cells, seed=seed))
        with pytest.raises(DataError, match="singular"):
            solve_for(gram, moments, 0.0)


@pytest.mark.parametrize("cells", [20, 90])
def test_two_cells_that_are_one_are_found_wherever_they_stand(cells):
    for seed in SEEDS:
        code, Y = samples(3 * cells, cells, seed=seed)
        first, second = np.random.default_rng(seed).permutation(cells)[:2]
        code[:, first] = code[:, second]
        with pytest.raises(DataError, match="singular"):
            solve_for(*sums(code, Y), 0.0)


def test_cells_of_unlike_scale_are_no_reason_to_refuse():
    code, Y = samples(90, 30)
    scale = 10.0 ** np.linspace(-6, 6, 30)
    expected = np.linalg.lstsq(code, Y, rcond=None)[0]
    found = solve_for(*sums(code * scale, Y), 0.0)
    np.testing.assert_allclose(found * scale[:, None], expected, rtol=1e-6, atol=1e-9)


def test_few_samples_take_half_a_matrix_more():
    import tracemalloc

    code, Y = samples(1000, 2000)
    gram, moments = sums(code, Y)
    tracemalloc.start()
    try:
        solve_best(gram, moments, 1000.0, 1000, [1.0])
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert most < 0.56 * gram.nbytes


def test_penalties_follow_the_scale_of_the_sums():
    code, Y = samples(40, 8)
    small, large = sums(code, Y)[0], sums(1000 * code, Y)[0]
    np.testing.assert_allclose(np.array(penalties(large, None)) / penalties(small, None), 1e6)
    assert len(penalties(small, None)) == len(AUTO_GRID)
    assert penalties(small, [3, 4]) == (3.0, 4.0)
    assert penalties(np.zeros((3, 3)), None) == (1.0,)


def test_a_penalty_that_all_but_interpolates_is_never_the_best():
    """With fewer samples than cells GCV at a tiny penalty is rounding over rounding, and often near zero."""
    code, _ = samples(160, 200)
    Y = np.eye(4)[np.random.default_rng(9).integers(0, 4, size=160)]  # labels of chance
    gram, moments = sums(code, Y)
    grid = [*penalties(gram, None), 1e-3]
    found = solve_best(gram, moments, 160.0, 160, grid)
    assert found.scores[1e-3] == float("inf")
    measured = {alpha: score for alpha, score in found.scores.items() if np.isfinite(score)}
    assert len(measured) >= 7
    for alpha, score in measured.items():
        assert score == pytest.approx(gcv_by_the_hat_matrix(code, Y, alpha), rel=1e-3)
    assert found.alpha == min(measured, key=measured.__getitem__)
    tiny = solve_best(gram, moments, 160.0, 160, [1e-7, 1e-6])
    assert tiny.alpha == 1e-6


@pytest.mark.parametrize(("n", "cells", "twice"), [(20, 50, False), (30, 300, True), (3, 600, False)])
def test_few_samples_of_many_cells_go_another_way_to_the_same_end(n, cells, twice):
    code, Y = samples(n, cells)
    if twice:  # a rank below the number of samples
        code, Y = np.concatenate([code, code]), np.concatenate([Y, Y[::-1]])
    count = len(code)
    gram, moments = sums(code, Y)
    kept = np.tril(gram).copy()
    grid = [1e-6, 0.01, 1.0, 30.0]
    found = solve_best(gram, moments, float(count), count, grid)
    np.testing.assert_array_equal(np.tril(gram), kept)
    for alpha in grid[1:]:
        assert found.scores[alpha] == pytest.approx(gcv_by_the_hat_matrix(code, Y, alpha), rel=1e-6)
    assert found.alpha == min(found.scores, key=found.scores.__getitem__)
    for alpha in grid:
        alone = solve_best(gram, moments, float(count), count, [alpha]).weights
        dual = code.T @ np.linalg.solve(code @ code.T + alpha * np.eye(count), Y)
        np.testing.assert_allclose(alone, dual, rtol=1e-4, atol=1e-6)


def test_few_samples_of_nothing_are_no_reason_to_fail():
    gram, moments = sums(np.zeros((2, 9)), np.eye(2))
    found = solve_best(gram, moments, 2.0, 2, [1.0])
    assert not found.weights.any()
    assert found.scores == {1.0: 1.0}
