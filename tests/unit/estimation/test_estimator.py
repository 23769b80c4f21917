"""From calibration sets to an estimate: what it finds, what it records, what it refuses, how it is saved."""

from __future__ import annotations

import json
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

import neurolora.estimation
import neurolora.evaluation
from neurolora.errors import ConfigError, DataError
from neurolora.estimation import (
    MEASURES,
    AccuracyEstimator,
    correlations,
    frechet_distance,
    measure_set,
    meta_distribution_energy,
)

Array = NDArray[np.float64]
STRENGTHS = np.linspace(0.0, 1.0, 9)


def perturbed(rows: int, strength: float, seed: int) -> tuple[Array, NDArray[np.int64]]:
    """Logits of a classifier whose margin shrinks with the strength, and the labels."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 4, rows)
    found = generator.normal(size=(rows, 4))
    found[np.arange(rows), labels] += 4.0 * (1 - 0.6 * strength)
    return found, labels


def accuracy(found: tuple[Array, NDArray[np.int64]]) -> float:
    return float((found[0].argmax(axis=1) == found[1]).mean())


SOURCE = perturbed(800, 0.0, seed=99)
SETS = [perturbed(600 + 20 * i, strength, seed=i) for i, strength in enumerate(STRENGTHS)]
NEW = [perturbed(1500, strength, seed=50 + i) for i, strength in enumerate(np.linspace(0.15, 0.85, 6))]
ACCURACIES = [accuracy(found) for found in SETS]


def fitted(measure: str = "mde", **settings: Any) -> AccuracyEstimator:
    made = AccuracyEstimator(measure, **settings)
    return made.fit([rows for rows, _ in SETS], ACCURACIES, source=SOURCE[0], source_labels=SOURCE[1])


def versions(rows: int = 90) -> tuple[list[Array], NDArray[np.bool_]]:
    """Logits of the same rows at every strength, and which are right."""
    found = [perturbed(rows, strength, seed=7) for strength in STRENGTHS]
    return [one for one, _ in found], np.stack([one.argmax(axis=1) == labels for one, labels in found])


VERSIONS = versions()


def on_versions(measure: str = "mde", columns: int | None = None, **settings: Any) -> AccuracyEstimator:
    made = AccuracyEstimator(measure, **settings)
    rows, right = VERSIONS
    return made.fit_versions([made.row_scores(one) for one in rows], right, columns)


@pytest.mark.parametrize("measure", MEASURES)
def test_every_measure_finds_the_accuracy_of_new_sets(measure: str) -> None:
    """These sets differ in one thing only, which every measure sees; the logits serve as features too."""
    estimator = fitted(measure)
    estimates = [estimator.predict(rows) for rows, _ in NEW]
    truth = [accuracy(found) for found in NEW]
    agreement = correlations(estimates, truth)
    assert agreement.spearman > 0.9
    assert agreement.error_points < 4.0
    assert all(abs(estimate.beyond) < 0.3 for estimate in estimates)
    held = [e.low <= true <= e.high for e, true in zip(estimates, truth, strict=True)]
    assert all(held)


def test_all_sets_are_measured_at_one_recorded_size() -> None:
    estimator = fitted()
    assert estimator.size_ == 600
    assert estimator.n_features_in_ == 4
    by_hand = [meta_distribution_energy(rows, size=600) for rows, _ in SETS]
    assert estimator.values_.tolist() == pytest.approx(by_hand)
    assert estimator.predict(NEW[0][0]).value == pytest.approx(meta_distribution_energy(NEW[0][0], size=600))
    assert fitted(size=200, draws=3, seed=5).values_.tolist() == pytest.approx(
        [meta_distribution_energy(rows, size=200, draws=3, seed=5) for rows, _ in SETS]
    )


def test_the_same_set_many_times_over_gets_the_same_estimate() -> None:
    """Raw MDE would grow by log 10, and the estimate with it."""
    rows = NEW[2][0]
    estimator = fitted(draws=50)
    once, often = estimator.predict(rows), estimator.predict(np.vstack([rows] * 10))
    assert often.accuracy == pytest.approx(once.accuracy, abs=0.01)


def test_the_order_of_rows_does_not_matter() -> None:
    for measure in ("mde", "frechet"):
        estimator = fitted(measure)
        assert estimator.predict(NEW[0][0][::-1]).value == pytest.approx(estimator.predict(NEW[0][0]).value)


def test_estimates_stay_between_0_and_1_and_say_when_they_are_far_out() -> None:
    estimator = fitted()
    span = estimator.line_.high - estimator.line_.low
    for scale in (0.0, 12.0):
        found = estimator.predict(NEW[0][0] * scale)
        side = found.value - (
            estimator.line_.high if found.value > estimator.line_.high else estimator.line_.low
        )
        assert found.outside
        assert found.beyond == pytest.approx(side / span)
        assert 0 <= found.low <= found.accuracy <= found.high <= 1
    assert found.beyond > 1
    assert not 0 <= found.unclipped <= 1


def test_the_interval_is_that_of_the_line_and_of_the_rows() -> None:
    estimator = fitted()
    found = estimator.predict(NEW[3][0])
    margin = estimator.reading(1500).margin(found.value)
    assert margin > estimator.line_.margin(found.value)
    assert margin < estimator.reading(700).margin(found.value)
    assert found.high == pytest.approx(min(found.accuracy + margin, 1.0))
    assert found.low == pytest.approx(found.accuracy - margin)
    assert float(found) == found.accuracy == pytest.approx(estimator.line_.at(found.value))


def test_tensors_do_as_well() -> None:
    estimator = AccuracyEstimator("mde").fit([torch.from_numpy(rows) for rows, _ in SETS], ACCURACIES)
    assert estimator.predict(torch.from_numpy(NEW[0][0])) == fitted().predict(NEW[0][0])


def test_temperature_reaches_the_measure() -> None:
    assert fitted(temperature=3.0).values_[0] == pytest.approx(
        meta_distribution_energy(SETS[0][0], 3.0, size=600)
    )
    assert fitted("entropy_difference", temperature=3.0).values_[0] == pytest.approx(
        measure_set("entropy_difference", SETS[0][0], source=SOURCE[0], temperature=3.0)
    )


def test_frechet_is_measured_from_the_source() -> None:
    found = fitted("frechet").values_[0]
    assert found == pytest.approx(frechet_distance(SOURCE[0], SETS[0][0]))


@pytest.mark.parametrize("measure", MEASURES)
def test_a_saved_estimator_predicts_the_same_to_the_bit(measure: str) -> None:
    estimator = fitted(measure, temperature=1.5, size=250, draws=4, seed=3)
    text = json.dumps(estimator.state_dict(), allow_nan=False)
    again = AccuracyEstimator.from_state(json.loads(text))
    assert again.predict(NEW[1][0]) == estimator.predict(NEW[1][0])
    assert json.dumps(again.state_dict()) == text


@pytest.mark.parametrize("measure", [name for name, row in MEASURES.items() if row.takes == "logits"])
def test_saved_versions_predict_the_same_to_the_bit_for_any_size(measure: str) -> None:
    estimator = on_versions(measure)
    text = json.dumps(estimator.state_dict(), allow_nan=False)
    again = AccuracyEstimator.from_state(json.loads(text))
    for rows in (5, 40, 90, 300):
        assert again.predict(NEW[1][0][:rows]) == estimator.predict(NEW[1][0][:rows])
    assert json.dumps(again.state_dict()) == text


SOME_FIGURES = {"values": [1.0, 2.0, 3.0], "accuracies": [0.5, 0.6, 0.7], "per_row": [0.1, 0.1, 0.1]}


@pytest.mark.parametrize(
    "damage",
    [
        {"format": "something else"},
        {"measure": "nothing"},
        {"figures": {**SOME_FIGURES, "values": [1.0, 2.0]}},
        {"figures": {**SOME_FIGURES, "values": [1.0, float("nan"), 2.0]}},
        {"figures": {**SOME_FIGURES, "accuracies": [90.0] * 3}},
        {"figures": {**SOME_FIGURES, "per_row": [0.1]}},
        {"figures": {**SOME_FIGURES, "per_row": [0.1, -0.1, 0.1]}},
        {"figures": None},
        {"known": 1},
        {"constants": {}},
        {"constants": None},
        {"size": 1},
        {"size": None},
        {"draws": None},
        {"columns": "four"},
    ],
)
def test_a_damaged_state_is_refused(damage: dict[str, Any]) -> None:
    state = fitted("atc_entropy").state_dict() | {"figures": SOME_FIGURES}
    AccuracyEstimator.from_state(state)
    with pytest.raises(DataError, match="saved accuracy estimator"):
        AccuracyEstimator.from_state({**state, **damage})
    with pytest.raises(DataError, match="damaged"):
        AccuracyEstimator.from_state({name: value for name, value in state.items() if name != "figures"})


@pytest.mark.parametrize(
    "damage",
    [
        {"scores": "no base64"},
        {"scores": "AAAA"},
        {"right": ["01", "01", "01"]},
        {"right": ["0" * 90] * 8 + ["0" * 89]},
        {"right": ["2" * 90] * 9},
        {"right": None},
    ],
)
def test_damaged_versions_are_refused(damage: dict[str, Any]) -> None:
    state = on_versions().state_dict()
    with pytest.raises(DataError, match="damaged"):
        AccuracyEstimator.from_state({**state, "versions": {**state["versions"], **damage}})


@pytest.mark.parametrize("state", [[], None, "text"])
def test_a_state_that_is_no_mapping_is_refused(state: Any) -> None:
    with pytest.raises(DataError, match="it is no mapping"):
        AccuracyEstimator.from_state(state)


def test_versions_of_the_same_rows_give_the_line_that_their_sets_give() -> None:
    rows, right = VERSIONS
    estimator = on_versions("atc_entropy")
    sets = AccuracyEstimator("atc_entropy").fit(
        rows, right.mean(axis=1), source=rows[0], source_labels=np.where(right[0], rows[0].argmax(axis=1), 3)
    )
    assert np.array_equal(estimator.values_, sets.values_)
    assert np.array_equal(estimator.accuracies_, sets.accuracies_)
    assert estimator.line_ == sets.line_
    found, other = estimator.predict(NEW[2][0]), sets.predict(NEW[2][0])
    assert (found.accuracy, found.value) == (other.accuracy, other.value)
    assert found.high - found.low < other.high - other.low


def test_a_smaller_new_set_is_measured_at_its_own_size_on_both_sides() -> None:
    rows, _ = VERSIONS
    estimator = on_versions()
    reading = estimator.reading(40)
    assert reading.size == 40
    assert reading.values.tolist() == pytest.approx([meta_distribution_energy(one, size=40) for one in rows])
    small = NEW[0][0][:40]
    assert estimator.predict(small).value == pytest.approx(meta_distribution_energy(small, size=None))
    assert estimator.reading(4000).size == 90


def test_versions_without_a_width_take_rows_of_any() -> None:
    wide = np.hstack([NEW[0][0], np.full((1500, 2), -1e4)])
    assert on_versions().predict(wide).value == pytest.approx(on_versions().predict(NEW[0][0]).value)
    with pytest.raises(DataError, match="6 columns, and 4"):
        on_versions(columns=4).predict(wide)


@pytest.mark.parametrize(
    ("scores", "right", "words"),
    [
        (np.ones((3, 5)), np.ones((3, 4), dtype=bool), r"\(3, 5\), and answers of \(3, 4\)"),
        (np.ones((3, 5)), np.ones((3, 5)), "type float64"),
        (np.ones((3, 1)), np.ones((3, 1), dtype=bool), "minimum of 2"),
        (np.full((3, 5), np.nan), np.ones((3, 5), dtype=bool), "NaN"),
        (np.eye(2), np.eye(2, dtype=bool), "2 sets"),
    ],
)
def test_what_are_no_versions_is_refused(scores: Any, right: Any, words: str) -> None:
    with pytest.raises(DataError, match=words):
        AccuracyEstimator().fit_versions(scores, right)
    with pytest.raises(ConfigError, match="it takes features"):
        AccuracyEstimator("frechet").fit_versions(scores, right)


def test_a_smaller_set_than_it_was_calibrated_on_is_refused_by_both_sizes() -> None:
    with pytest.raises(DataError, match=r"the set has 599 rows, and the estimator measures 600"):
        fitted().predict(NEW[0][0][:599])
    assert fitted(size=599).predict(NEW[0][0][:599]).accuracy > 0


@pytest.mark.parametrize("estimator", [fitted(), on_versions()], ids=["sets", "versions"])
def test_a_fitted_estimator_can_be_pickled(estimator: AccuracyEstimator) -> None:
    found = estimator.predict(NEW[0][0])
    assert pickle.loads(pickle.dumps(estimator)).predict(NEW[0][0]) == found


@pytest.mark.parametrize(
    ("scores", "words"),
    [
        ([0.5, float("nan"), 0.25], "the score of row 1 is nan"),
        ([[0.5, 0.5]], r"shape \(1, 2\)"),
        (0.5, r"shape \(\)"),
        (["much"], "could not convert"),
    ],
)
def test_scores_that_are_no_number_a_row_are_refused(scores: Any, words: str) -> None:
    found = AccuracyEstimator("average_confidence").fit_versions(*_scored())
    with pytest.raises(DataError, match=words):
        found.predict_scores(scores)


def _scored() -> tuple[Array, NDArray[np.bool_]]:
    rows, right = versions()
    return np.stack([AccuracyEstimator("average_confidence").row_scores(one) for one in rows]), right


@pytest.mark.parametrize("change", [{"measure": "mde"}, {"temperature": 5.0}, {"draws": 3}, {"size": 7}])
def test_settings_that_change_after_the_fit_are_not_mixed_with_its_line(change: dict[str, Any]) -> None:
    found = fitted("average_confidence").set_params(**change)
    (name,) = change
    for use in (lambda: found.predict(NEW[0][0]), found.state_dict):
        with pytest.raises(ConfigError, match=f"{name} was .* at the fit"):
            use()


def test_it_keeps_scikit_learns_manners() -> None:
    estimator = AccuracyEstimator("frechet", temperature=2.0, size=30, draws=4, seed=7)
    expected = {"measure": "frechet", "temperature": 2.0, "size": 30, "draws": 4, "seed": 7}
    assert clone(estimator).get_params() == expected
    for use in (lambda: estimator.predict(NEW[0][0]), estimator.state_dict):
        with pytest.raises(NotFittedError):
            use()


def test_a_fit_that_fails_leaves_the_estimator_as_it_was() -> None:
    estimator = fitted("entropy_difference")
    before = estimator.predict(NEW[0][0])
    with pytest.raises(DataError, match="accuracy of all"):
        estimator.fit([rows[:90] for rows, _ in SETS], [0.5] * 9, source=SOURCE[0] * 5)
    assert estimator.predict(NEW[0][0]) == before
    fresh = AccuracyEstimator()
    with pytest.raises(DataError):
        fresh.fit([SETS[0][0]] * 3, [0.7, 0.8, 0.9])
    with pytest.raises(NotFittedError):
        fresh.predict(NEW[0][0])


@pytest.mark.parametrize(
    ("sets", "accuracies", "words"),
    [
        ([], [], "0 sets"),
        ([SETS[0][0], SETS[1][0]], [0.5, 0.6], "2 sets"),
        ([SETS[0][0]] * 3, [0.5, 0.6, 0.7], "measure of all 3 sets"),
        ([rows for rows, _ in SETS[:3]], [50, 60, 70], "accuracy 50 is outside"),
        ([rows for rows, _ in SETS[:3]], [0.5, -0.1, 0.7], "accuracy -0.1 is outside"),
        ([rows for rows, _ in SETS[:3]], [0.5, 0.6], "3 sets and 2 accuracies"),
        ([SETS[0][0], SETS[1][0][:, :3], SETS[2][0]], [0.5, 0.6, 0.7], "set 2: 3 columns, and 4"),
        ([SETS[0][0], np.zeros((0, 4)), SETS[2][0]], [0.5, 0.6, 0.7], "set 2: Found array with 0 sample"),
        ([SETS[0][0], SETS[1][0], SETS[2][0] * np.nan], [0.5, 0.6, 0.7], "set 3: Input contains NaN"),
        ([SETS[0][0], SETS[1][0], SETS[2][0] + np.inf], [0.5, 0.6, 0.7], "set 3: Input contains infinity"),
        ([SETS[0][0][:, :1]] * 3, [0.5, 0.6, 0.7], "set 1: Found array with 1 feature"),
        (SETS[0][0], ACCURACIES, "set 1: Expected 2D array, got 1D"),
    ],
)
def test_what_cannot_calibrate_is_refused(sets: Any, accuracies: Any, words: str) -> None:
    with pytest.raises(DataError, match=words):
        AccuracyEstimator().fit(sets, accuracies)


def test_what_the_measure_needs_is_asked_for() -> None:
    rows = [found for found, _ in SETS]
    with pytest.raises(DataError, match="source="):
        AccuracyEstimator("frechet").fit(rows, ACCURACIES)
    with pytest.raises(DataError, match="source_labels="):
        AccuracyEstimator("atc_entropy").fit(rows, ACCURACIES, source=SOURCE[0])
    with pytest.raises(DataError, match="the known set: 3 columns, and 4"):
        AccuracyEstimator("frechet").fit(rows, ACCURACIES, source=SOURCE[0][:, :3])
    with pytest.raises(DataError, match="3 columns, and 4"):
        fitted().predict(NEW[0][0][:, :3])
    with pytest.raises(DataError, match="set 1: 601 rows were asked for, and the set has 600"):
        fitted(size=601)


@pytest.mark.parametrize(
    "settings",
    [{"measure": "mdee"}, {"temperature": 0}, {"draws": 0}, {"seed": -1}, {"size": 1}, {"size": "all"}],
)
def test_wrong_settings_are_refused_at_fit(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        fitted(**settings)


def test_the_names_are_those_of_evaluation_too() -> None:
    for name in neurolora.estimation.__all__:
        assert getattr(neurolora.evaluation, name) is getattr(neurolora.estimation, name)
        assert name in neurolora.evaluation.__all__
