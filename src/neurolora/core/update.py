"""One adapter's output, in the paper's order (Eqs. 2-6): the readable version.

Room: core, maths on tensors alone. Gradients are PyTorch's own; faster paths must equal this.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from neurolora.core.routing import Routing, block_top_k_mask, routing_score


def low_rank_activations(x: Tensor, A: Tensor, m: Tensor | None) -> Tensor:
    """h' = (A x) * m (Eq. 4); without a gate h' = h = A x, which m = 1 gives to the bit as well.

    x (..., d), A (r, d), m (..., r) or (r) or None -> h' (..., r); one dtype throughout.
    """
    h = functional.linear(x, A)
    return h if m is None else h * m


def adapter_update(
    x: Tensor,
    A: Tensor,
    B: Tensor,
    *,
    modulation: Tensor | None = None,
    top_k: int,
    scaling: float,
    routing: Routing = "abs",
    bias: Tensor | None = None,
    blocks: int = 1,
    mask: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """dy = scaling * sum over i in S of B[:, i] h'[i], S the top_k ranks by score (Eqs. 1, 4-6).

    With several blocks the ranks lie in `blocks` equal parts, each with top_k active ranks of its own: the
    sum of the outputs of as many adapters (docs/method.md, blocks). With a `mask` the ranks are chosen
    already, by a learned router for one, and score, top_k and bias mean nothing.

    x (..., d), A (r, d), B (o, r), modulation m (..., r) or (r), bias (r): floating, one dtype and device.
    scaling is alpha / r. Returns dy (..., o) and the mask of S, bool (..., r).
    The gradient flows through h'[S], and so through m[S]; none through the selection.
    A NaN or inf in a rank that is not selected stays out of dy.
    Raises ConfigError for top_k outside 1..r / blocks or an unknown routing.
    """
    h_mod = low_rank_activations(x, A, modulation)
    if mask is None:
        mask = block_top_k_mask(routing_score(h_mod, routing, bias), top_k, blocks)
    selected = h_mod.masked_fill(~mask, 0.0)
    return scaling * functional.linear(selected, B), mask
