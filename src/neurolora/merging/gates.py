"""Several gates into one: what becomes of W1, W2, gamma and beta when B is merged.

Room: merging, maths on tensors alone; called by `by_tensor.py`. A gate is no difference from anything, so it
is averaged with weights that sum to 1, and never summed or trimmed. Two ways, `GATES`:

    average   the mean of each tensor. W1 stands before a GELU and W2 behind it, so the merged gate is not the
              mean of the gates, the less so the further their W1 have moved apart.
    widen     the W1 one below the other and the W2 side by side, each times its weight: the merged gate has
              exactly the mean of the parents' logits W2 gelu(W1 x), at the cost of a bottleneck as wide as
              all of theirs. gamma and beta are averaged.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from neurolora.merging.arithmetic import Coefficients, Tensors, linear

GATES = ("average", "widen")


def merged_gate(part: str, tensors: Tensors, weights: Sequence[float], how: str, blocks: int = 1) -> Tensor:
    """One part of the merged gate. weights: not yet normalised, with a sum above 0; blocks: of the adapters.

    part: W1 (blocks * g, d), W2 (r, g), gamma or beta (r). Widened: W1 (blocks * n g, d), W2 (r, n g).
    """
    if how == "average" or part not in ("W1", "W2"):
        return linear(tensors, Coefficients(tuple(weights), normalize=True))
    total = sum(weights)
    if part == "W2":
        shares = [weight / total for weight in weights]
        return torch.cat([_times(W2, share) for W2, share in zip(tensors, shares, strict=True)], dim=1)
    by_block = [W1.view(blocks, W1.shape[0] // blocks, W1.shape[1]) for W1 in tensors]
    return torch.cat(by_block, dim=1).flatten(0, 1)


def _times(tensor: Tensor, factor: float) -> Tensor:
    return tensor if factor == 1 else (tensor.to(torch.float64) * factor).to(tensor.dtype)
