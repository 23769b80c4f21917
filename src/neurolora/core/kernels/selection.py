"""Exactly-k selection without a full sort.

Room: core, kernels. Equal to `routing.top_k_mask` to the bit.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from neurolora.core.routing import Routing, routing_score, top_k_mask

# Ordering floats as integers: the bits of a positive float grow with it, those of a negative one fall.
_INTEGERS = {torch.float32: torch.int32, torch.float64: torch.int64}


def fast_top_k_mask(h_mod: Tensor, k: int, routing: Routing = "abs", bias: Tensor | None = None) -> Tensor:
    """`top_k_mask(routing_score(h_mod, routing, bias), k)`: h_mod (..., r), bias (r) -> bool (..., r).

    On a CPU the k-th largest score of each row is found by partition, and all that reach it are active; only
    where scores are equal at that border does the stable sort decide, for all rows.
    """
    score = routing_score(h_mod, routing, bias)
    r = score.shape[-1]
    if score.device.type != "cpu" or not 1 <= k < r or score.numel() == 0:
        return top_k_mask(score, k)
    keys = _sortable(score, is_magnitude=routing == "abs" and bias is None).reshape(-1, r).numpy()
    border = np.partition(keys, r - k, axis=1)[:, r - k, None]
    mask = keys >= border
    if np.count_nonzero(mask) != len(keys) * k:
        return top_k_mask(score, k)
    return torch.from_numpy(mask).view(score.shape)


def active_bits(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """The mask as `keep_active` takes it for values of `dtype`: all bits set where a rank is active."""
    return mask.to(_INTEGERS[dtype]).neg_() if dtype in _INTEGERS else mask


def keep_active(values: Tensor, active: Tensor) -> Tensor:
    """`values` with exact zeros where a rank is not active, whatever stood there, NaN and inf too."""
    if active.dtype == torch.bool:
        return values.masked_fill(~active, 0.0)
    return (values.view(active.dtype) & active).view(values.dtype)  # three times as fast as masked_fill


def _sortable(score: Tensor, *, is_magnitude: bool) -> Tensor:
    """Integers in the order of the scores: -0.0 equal to 0.0, NaN above everything."""
    score = score if score.dtype in _INTEGERS else score.float()
    if is_magnitude:
        return score.view(_INTEGERS[score.dtype])
    # one NaN for all, of positive sign, and one zero
    score = torch.where(score.isnan(), torch.nan, score + 0.0)
    bits = score.view(_INTEGERS[score.dtype])
    return bits ^ ((bits >> (8 * bits.element_size() - 1)) & torch.iinfo(bits.dtype).max)
