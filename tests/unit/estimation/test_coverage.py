"""How often the 95% interval holds the truth, simulated: versions of the same rows, then new rows."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from neurolora.estimation import AccuracyEstimator, Estimate
from neurolora.estimation.regression import fit_line
from neurolora.estimation.row_noise import of_unknown_rows

Array = NDArray[np.float64]
KINDS, STRENGTHS, KNOWN = 3, (0.05, 0.1, 0.2, 0.4), 200


class World:
    """Rows of unequal difficulty; noise of three kinds lowers the right logit of some of them."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)

    def rows(self, count: int) -> tuple[Array, NDArray[np.int64]]:
        labels, logits = self.random.integers(0, 4, count), self.random.normal(size=(count, 4))
        logits[np.arange(count), labels] += 3 * self.random.gamma(2, 0.5, count)
        return logits, labels

    def noisy(self, rows: tuple[Array, NDArray[np.int64]], kind: int, strength: float) -> Array:
        logits, labels = rows[0].copy(), rows[1]
        hit = self.random.random(len(labels)) < 2 * strength
        logits[np.arange(len(labels)), labels] -= hit * self.random.gamma(
            2, 1 + 0.2 * (kind - 1), len(labels)
        )
        return logits + 0.3 * strength * self.random.normal(size=logits.shape)


def trial(seed: int, new: int, shared: bool) -> tuple[Estimate, float, float]:
    """(the estimate of `new` rows, their accuracy, the line's own margin)."""
    world = World(seed)
    known = world.rows(KNOWN)
    logits = [known[0], *(world.noisy(known, kind, one) for kind in range(KINDS) for one in STRENGTHS)]
    right = np.stack([one.argmax(axis=1) == known[1] for one in logits])
    estimator = AccuracyEstimator("mean_entropy", size="smallest" if shared else min(new, KNOWN))
    if shared:
        estimator.fit_versions([estimator.row_scores(one) for one in logits], right)
    else:
        estimator.fit(logits, right.mean(axis=1))
    fresh = world.rows(new)
    asked = world.noisy(fresh, int(world.random.integers(KINDS)), world.random.uniform(0, 0.4))
    found = estimator.predict(asked)
    truth = float((asked.argmax(axis=1) == fresh[1]).mean())
    return found, truth, estimator.reading(new).line.margin(found.value)


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("new", [KNOWN, 40])
def test_the_interval_holds_the_truth_of_new_rows(new: int, shared: bool) -> None:
    """95 of a hundred; of 24 worlds at least 20. The line's own margin, which knows no rows, holds half."""
    found = [trial(seed, new, shared) for seed in range(24)]
    held = sum(one.low <= truth <= one.high for one, truth, _ in found)
    by_the_line = sum(abs(one.unclipped - truth) <= margin for one, truth, margin in found)
    assert held >= 20
    assert by_the_line <= 16
    assert np.mean([one.high - one.low for one, _, _ in found]) < (0.7 if new == 40 else 0.45)


def test_a_larger_new_set_leaves_what_the_known_rows_do() -> None:
    x, y, w = np.array([0.1, 0.2, 0.4]), np.array([0.9, 0.7, 0.4]), np.array([0.02, 0.03, 0.05])
    line = fit_line(x, y)
    variances = [of_unknown_rows(x, y, w, line, 100, new).variance(0.2) for new in (50, 100, 10**9)]
    share = (0.7 * 100 + 2) / 104
    each = share * (1 - share) + line.slope**2 * 0.03
    assert variances == pytest.approx([each * (1 / 100 + 1 / new) for new in (50, 100, 10**9)])
