"""Several tensors into one: the published ways of merging, as pure functions.

Room: merging, maths on tensors alone. Every function reads its tensors one after the other, as often as it
needs (`tensors` can be iterated again), and keeps no more than a few at a time, whatever their number. Sums
are made in float64, so that the order of float32 tensors is lost in the rounding; the result has the dtype
of the first tensor. One tensor at weight 1 and density 1 comes back the same to the bit.

Sources: task arithmetic, arXiv 2212.04089; TIES, 2306.01708; DARE, 2311.03099; with `normalize=False` the
numbers are those of PEFT's `merge_utils`, with `normalize=True` those of mergekit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from neurolora.core.projection import private_generator

Tensors = Iterable[Tensor]

#: Above this cosine the arc is as good as straight, and its formula divides by nearly nothing (mergekit's).
NEARLY_PARALLEL = 0.9995


@dataclass(frozen=True)
class Coefficients:
    """The numbers of one merge; each method takes those of its row.

    weights, densities: one for each tensor. lambda_: factor of the result. normalize: divide by the sum of
    the weights. seed, name: what DARE's draws depend on, with the place of the tensor. t: place on slerp's
    arc, 0 is the first tensor.
    """

    weights: tuple[float, ...]
    densities: tuple[float, ...] = ()
    lambda_: float = 1.0
    normalize: bool = False
    seed: int = 0
    name: str = ""
    t: float = 0.5


def linear(tensors: Tensors, numbers: Coefficients) -> Tensor:
    """sum_i w_i T_i, over sum_i w_i if `normalize`: the weighted mean."""
    wide = _Widened(tensors)
    total = _weighted_sum(wide, numbers.weights)
    return wide.narrowed(_normalized(total, numbers))


def task_arithmetic(tensors: Tensors, numbers: Coefficients) -> Tensor:
    """lambda sum_i w_i T_i; over sum_i w_i if `normalize`."""
    wide = _Widened(tensors)
    return wide.narrowed(_scaled_sum(wide, numbers))


def magnitude_prune(tensors: Tensors, numbers: Coefficients) -> Tensor:
    """lambda sum_i w_i trim(T_i): task arithmetic of the largest entries of each."""
    wide = _Widened(tensors)
    return wide.narrowed(_scaled_sum(_Thinned(wide, numbers, _trimmed), numbers))


def dare_linear(tensors: Tensors, numbers: Coefficients) -> Tensor:
    """lambda sum_i w_i drop(T_i): task arithmetic of a random part of each, rescaled."""
    wide = _Widened(tensors)
    return wide.narrowed(_scaled_sum(_Thinned(wide, numbers, _dropped), numbers))


def ties(tensors: Tensors, numbers: Coefficients) -> Tensor:
    """Trim each to its largest entries, elect a sign for each entry, lambda times the mean of who agrees."""
    wide = _Widened(tensors)
    return wide.narrowed(_disjoint_mean(_Thinned(wide, numbers, _trimmed), numbers))


def dare_ties(tensors: Tensors, numbers: Coefficients) -> Tensor:
    """As `ties`, of a random part of each, rescaled, in place of the largest entries."""
    wide = _Widened(tensors)
    return wide.narrowed(_disjoint_mean(_Thinned(wide, numbers, _dropped), numbers))


def slerp(tensors: Tensors, numbers: Coefficients) -> Tensor:
    """Along the arc from T_1 to T_2: (sin((1 - t) a) T_1 + sin(t a) T_2) / sin(a), a the angle between them.

    A straight line where a tensor is zero or the two are (anti)parallel. t = 0 and t = 1 give the tensors
    themselves, to the bit. Raises ValueError unless there are two.
    """
    wide = _Widened(tensors)
    pair = list(wide)
    if len(pair) != 2:
        raise ValueError(f"slerp takes two tensors, not {len(pair)}")
    t = numbers.t
    if t in (0, 1):
        return wide.narrowed(pair[int(t)])
    first, second = _arc_shares(pair[0], pair[1], t)
    return wide.narrowed(first * pair[0] + second * pair[1])


def trim(tensor: Tensor, density: float) -> Tensor:
    """The int(density * n) entries of largest magnitude, the others 0; of equal ones the first."""
    if density >= 1:
        return tensor
    kept = int(density * tensor.numel())
    if kept == 0:
        return torch.zeros_like(tensor)
    sizes = tensor.abs().flatten()
    least = torch.topk(sizes, kept, sorted=False).values.min()
    above, at = sizes > least, sizes == least
    keep = above | (at & (at.cumsum(0) <= kept - above.sum()))
    return torch.where(keep.view(tensor.shape), tensor, 0.0)


def drop_mask(shape: tuple[int, ...], density: float, seed: int, index: int, name: str) -> Tensor:
    """True with probability `density`: a function of the arguments alone, drawn on the CPU."""
    generator = private_generator("drop", int(seed), index, name, tuple(shape))
    return torch.rand(shape, generator=generator, dtype=torch.float32, device="cpu") < density


class _Widened:
    """The tensors in float64, read anew in each pass, and the dtype that the first of them had."""

    def __init__(self, tensors: Tensors) -> None:
        self._tensors = tensors
        self._dtype = torch.float32

    def __iter__(self) -> Iterator[Tensor]:
        for index, tensor in enumerate(self._tensors):
            if index == 0:
                self._dtype = tensor.dtype
            yield tensor.to(torch.float64)

    def narrowed(self, result: Tensor) -> Tensor:
        return result.to(self._dtype)


@dataclass(frozen=True)
class _Thinned:
    """The tensors, each with some of its entries set to zero; the same ones in every pass."""

    tensors: Tensors
    numbers: Coefficients
    thin: Callable[[Tensor, int, Coefficients], Tensor]

    def __iter__(self) -> Iterator[Tensor]:
        for index, tensor in enumerate(self.tensors):
            yield self.thin(tensor, index, self.numbers)


def _trimmed(tensor: Tensor, index: int, numbers: Coefficients) -> Tensor:
    return trim(tensor, numbers.densities[index])


def _dropped(tensor: Tensor, index: int, numbers: Coefficients) -> Tensor:
    """T_i * mask / density, which has the mean of T_i."""
    density = numbers.densities[index]
    if density >= 1:
        return tensor
    mask = drop_mask(tuple(tensor.shape), density, numbers.seed, index, numbers.name)
    return torch.where(mask.to(tensor.device), tensor / density, 0.0)


def _weighted_sum(tensors: Tensors, weights: Iterable[float]) -> Tensor:
    """Starts from the first term, not from zero: 0 + -0 would lose a bit."""
    total: Tensor | None = None
    for tensor, weight in zip(tensors, weights, strict=True):
        term = tensor * weight
        total = term if total is None else total.add_(term)
    if total is None:
        raise ValueError("there is no tensor to merge")
    return total


def _normalized(total: Tensor, numbers: Coefficients) -> Tensor:
    return total / (math.fsum(numbers.weights) or 1.0) if numbers.normalize else total


def _scaled_sum(tensors: Tensors, numbers: Coefficients) -> Tensor:
    return _normalized(_weighted_sum(tensors, numbers.weights), numbers) * numbers.lambda_


def _disjoint_mean(tensors: Tensors, numbers: Coefficients) -> Tensor:
    """For each entry, lambda * sum of w_i T_i over those with the elected sign, over their number.

    The sign is that of sum_i T_i, and + for 0. With `normalize`: that of sum_i w_i T_i, and over the sum of
    the weights in place of the number. Entries of 0 have no vote and are not counted.
    """
    ones = (1.0,) * len(numbers.weights)
    votes = numbers.weights if numbers.normalize else ones
    sign = torch.where(_weighted_sum(tensors, votes) >= 0, 1.0, -1.0).to(torch.float64)
    total, share = torch.zeros_like(sign), torch.zeros_like(sign)
    for index, (tensor, weight, vote) in enumerate(zip(tensors, numbers.weights, votes, strict=True)):
        agrees = tensor * sign * vote
        term = torch.where(agrees >= 0, tensor * weight, 0.0)
        total = term if index == 0 else total.add_(term)
        share.add_(agrees > 0, alpha=vote)
    return total / torch.where(share == 0, 1.0, share) * numbers.lambda_


def _arc_shares(first: Tensor, second: Tensor, t: float) -> tuple[float, float]:
    lengths = float(first.norm()) * float(second.norm())
    cosine = float((first * second).sum()) / lengths if lengths else 1.0
    if abs(cosine) > NEARLY_PARALLEL:
        return 1 - t, t
    angle = math.acos(cosine)
    return math.sin((1 - t) * angle) / math.sin(angle), math.sin(t * angle) / math.sin(angle)
