"""Adapters of one A into one, tensor by tensor: B by the method, gates by their mean, A as it is.

Room: merging. Called through the rows of `methods.py`. Holds the merged adapter, and of its parents one or
two tensors at a time.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from neurolora.adapter_file import BIAS, GATE, UP, split_key
from neurolora.adapter_reader import AdapterReader
from neurolora.errors import AdapterError, explain
from neurolora.merging.arithmetic import Coefficients
from neurolora.merging.checks import Verdict
from neurolora.merging.differences import alpha_over_r, setting
from neurolora.merging.gates import merged_gate
from neurolora.merging.request import MergeRequest
from neurolora.merging.sources import TensorStream

Progress = Callable[[int, int], None]
Combine = Callable[[Iterable[Tensor], Coefficients], Tensor]


def ignore(done: int, total: int) -> None:
    """The progress that nobody asked for."""


@dataclass(frozen=True)
class Job:
    """One merge that has passed its checks. progress is called with the tensors done, and of how many."""

    sources: Sequence[AdapterReader]
    request: MergeRequest
    numbers: Coefficients
    verdict: Verdict
    progress: Progress


@dataclass(frozen=True)
class Assembled:
    """What goes into the merged adapter's two files, and what a reader should know of how it was made."""

    tensors: dict[str, Tensor]
    config: dict[str, Any]
    notes: tuple[str, ...] = ()


def assemble_by_tensor(combine: Combine, job: Job) -> Assembled:
    """The merged adapter. Raises AdapterError for NaN or infinity in a parent's tensor, or in the result."""
    first = job.sources[0]
    keys = [key for key in first.entries if key not in job.verdict.left_out]
    tensors = {}
    for done, key in enumerate(keys):
        job.progress(done, len(keys))
        tensors[key] = _merged(key, combine, job)
    job.progress(len(keys), len(keys))
    config = merged_config(job)
    if job.request.gates == "widen":
        config["gate_dim"] = len(job.sources) * int(setting(config, "gate_dim"))
    return Assembled(tensors, config)


def merged_config(job: Job) -> dict[str, Any]:
    """The first parent's config: what B stands for, its scaling and the fingerprints among it."""
    config = copy.deepcopy(job.sources[0].config)
    if job.request.base_model is not None:
        config["base_model_name_or_path"] = job.request.base_model
    if job.verdict.left_out:
        config["modules_to_save"] = None
    return config


def gate_weights(numbers: Coefficients, count: int, method: str) -> tuple[float, ...]:
    """How much of each gate goes into the mean: the weights, in size if some are negative or they sum to 0.

    A gate is no difference from anything, so it is averaged and never summed, trimmed or subtracted. All 0
    counts as all alike. Slerp has 1 - t and t.
    """
    if method == "slerp":
        return 1 - numbers.t, numbers.t
    weights = numbers.weights
    if min(weights) < 0 or sum(weights) == 0:
        weights = tuple(abs(weight) for weight in weights)
    return weights if sum(weights) > 0 else (1.0,) * count


def _merged(key: str, combine: Combine, job: Job) -> Tensor:
    part = (split_key(key) or ("", ""))[1]
    if part == UP:
        stream = TensorStream(job.sources, key, _to_the_first_scaling(job.sources))
        merged = combine(stream, replace(job.numbers, name=key))
    elif part == BIAS or part.startswith(GATE):
        weights = gate_weights(job.numbers, len(job.sources), job.request.method)
        blocks = int(setting(job.sources[0].config, "blocks"))
        stream = TensorStream(job.sources, key)
        merged = merged_gate(part.removeprefix(GATE), stream, weights, job.request.gates, blocks)
    else:
        return job.sources[0].get_tensor(key)
    if job.request.dtype is not None and part != BIAS:
        merged = merged.to(getattr(torch, job.request.dtype))
    if not bool(torch.isfinite(merged).all()):
        found = f"the merged {key} does not fit into {merged.dtype}"
        raise AdapterError(explain("merging adapters", found, "Use smaller weights, or dtype float32"))
    return merged


def _to_the_first_scaling(sources: Sequence[AdapterReader]) -> Callable[[Tensor, int], Tensor] | None:
    """B_i times (alpha_i / r) / (alpha_1 / r), in float64, so that the first parent's alpha holds for all."""
    scalings = [alpha_over_r(source.config) for source in sources]
    if all(scaling == scalings[0] for scaling in scalings):
        return None

    def change(tensor: Tensor, index: int) -> Tensor:
        if scalings[index] == scalings[0]:
            return tensor
        return tensor.to(torch.float64) * (scalings[index] / scalings[0])

    return change
