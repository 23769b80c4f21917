"""Standard errors of means and of ratios.

Room: evaluation. Pure functions on sequences of numbers; anybody may call them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence


def mean(values: Sequence[float]) -> float:
    """Arithmetic mean; NaN of nothing."""
    return sum(values) / len(values) if values else math.nan


def mean_stderr(values: Sequence[float]) -> float:
    """s / sqrt(n) with the sample deviation s (n - 1 below the line), as lm-eval has it; NaN for n < 2."""
    count = len(values)
    if count < 2:
        return math.nan
    centre = mean(values)
    return math.sqrt(sum((value - centre) ** 2 for value in values) / (count - 1) / count)


def ratio(totals: Sequence[float], sizes: Sequence[int]) -> float:
    """R = sum(totals) / sum(sizes): a mean per unit where each item holds many units; NaN of nothing."""
    return sum(totals) / sum(sizes) if sum(sizes) else math.nan


def ratio_stderr(totals: Sequence[float], sizes: Sequence[int]) -> float:
    """Standard error of `ratio` over items drawn independently (the delta method); NaN for n < 2.

    SE = sqrt(n / (n - 1) * sum((t_i - R s_i)^2)) / sum(s_i). With all sizes equal it is `mean_stderr` of
    the items' own means. Source: W. G. Cochran, Sampling Techniques, 3rd ed., section 2.11.
    """
    count = len(totals)
    if count < 2 or not sum(sizes):
        return math.nan
    centre = ratio(totals, sizes)
    spread = sum((total - centre * size) ** 2 for total, size in zip(totals, sizes, strict=True))
    return math.sqrt(count / (count - 1) * spread) / sum(sizes)
