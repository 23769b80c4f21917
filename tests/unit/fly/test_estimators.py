"""The estimators as scikit-learn users meet them: its own checks, streams, new classes, bad input."""

import joblib
import numpy as np
import pytest
import scipy.sparse as sp
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import NearestCentroid
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from neurolora.errors import ConfigError, DataError
from neurolora.fly import FlyClassifier, FlyProjection

SMALL = {"n_components": 60}
RIDGE, ASSOCIATIVE = FlyClassifier(**SMALL), FlyClassifier(**SMALL, readout="associative")


@parametrize_with_checks(
    [FlyProjection(**SMALL), RIDGE, ASSOCIATIVE, FlyClassifier(**SMALL, readout="associative", decay=0.01)]
)
def test_scikit_learns_own_checks(estimator, check):
    check(estimator)


@pytest.fixture(scope="module")
def digits():
    X, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(y))
    X, y = X[order], y[order]
    return X[:1200], y[:1200], X[1200:], y[1200:]


def learned_in_parts(one, X, y, parts):
    for part in parts:
        one.partial_fit(X[part], y[part])
    return one


# --- what the stream may do


@pytest.mark.parametrize("one", [RIDGE, ASSOCIATIVE])
def test_any_split_and_any_order_of_the_stream_give_the_same_sums_and_predictions(digits, one):
    X, y, test, _ = digits
    whole = clone(one).fit(X, y)
    random = np.random.default_rng(1)
    by_class = [np.flatnonzero(y == label) for label in (7, 2, 0, 9, 1, 3, 8, 4, 6, 5)]
    shuffled = np.array_split(random.permutation(len(y)), 13)
    for parts in (by_class, shuffled, [[row] for row in random.permutation(len(y))]):
        parted = learned_in_parts(clone(one), X, y, parts)
        for name, array in whole._readout.arrays().items():
            np.testing.assert_allclose(parted._readout.arrays()[name], array, rtol=1e-11, atol=1e-9)
        np.testing.assert_array_equal(parted.predict(test), whole.predict(test))
        np.testing.assert_array_equal(parted.classes_, whole.classes_)


def test_decay_forgets_what_came_first(digits):
    X, y, _, _ = digits
    X, y = X[y < 1], y[y < 1]
    forgetful = FlyClassifier(**SMALL, readout="associative", learning_rate=0.25, decay=0.5).fit(X, y)
    code = FlyProjection(**SMALL).fit(X).transform(X).toarray()
    synapses = np.zeros(60)
    for row in np.maximum(code, 0):
        for cell in np.flatnonzero(row):
            synapses[cell] = 0.5 * synapses[cell] + 0.25 * row[cell] / row.max()
    np.testing.assert_allclose(forgetful.coef_[0], synapses, rtol=1e-12)


def test_the_ridge_read_out_is_ridge_regression_on_the_codes(digits):
    X, y, test, _ = digits
    one = FlyClassifier(**SMALL, alpha=7.0).fit(X, y)
    projection = FlyProjection(**SMALL).fit(X)
    peer = Ridge(alpha=7.0, fit_intercept=False).fit(projection.transform(X).toarray(), np.eye(10)[y])
    np.testing.assert_allclose(one.coef_, peer.coef_, rtol=1e-6, atol=1e-9)
    expected = peer.predict(projection.transform(test).toarray())
    np.testing.assert_allclose(one.decision_function(test), expected, atol=1e-8)


def test_it_learns_digits_better_than_the_nearest_mean(digits):
    X, y, test, truth = digits
    one = FlyClassifier(n_components=1000).fit(X, y)
    assert one.score(test, truth) > NearestCentroid().fit(X, y).score(test, truth) + 0.05
    assert one.alpha_ == min(one.gcv_scores_, key=one.gcv_scores_.__getitem__)
    centre = X.mean(axis=0)
    associative = FlyClassifier(n_components=1000, coding_level=0.05, readout="associative")
    assert associative.fit(X - centre, y).score(test - centre, truth) > 0.85


def test_probabilities_are_some_and_agree_with_the_predictions(digits):
    X, y, test, _ = digits
    for one in (clone(RIDGE).fit(X, y), clone(ASSOCIATIVE).fit(X, y)):
        chances = one.predict_proba(test)
        np.testing.assert_allclose(chances.sum(axis=1), 1)
        assert chances.min() >= 0
        np.testing.assert_array_equal(one.classes_[chances.argmax(axis=1)], one.predict(test))


def test_words_as_labels_new_ones_between_old_ones():
    X = np.eye(6)
    one = FlyClassifier(**SMALL, fan_in=6, coding_level=0.5, alpha=1e-6)
    one.partial_fit(X[:2], ["d", "b"]).partial_fit(X[2:4], ["a", "c"], classes=["e"])
    one.partial_fit(X[4:], ["b", "f"])
    assert one.classes_.tolist() == ["a", "b", "c", "d", "e", "f"]
    assert one.predict(X).tolist() == ["d", "b", "a", "c", "b", "f"]
    assert one.n_samples_seen_ == 6


def test_one_class_is_what_everything_is_until_there_is_another():
    one = FlyClassifier(**SMALL).partial_fit([[1.0, 2.0]], [5])
    assert one.predict([[3.0, 1.0], [0.0, 0.0]]).tolist() == [5, 5]
    assert one.predict_proba([[3.0, 1.0]]).tolist() == [[1.0]]


def test_features_of_zeros_are_no_reason_to_fail():
    one = FlyClassifier(**SMALL).fit(np.zeros((4, 3)), [0, 1, 1, 0])
    assert one.predict(np.zeros((1, 3))).tolist() == [0]


# --- what scikit-learn's tools do with them


def test_dense_and_sparse_features_give_the_same(digits):
    X, y, test, _ = digits
    dense, sparse = FlyClassifier(**SMALL).fit(X, y), FlyClassifier(**SMALL).fit(sp.csr_matrix(X), y)
    np.testing.assert_allclose(dense.decision_function(test), sparse.decision_function(sp.csr_array(test)))


def test_pipelines_and_grid_search(digits):
    X, y, test, truth = digits
    pipe = make_pipeline(StandardScaler(), FlyClassifier(n_components=200))
    search = GridSearchCV(pipe, {"flyclassifier__coding_level": [0.02, 0.3]}, cv=3).fit(X, y)
    assert search.score(test, truth) > 0.85
    chained = make_pipeline(FlyProjection(n_components=200), NearestCentroid()).fit(X, y)
    assert chained.score(test, truth) > 0.7


def test_the_projection_is_sparse_names_its_features_and_keeps_its_level(digits):
    X = digits[0]
    one = FlyProjection(n_components=500, fan_in=4, coding_level=0.05).fit(X)
    code = one.transform(X)
    assert sp.issparse(code)
    assert (np.diff(code.indptr) == 25).all()
    assert (np.diff(one.components_.indptr) == 4).all()
    assert one.get_feature_names_out()[[0, -1]].tolist() == ["flyprojection0", "flyprojection499"]


def test_a_code_takes_its_own_memory_and_no_second_time_as_much(digits):
    import tracemalloc

    X = np.tile(digits[0], (5, 1))
    one = FlyProjection(n_components=400, block_size=64).fit(X)
    tracemalloc.start()
    try:
        code = one.transform(X)
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert most < 1.3 * (code.data.nbytes + code.indices.nbytes)


def test_joblib_and_going_on_afterwards(digits, tmp_path):
    X, y, test, _ = digits
    whole = FlyClassifier(**SMALL).fit(X, y)
    half = FlyClassifier(**SMALL).fit(X[:600], y[:600])
    joblib.dump(half, tmp_path / "half.joblib")
    again = joblib.load(tmp_path / "half.joblib").partial_fit(X[600:], y[600:])
    np.testing.assert_array_equal(again.predict(test), whole.predict(test))


# --- settings that are changed afterwards


def test_a_new_penalty_counts_at_once(digits):
    X, y, test, _ = digits
    one = FlyClassifier(**SMALL, alpha=1.0).fit(X, y).set_params(alpha=100)
    expected = FlyClassifier(**SMALL, alpha=100).fit(X, y)
    assert one.alpha_ == 100.0
    np.testing.assert_array_equal(one.decision_function(test), expected.decision_function(test))
    one.set_params(alpha="gcv", alphas=[3.0, 5.0]).partial_fit(X[:9], y[:9])
    assert sorted(one.gcv_scores_) == [3.0, 5.0]
    assert sorted(one.set_params(alphas=np.array([5.0])).gcv_scores_) == [5.0]
    with pytest.raises(ConfigError, match="alpha: it is -1"):
        one.set_params(alpha=-1).predict(test)


def test_a_penalty_that_was_too_small_is_mended_without_learning_again(digits):
    X, y, _, _ = digits
    one = FlyClassifier(**SMALL, alpha=0).partial_fit(X[:9], y[:9])
    with pytest.raises(DataError, match="singular"):
        one.predict(X)
    assert one.set_params(alpha=1.0).score(X[:9], y[:9]) == 1.0


def test_an_expansion_is_what_it_was_until_the_next_fit(digits, tmp_path):
    X, y, test, _ = digits
    for one in (clone(RIDGE), clone(ASSOCIATIVE)):
        before = one.fit(X, y).decision_function(test)
        one.set_params(n_components=90, fan_in=3, coding_level=7, readout="ridge")
        np.testing.assert_array_equal(one.decision_function(test), before)
        one.save(tmp_path / "changed")
        again = FlyClassifier.load(tmp_path / "changed")
        assert again.get_params() == one.get_params()
        np.testing.assert_array_equal(again.decision_function(test), before)
        assert one.partial_fit(X, y).coef_.shape == (10, 60)
        assert one.fit(X, y).coef_.shape == (10, 90)
    projection = FlyProjection(**SMALL).fit(X)
    before = projection.transform(X)
    assert (projection.set_params(n_components=90, coding_level=1).transform(X) != before).nnz == 0


def test_what_was_learned_last_is_what_the_attributes_tell(digits):
    X, y, _, _ = digits
    one = clone(RIDGE).fit(X[:600], y[:600])
    alpha, scores = one.alpha_, one.gcv_scores_
    one.partial_fit(X[600:], y[600:])
    whole = clone(RIDGE).fit(X, y)
    assert (one.alpha_, one.gcv_scores_) != (alpha, scores)
    assert one.alpha_ == pytest.approx(whole.alpha_)
    np.testing.assert_allclose(one.coef_, whole.coef_, rtol=1e-6, atol=1e-9)


def test_attributes_are_there_where_they_mean_something(digits):
    X, y, _, _ = digits
    names = ("coef_", "alpha_", "gcv_scores_")
    cases = {
        RIDGE: (True, True, True),
        FlyClassifier(**SMALL, alpha=1.0): (True, True, False),
        ASSOCIATIVE: (True, False, False),
    }
    for one, there in cases.items():
        assert not any(hasattr(one, name) for name in names)
        assert tuple(hasattr(clone(one).fit(X, y), name) for name in names) == there


def test_who_shows_a_classifier_solves_nothing(digits):
    X, y, _, _ = digits
    one = FlyClassifier(**SMALL, alpha=0).partial_fit(X[:9], y[:9])
    for penalty in (0, "gcv", "nonsense"):
        one.set_params(alpha=penalty)
        assert "classes_" in one._repr_html_()
        assert not {"coef_", "alpha_"} & set(dir(one))
    assert one._solved is None
    assert one.set_params(alpha="gcv").alpha_ > 0
    assert {"coef_", "alpha_", "gcv_scores_"} <= set(dir(one))
    assert "gcv_scores_" not in dir(clone(ASSOCIATIVE).fit(X, y))


def test_rate_and_decay_count_from_the_next_rows(digits):
    X, y, _, _ = digits
    one = clone(ASSOCIATIVE).fit(X, y)
    before = one.coef_
    one.set_params(learning_rate=1.0).partial_fit(X, y)
    np.testing.assert_allclose(one.coef_, 101 * before, rtol=1e-9)


# --- bad input


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"n_components": 0}, "n_components: it is 0.*at least 1"),
        ({"n_components": 2.5}, "n_components: it is 2.5"),
        ({"fan_in": 4}, "fan_in=4.*there are 3 features.*from 1 to 3"),
        ({"fan_in": 0.0}, "fan_in=0.0"),
        ({"coding_level": 1.5}, "coding_level=1.5.*fraction"),
        ({"coding_level": True}, "coding_level=True"),
        ({"block_size": 0}, "block_size: it is 0"),
        ({"readout": "perceptron"}, "readout='perceptron'.*ridge, associative"),
        ({"alpha": -1}, "alpha: it is -1"),
        ({"alpha": "best"}, "alpha: it is 'best'"),
        ({"alphas": []}, r"alphas=\[\]"),
        ({"alphas": 5}, r"alphas=5\): it is no list"),
        ({"alphas": [[1.0], [2.0, 3.0]]}, r"alphas: it is \[1\.0\]"),
        ({"alpha": np.array([1.0, 2.0])}, "alpha: it is array"),
        ({"readout": ["ridge"]}, "there is no such read-out"),
        ({"alphas": [1.0, float("nan")]}, "alphas: it is nan"),
        ({"learning_rate": 0}, "learning_rate: it is 0"),
        ({"decay": 1.1}, "decay=1.1"),
    ],
)
def test_settings_that_cannot_be_are_refused_by_name(settings, words):
    with pytest.raises(ConfigError, match=words):
        FlyClassifier(**settings).fit(np.eye(3), [0, 1, 2])


def test_a_penalty_that_cannot_be_solved_says_so():
    with pytest.raises(DataError, match="singular"):
        FlyClassifier(**SMALL, alpha=0).fit(np.eye(3), [0, 1, 2])


@pytest.mark.parametrize(
    ("X", "y", "words"),
    [
        (np.zeros((0, 3)), [], "0 sample"),
        ([[1.0, np.nan]], [0], "NaN"),
        ([[1.0, np.inf]], [0], "infinity"),
        (np.eye(3), [0, 1], "inconsistent numbers of samples"),
        (np.eye(3), [0.5, 1.2, 3.3], "Unknown label type"),
    ],
)
def test_bad_data_raise_what_scikit_learn_users_expect(X, y, words):
    with pytest.raises(ValueError, match=words):
        FlyClassifier(**SMALL).fit(X, y)


def test_a_bad_batch_changes_nothing(digits):
    X, y, test, _ = digits
    one = FlyClassifier(**SMALL).fit(X, y)
    before = one.predict(test)
    bad = X[:5].copy()
    bad[3, 1] = np.nan
    for rows, labels in ((bad, y[:5]), (X[:5, :60], y[:5]), (X[:5], ["a"] * 5)):
        with pytest.raises(ValueError):
            one.partial_fit(rows, labels)
    np.testing.assert_array_equal(one.predict(test), before)
    assert one.n_samples_seen_ == 1200
    with pytest.raises(ValueError, match="64 features"):
        one.predict(test[:, :63])


@pytest.mark.parametrize("kind", [np.asarray, sp.csr_matrix])
@pytest.mark.parametrize("huge", [1e80, 1e200, -1e308])
@pytest.mark.parametrize("one", [RIDGE, ASSOCIATIVE])
def test_a_row_whose_squares_leave_float64_is_named_and_changes_nothing(digits, one, kind, huge):
    X, y, test, _ = digits
    one = clone(one).set_params(block_size=2).fit(kind(X), y)
    before, bad = one.decision_function(test), X[:7].copy()
    bad[5, 11] = huge
    for call in (one.partial_fit, clone(one).fit, clone(one).partial_fit):
        with pytest.raises(DataError, match="row 5 of X: its entries go up to"):
            call(kind(bad), y[:7])
    with pytest.raises(DataError, match="row 5 of X"):
        one.predict(kind(bad))
    with pytest.raises(DataError, match="row 5 of X"):
        FlyProjection(**SMALL).fit(X).transform(kind(bad))
    assert one.n_samples_seen_ == 1200
    np.testing.assert_array_equal(one.decision_function(test), before)


def test_a_row_that_is_large_but_fits_is_learned(digits):
    X, y, test, _ = digits
    large = X[:1] * 1e70
    one = clone(RIDGE).fit(X, y).partial_fit(large, y[:1])
    assert one.predict(large) == y[0]
    assert np.isfinite(one.decision_function(test)).all()


def test_features_as_small_as_float64_has_them_are_learned(digits):
    X, y, test, _ = digits
    one = clone(ASSOCIATIVE).fit(X, y).partial_fit(X[:5] * 1e-315, y[:5])
    assert np.isfinite(one.predict_proba(test)).all()


def test_labels_of_mixed_kinds_are_refused():
    one = FlyClassifier(**SMALL).fit(np.eye(3), [0, 1, 2])
    with pytest.raises(ValueError, match="Mix of label input types"):
        one.partial_fit(np.eye(3), ["a", "b", "c"])


def test_before_fit():
    for call in ("predict", "predict_proba", "decision_function"):
        with pytest.raises(NotFittedError):
            getattr(FlyClassifier(), call)([[1.0]])
    with pytest.raises(NotFittedError):
        FlyClassifier().save("nowhere")
