"""The rivals of MDE: each against its equation by loops, the thresholds of ATC, the Frechet distance."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.linalg import sqrtm

from neurolora.errors import ConfigError, DataError
from neurolora.estimation import (
    MEASURES,
    atc_threshold,
    confidences,
    entropies,
    fit_temperature,
    frechet_distance,
    measure_set,
    meta_distribution_energy,
)

Array = NDArray[np.float64]


def labelled(rows: int, margin: float, seed: int) -> tuple[Array, NDArray[np.int64]]:
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 4, rows)
    found = generator.normal(size=(rows, 4))
    found[np.arange(rows), labels] += margin
    return found, labels


SOURCE, LABELS = labelled(400, 2.0, seed=0)
TARGET, _ = labelled(300, 1.0, seed=1)


def slow_probabilities(rows: Array, temperature: float = 1.0) -> list[list[float]]:
    powers = [[math.exp(value / temperature) for value in row] for row in rows.tolist()]
    return [[power / sum(row) for power in row] for row in powers]


def slow_entropies(rows: Array, temperature: float = 1.0) -> list[float]:
    return [-sum(p * math.log(p) for p in row) for row in slow_probabilities(rows, temperature)]


def source_accuracy() -> float:
    return float((SOURCE.argmax(axis=1) == LABELS).mean())


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_confidences_and_entropies_against_loops(temperature: float) -> None:
    largest = [max(row) for row in slow_probabilities(TARGET, temperature)]
    assert confidences(TARGET, temperature).tolist() == pytest.approx(largest)
    assert entropies(TARGET, temperature).tolist() == pytest.approx(slow_entropies(TARGET, temperature))


def test_a_certain_row_has_no_entropy() -> None:
    with np.errstate(all="raise", under="ignore"):
        assert entropies([[1e4, -1e4, 0.0], [5.0, 5.0, 5.0]]).tolist() == pytest.approx([0.0, math.log(3)])


def test_the_temperature_is_the_one_by_which_the_labels_are_likeliest() -> None:
    """Labels are drawn by softmax(f): logits three times too large are three times too sure."""
    generator = np.random.default_rng(0)
    rows = generator.normal(size=(4000, 4)) * 2
    shares = np.array(slow_probabilities(rows))
    labels = (shares.cumsum(axis=1) < generator.random((4000, 1))).sum(axis=1)
    found = fit_temperature(rows, labels)
    assert found == pytest.approx(1.0, abs=0.06)
    assert fit_temperature(3 * rows, labels) == pytest.approx(3 * found, rel=1e-3)
    assert confidences(3 * rows, 3 * found).mean() == pytest.approx(
        (rows.argmax(axis=1) == labels).mean(), abs=0.02
    )
    with pytest.raises(DataError, match="labels for 4000 rows"):
        fit_temperature(rows, labels[1:])


def test_means_and_differences() -> None:
    given: dict[str, Any] = {"source": SOURCE, "source_labels": LABELS}
    surest, of_source = ([max(row) for row in slow_probabilities(rows)] for rows in (TARGET, SOURCE))
    mean, known = sum(surest) / 300, sum(of_source) / 400
    assert measure_set("average_confidence", TARGET) == pytest.approx(mean)
    assert measure_set("confidence_difference", TARGET, **given) == pytest.approx(
        source_accuracy() + mean - known
    )
    unsure, before = (sum(slow_entropies(rows)) / len(rows) for rows in (TARGET, SOURCE))
    assert measure_set("mean_entropy", TARGET) == pytest.approx(unsure)
    assert measure_set("entropy_difference", TARGET, source=SOURCE) == pytest.approx(unsure - before)
    assert measure_set("mde", TARGET) == meta_distribution_energy(TARGET, size=None)


@pytest.mark.parametrize("name", ["confidence_difference", "atc_confidence", "atc_entropy"])
def test_a_measure_that_is_an_accuracy_knows_that_of_the_source(name: str) -> None:
    assert MEASURES[name].is_accuracy
    found = measure_set(name, SOURCE, source=SOURCE, source_labels=LABELS)
    assert found == pytest.approx(source_accuracy(), abs=1e-12)


def test_atc_is_the_share_above_the_sources_threshold() -> None:
    right = SOURCE.argmax(axis=1) == LABELS
    for name, scores in (
        ("atc_confidence", confidences),
        ("atc_entropy", lambda rows: -entropies(rows)),
    ):
        ordered = sorted(scores(SOURCE).tolist())
        threshold = ordered[int((~right).sum())]  # as many below it as there are errors
        by_hand = sum(score >= threshold for score in scores(TARGET).tolist()) / 300
        found = measure_set(name, TARGET, source=SOURCE, source_labels=LABELS)
        assert found == pytest.approx(by_hand)
        assert found < source_accuracy()  # the harder set is seen to be so


@pytest.mark.parametrize(
    ("right", "share"),
    [
        ([True] * 4, 1.0),
        ([False] * 4, 0.0),
        ([True, False, False, False], 0.25),
        ([False, True, True, True], 0.75),
    ],
)
def test_the_share_above_the_threshold_is_the_accuracy(right: list[bool], share: float) -> None:
    scores = np.array([0.3, 0.9, 0.5, 0.7])
    assert (scores >= atc_threshold(scores, right)).mean() == share


def test_equal_scores_are_kept_or_left_together() -> None:
    scores = np.array([0.2, 0.8, 0.8, 0.8, 0.8, 0.9])
    assert (scores >= atc_threshold(scores, [True] * 4 + [False] * 2)).sum() == 5
    assert (scores >= atc_threshold(scores, [True] * 2 + [False] * 4)).sum() == 1
    assert (
        scores >= atc_threshold(scores, [True] * 3 + [False] * 3)
    ).sum() == 1  # as near as 5, and claims less


@pytest.mark.parametrize(
    ("scores", "right"), [([], []), ([0.5], [True, False]), ([math.nan], [True]), ([[0.5]], [[True]])]
)
def test_a_threshold_of_nothing_is_refused(scores: Any, right: Any) -> None:
    with pytest.raises(DataError, match="ATC"):
        atc_threshold(scores, right)


def features(rows: int, seed: int, columns: int = 5) -> Array:
    generator = np.random.default_rng(seed)
    return generator.normal(size=(rows, columns)) @ generator.normal(
        size=(columns, columns)
    ) + generator.normal(size=columns)


def slow_frechet(first: Array, second: Array) -> float:
    s1, s2 = np.cov(first, rowvar=False), np.cov(second, rowvar=False)
    difference = first.mean(axis=0) - second.mean(axis=0)
    return float(difference @ difference + np.trace(s1 + s2 - 2 * sqrtm(s1 @ s2).real))


def test_frechet_distance_against_a_matrix_root() -> None:
    first, second = features(200, seed=0), features(150, seed=1)
    assert frechet_distance(first, second) == pytest.approx(slow_frechet(first, second), rel=1e-8)
    assert frechet_distance(first, second) == pytest.approx(frechet_distance(second, first), rel=1e-10)
    assert measure_set("frechet", second, source=first) == frechet_distance(first, second)


def test_frechet_distance_of_one_feature_is_known() -> None:
    """(m1 - m2)^2 + (s1 - s2)^2."""
    first, second = np.array([[0.0], [2.0]]), np.array([[10.0], [16.0]])
    assert frechet_distance(first, second) == pytest.approx(12.0**2 + (math.sqrt(18) - math.sqrt(2)) ** 2)


def test_frechet_distance_where_covariances_are_singular() -> None:
    first, second = features(200, seed=0), features(150, seed=1)
    rotation, _ = np.linalg.qr(np.random.default_rng(2).normal(size=(12, 12)))
    padded = [np.hstack([found, np.full((len(found), 7), 3.0)]) @ rotation for found in (first, second)]
    assert frechet_distance(*padded) == pytest.approx(slow_frechet(first, second), rel=1e-8)
    few = features(4, seed=3, columns=40)  # fewer rows than features
    assert frechet_distance(few, few) == pytest.approx(0.0, abs=1e-10)
    assert frechet_distance(few, few + 2.0) == pytest.approx(40 * 4.0)
    assert frechet_distance(few, few[::-1] * 1e6) > 0


def test_frechet_distance_needs_one_layer_and_two_rows() -> None:
    with pytest.raises(DataError, match="5 and 4 features"):
        frechet_distance(features(9, 0), features(9, 0, columns=4))
    with pytest.raises(DataError, match="minimum of 2"):
        frechet_distance(features(9, 0), features(1, 0))


def test_every_row_is_whole_and_says_where_it_comes_from() -> None:
    for name, row in MEASURES.items():
        assert row.name == name
        assert "arXiv" in row.source
        assert bool(row.keeps) == (row.needs != "nothing")


def test_what_a_measure_needs_and_does_not_get_is_named() -> None:
    with pytest.raises(DataError, match="source="):
        measure_set("frechet", TARGET)
    with pytest.raises(DataError, match="source_labels="):
        measure_set("atc_confidence", TARGET, source=SOURCE)
    with pytest.raises(DataError, match="399 labels for 400 rows"):
        measure_set("atc_confidence", TARGET, source=SOURCE, source_labels=LABELS[1:])
    with pytest.raises(DataError, match="labels from 0 to 4"):
        measure_set("atc_confidence", TARGET, source=SOURCE, source_labels=np.append(LABELS[1:], 4))
    with pytest.raises(DataError, match="one whole number"):
        measure_set("atc_confidence", TARGET, source=SOURCE, source_labels=LABELS * 1.0)
    with pytest.raises(DataError, match="4 columns, and 3"):
        measure_set("entropy_difference", TARGET, source=SOURCE[:, :3])
    with pytest.raises(ConfigError, match="did you mean frechet"):
        measure_set("frechett", TARGET)
