"""Meta-Distribution Energy (MDE): how unevenly energy lies over the rows of a set.

Room: estimation. Pure functions; `measures.py` and users call them. Source: arXiv 2401.12689. The authors'
code regresses on log(MDE) unless told otherwise (`--score EMD`); here it is the paper's MDE (`EMD1`). Ranks,
and so Spearman's correlation, are the same for both.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from scipy.special import logsumexp

from neurolora.checks import positive, whole
from neurolora.errors import ConfigError, explain
from neurolora.estimation.inputs import Array, as_logits
from neurolora.estimation.sampling import DRAWS, mean_over_draws

_ASKED = "meta-distribution energy"


def energies(logits: Any, temperature: float = 1.0) -> Array:
    """E_i = -T logsumexp(f_i / T): the free energy of each row, (N,) float64.

    logits: (N, C), C >= 2, numpy or torch. Raises `DataError` for what is no finite (N, C) of numbers,
    `ConfigError` for a temperature that is not above 0.
    """
    rows = as_logits(logits, "energies")
    scale = positive(temperature, "temperature")
    found: Array = -scale * logsumexp(rows / scale, axis=1)
    return found


def meta_distribution_energy(
    logits: Any,
    temperature: float = 1.0,
    *,
    size: int | str | None = "remove_log_n",
    draws: int = DRAWS,
    seed: int = 0,
) -> float:
    """MDE = -(1/N) sum_i log softmax(E)_i, the softmax over the N rows; in nats.

    logits: (N, C), N >= 2 and C >= 2, numpy or torch of any float dtype, computed in float64. MDE is log N
    plus something that is 0 when all energies are equal, so sets of different sizes must not be compared as
    they are. `size` says what to do:

    - "remove_log_n", the default: MDE - log N >= 0, of all rows, nothing random. Right for one lone call.
      What is left still grows a little with N where few rows have far higher energies than the rest.
    - n: the mean of MDE (log n in it) over `draws` subsamples of n rows without replacement, by `seed`. No
      dependence on N is left, so `AccuracyEstimator` does this, with one n for all its sets.
    - None: the paper's figure of all rows, log N in it. For sets of one size only.

    Raises `DataError` for logits that are no such array and for n above N; `ConfigError` for settings.
    """
    rows = as_logits(logits, _ASKED, least_rows=2)
    found = energies(rows, temperature)
    if size is None:
        return float(energy_spread(found))
    if size == "remove_log_n":
        return float(energy_spread(found)) - math.log(len(found))
    if isinstance(size, str):
        do = 'Give a number of rows, "remove_log_n" or None'
        raise ConfigError(explain(f"{_ASKED}, size", f"it is {size!r}", do))
    count = whole(size, f"{_ASKED}, size", least=2)
    times, start = whole(draws, "draws", least=1), whole(seed, "seed", least=0)
    return float(mean_over_draws(found, energy_spread, count, times, start, _ASKED))


def energy_spread(found: Array) -> Array:
    """MDE of energies (..., N), for each set: logsumexp(E) - mean(E) = -(1/N) sum_i log softmax(E)_i."""
    # Not scipy's logsumexp: resampling asks for thousands of small ones, and it is twenty times slower there.
    top = found.max(axis=-1)
    spread: Array = np.log(np.exp(found - top[..., None]).sum(axis=-1)) + top - found.mean(axis=-1)
    return spread
