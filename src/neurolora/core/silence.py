"""How loud an adapter is: the size of its update beside the base layer's output.

Room: core, maths on tensors alone. Trained towards zero on text that belongs to no task, an adapter learns
to be quiet where it has nothing to say, where it would disturb others once merged. Not in the papers.
"""

from __future__ import annotations

import torch
from torch import Tensor


def loudness(update: Tensor, base: Tensor, keep: Tensor | None = None, eps: float = 1e-6) -> Tensor:
    """Mean over kept tokens of ||dy||^2 / (||W0 x||^2 + eps): a scalar, with gradient to dy alone.

    update dy and base W0 x (..., o) of any floating dtype, keep bool (...) with False at padding -> float32,
    or dy's dtype if that is wider; zero when no token is kept.
    """
    dtype = torch.promote_types(update.dtype, torch.float32)
    loud = update.to(dtype).square().sum(-1) / (base.detach().to(dtype).square().sum(-1) + eps)
    if keep is None:
        return loud.mean() if loud.numel() else loud.sum()
    kept = keep.to(torch.bool)
    return loud.masked_fill(~kept, 0.0).sum() / kept.sum().clamp(min=1)
