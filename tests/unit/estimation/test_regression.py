"""The line and its prediction interval; and the three numbers by which estimates are judged."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from neurolora.errors import DataError
from neurolora.estimation import Estimate, correlations
from neurolora.estimation.regression import fit_line

X = np.array([6.1, 6.5, 7.2, 7.9, 8.8, 9.0])
Y = np.array([0.93, 0.90, 0.84, 0.80, 0.61, 0.66])


def test_the_line_is_that_of_least_squares() -> None:
    line, peer = fit_line(X, Y), stats.linregress(X, Y)
    assert line.slope == pytest.approx(peer.slope)
    assert line.intercept == pytest.approx(peer.intercept)
    assert line.deviation / math.sqrt(line.spread) == pytest.approx(peer.stderr)


def test_the_margin_by_loops() -> None:
    line, x = fit_line(X, Y), 8.1
    count, centre = len(X), sum(X) / len(X)
    residuals = sum((y - line.slope * value - line.intercept) ** 2 for value, y in zip(X, Y, strict=True))
    spread = sum((value - centre) ** 2 for value in X)
    s = math.sqrt(residuals / (count - 2))
    by_hand = 2.7764451052 * s * math.sqrt(1 + 1 / count + (x - centre) ** 2 / spread)  # t(0.975, 4)
    assert line.margin(x) == pytest.approx(by_hand, rel=1e-9)
    assert line.margin(20.0) > line.margin(x) > line.margin(x, level=0.5)


def test_the_interval_holds_as_many_new_points_as_it_says() -> None:
    """4,000 lines through five noisy points each, and a sixth: 95% within, give or take 0.35%."""
    generator, held, trials = np.random.default_rng(0), 0, 4000
    for _ in range(trials):
        x = generator.uniform(0, 1, 6)
        y = 0.3 + 0.4 * x + generator.normal(size=6) * 0.05
        line = fit_line(x[:5], y[:5])
        held += abs(y[5] - line.at(x[5])) <= line.margin(x[5])
    assert held / trials == pytest.approx(0.95, abs=0.012)


def test_how_far_beyond_is_in_widths_of_the_range() -> None:
    line = fit_line(X, Y)
    assert [line.beyond(x) for x in (6.1, 7.0, 9.0)] == [0.0, 0.0, 0.0]
    assert line.beyond(9.0 + 2.9) == pytest.approx(1.0)
    assert line.beyond(6.1 - 1.45) == pytest.approx(-0.5)


def test_what_makes_no_line_is_refused() -> None:
    with pytest.raises(DataError, match="2 sets"):
        fit_line(X[:2], Y[:2])
    with pytest.raises(DataError, match="6 sets and 5 accuracies"):
        fit_line(X, Y[:5])
    with pytest.raises(DataError, match="measure of all 6 sets is 7"):
        fit_line(7.0 + 1e-14 * np.arange(6), Y)
    with pytest.raises(DataError, match="accuracy of all 6 sets"):
        fit_line(X, np.full(6, 0.9))
    with pytest.raises(DataError, match="no number"):
        fit_line(np.append(X[:5], np.nan), Y)


def test_correlations_and_the_error_in_points() -> None:
    truth = [0.9, 0.8, 0.7, 0.4]
    estimates = [0.80, 0.85, 0.60, 0.50]
    found = correlations(estimates, truth)
    assert found.spearman == pytest.approx(stats.spearmanr(estimates, truth).statistic)
    assert found.pearson == pytest.approx(stats.pearsonr(estimates, truth).statistic)
    assert found.spearman != pytest.approx(found.pearson)
    assert found.error_points == pytest.approx((10 + 5 + 10 + 10) / 4)
    assert found.count == 4


def test_ties_share_their_rank() -> None:
    found = correlations([0.5, 0.5, 0.7, 0.9], [0.1, 0.3, 0.2, 0.9])
    assert found.spearman == pytest.approx(
        stats.spearmanr([0.5, 0.5, 0.7, 0.9], [0.1, 0.3, 0.2, 0.9]).statistic
    )


@pytest.mark.filterwarnings("error")
def test_a_constant_side_has_no_correlation_and_still_an_error() -> None:
    found = correlations([0.5, 0.5], [0.4, 0.8])
    assert math.isnan(found.spearman)
    assert math.isnan(found.pearson)
    assert found.error_points == pytest.approx(20.0)


def test_estimates_may_be_given_as_they_come() -> None:
    made = [Estimate(value, 0.0, 1.0, 0.0, 0.0, value) for value in (0.2, 0.4)]
    assert correlations(made, [0.2, 0.5]).error_points == pytest.approx(5.0)


def test_estimates_are_correlated_before_they_are_cut() -> None:
    made = [Estimate(min(value, 1.0), 0.0, 1.0, 0.0, 0.0, value) for value in (0.9, 1.1, 1.3)]
    found = correlations(made, [0.7, 0.9, 0.8])
    assert found.spearman == pytest.approx(0.5)  # cut, two of them would share a rank
    assert found.pearson == pytest.approx(stats.pearsonr([0.9, 1.1, 1.3], [0.7, 0.9, 0.8]).statistic)
    assert found.error_points == pytest.approx((20 + 10 + 20) / 3)


def test_per_cent_and_unequal_numbers_are_refused() -> None:
    with pytest.raises(DataError, match="accuracy 90 is outside"):
        correlations([0.9, 0.8], [90, 80])
    with pytest.raises(DataError, match="nan is outside"):
        correlations([0.9, math.nan], [0.9, 0.8])
    with pytest.raises(DataError, match="2 estimates and 3"):
        correlations([0.9, 0.8], [0.9, 0.8, 0.7])
    with pytest.raises(DataError, match="1 estimates"):
        correlations([0.9], [0.9])
