"""The expansion and winner-take-all, beside loops."""

import numpy as np
import pytest
import scipy.sparse as sp

from neurolora.fly.expansion import activations, codes, expansion_weights, winners


def drawn(seed=0, cells=40, features=12, fan_in=5):
    return expansion_weights(cells, features, fan_in, np.random.RandomState(seed))


def winners_by_loops(activation, keep):
    """Sort each row by value, then by place; keep the first ones."""
    code = np.zeros_like(activation)
    for row, values in enumerate(activation):
        order = sorted(range(len(values)), key=lambda j: (-values[j], j))
        for place in order[:keep]:
            code[row, place] = values[place]
    return code


def test_each_cell_reads_exactly_its_number_of_different_features():
    W = drawn(cells=3000, features=20, fan_in=7)  # more rows than are drawn at once
    assert W.shape == (3000, 20)
    assert (np.diff(W.indptr) == 7).all()
    assert all(len(set(W.indices[start : start + 7])) == 7 for start in W.indptr[:-1])
    assert abs(W.data.mean()) < 0.03
    assert abs(W.data.std() - 1) < 0.03
    read = np.bincount(W.indices, minlength=20)
    assert read.min() > 0.9 * read.mean()


def test_the_same_seed_gives_the_same_bits_and_another_others():
    assert (drawn(3) != drawn(3)).nnz == 0
    assert (drawn(3) != drawn(4)).nnz > 0


def test_activations_of_dense_and_sparse_features_are_the_product():
    X = np.random.default_rng(0).normal(size=(9, 12)) * (np.random.default_rng(1).random((9, 12)) < 0.5)
    W = drawn()
    for given in (X, sp.csr_matrix(X)):
        np.testing.assert_allclose(activations(given, W), X @ W.toarray().T, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("keep", [1, 4, 15])
def test_winners_are_those_of_the_loops(keep):
    activation = np.random.default_rng(0).normal(size=(50, 15))
    np.testing.assert_array_equal(winners(activation, keep).toarray(), winners_by_loops(activation, keep))


@pytest.mark.parametrize("keep", [1, 3, 5, 9])
def test_of_equal_activations_the_one_further_left_wins(keep):
    activation = np.random.default_rng(0).integers(-2, 3, size=(200, 10)).astype(float)
    np.testing.assert_array_equal(winners(activation, keep).toarray(), winners_by_loops(activation, keep))
    assert (winners(activation, keep).data != 0).all()


def test_codes_do_not_depend_on_the_blocks_to_the_bit():
    X = np.random.default_rng(0).normal(size=(37, 12))
    W = drawn()
    whole = sp.vstack([code for _, code in codes(X, W, 8, 64)])
    for block in (1, 5, 36):
        parts = list(codes(X, W, 8, block))
        assert [place.start for place, _ in parts] == list(range(0, 37, block))
        assert (sp.vstack([code for _, code in parts]) != whole).nnz == 0
