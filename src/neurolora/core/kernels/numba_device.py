"""The compiled loops of a decode step on a CPU: numba's functions, on numpy arrays.

Room: core, kernels; used by `decode_numba.py` alone. Numba is imported here, so this file is imported by the
first pack. Compiled once and kept beside this file. No fastmath: what is not a number stays what it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    made: Callable[..., Any] = njit(nogil=True, cache=True, error_model="numpy")(function)
    return made


@_compiled
def write_keys(scores, is_signed, keys):  # type: ignore[no-untyped-def]
    """Integers in the order of the scores: -0.0 equal to 0.0, NaN above everything."""
    bits = scores.view(keys.dtype)
    top = keys.dtype.type(np.iinfo(keys.dtype).max)
    for i in range(len(keys)):
        keys[i] = bits[i] & top
        if is_signed and scores[i] < 0:
            keys[i] = ~keys[i]


@_compiled
def reach(keys, border):  # type: ignore[no-untyped-def]
    """How many keys are not below the border."""
    count = np.int32(0)
    for i in range(len(keys)):
        count += np.int32(keys[i] >= border)
    return count


@_compiled
def mark_largest(keys, k, mask):  # type: ignore[no-untyped-def]
    """True at the k largest keys, of equal ones at the first: their border is found by halving."""
    one = keys.dtype.type(1)
    low = high = keys[0]
    for i in range(len(keys)):
        low, high = min(low, keys[i]), max(high, keys[i])
    while low < high:  # at least k keys reach low, fewer than k reach what is above high
        middle = (low & high) + ((low ^ high) >> one) + ((low ^ high) & one)  # their mean, rounded up
        count = reach(keys, middle)
        if count == k:
            for i in range(len(keys)):
                mask[i] = keys[i] >= middle
            return
        if count > k:
            low = middle
        else:
            high = middle - one
    left = k
    for i in range(len(keys)):
        left -= keys[i] > low
    for i in range(len(keys)):
        is_equal = keys[i] == low
        mask[i] = keys[i] > low or (is_equal and left > 0)
        left -= is_equal


@_compiled
def modulate(row, u, first, W2, gamma, beta):  # type: ignore[no-untyped-def]
    """row (r) times m (Eq. 3): u = W1 x from `first` on, W2 transposed (g, r)."""
    logits = np.zeros_like(row)
    for j in range(len(W2)):
        bottleneck = 0.5 * u[first + j] * (1.0 + math.erf(u[first + j] * math.sqrt(0.5)))
        for i in range(len(row)):
            logits[i] += row.dtype.type(bottleneck) * W2[j, i]
    for i in range(len(row)):
        sigmoid = 1.0 / (1.0 + np.exp(-logits[i]))
        row[i] *= sigmoid * gamma[i] + beta[i]


@_compiled
def route_tokens(product, W2, shares_w1, gamma, beta, bias, is_signed, k, integer, selected):  # type: ignore[no-untyped-def]
    """From product (N, members * r + w1_count * g) = [A; W1] x to h'[S] (Eqs. 2-5), zeros where not active.

    W2 (members, g, r) or None, gamma, beta, bias (members, r) or None -> selected (N, members, r).
    integer: one number of the keys' dtype.
    """
    tokens, members, r = selected.shape
    keys, mask = np.empty(r, dtype=integer.dtype), np.empty(r, dtype=np.bool_)
    scores = np.empty(r, dtype=product.dtype)
    for t in range(tokens):
        u = product[t, members * r :]
        for member in range(members):
            row = selected[t, member]
            row[:] = product[t, member * r : (member + 1) * r]
            if W2 is not None:
                first = 0 if shares_w1 else member * W2.shape[1]
                modulate(row, u, first, W2[member], gamma[member], beta[member])
            elif gamma is not None:
                row *= gamma[member]
            if bias is None:
                write_keys(row, is_signed, keys)
            else:
                for i in range(r):
                    scores[i] = (row[i] if is_signed else abs(row[i])) + bias[member, i]
                write_keys(scores, True, keys)
            mark_largest(keys, k, mask)
            for i in range(r):
                if not mask[i]:
                    row[i] = 0.0


@_compiled
def add_columns(result, selected, Bt, scaling):  # type: ignore[no-untyped-def]
    """result (N, o) += scaling * B h'[S] (Eqs. 1, 6); selected (N, r), Bt (r, o), read where active."""
    for t in range(len(result)):
        for i in range(len(Bt)):
            if selected[t, i] == 0:
                continue
            factor, column = scaling * selected[t, i], Bt[i]
            for c in range(len(column)):
                result[t, c] += factor * column[c]
