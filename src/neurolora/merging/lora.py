"""Plain LoRA and DoRA adapters: merged as the true deltas they are, and written as LoRA again.

Room: merging, for the rows of `methods.py` when the parents are of PEFT's LoRA. A parent's delta of a module
is s B A (DoRA: the whole change of W0, for which the base is read). A weighted sum of deltas is put together
from the factors, exactly, with the sum of the ranks; any other method works on the deltas entry by entry, and
its result is cut to that rank by its singular values. Averaging A and B apart would be something else.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from neurolora.adapter_file import HALVES, MAGNITUDE, scaling_of
from neurolora.adapter_reader import AdapterReader
from neurolora.errors import AdapterError, explain
from neurolora.merging.base_weights import BaseWeights
from neurolora.merging.by_tensor import Assembled, Combine, Job, merged_config

A, B = HALVES[0]


@dataclass(frozen=True)
class Factors:
    """A delta as up @ down: up (o, r), down (r, d), float32."""

    up: Tensor
    down: Tensor


def assemble_lora(combine: Combine, job: Job, *, is_weighted_sum: bool) -> Assembled:
    """The merged LoRA adapter. Raises AdapterError for what is no linear layer's LoRA, and for NaN."""
    modules = list(job.sources[0].modules)
    is_exact = is_weighted_sum and not any(is_dora(source) for source in job.sources)
    made: dict[str, Factors] = {}
    lost = total = 0.0
    for done, module in enumerate(modules):
        job.progress(done, len(modules))
        if is_exact:
            made[module] = _side_by_side(module, job)
            continue
        delta = combine(_Deltas(module, job), replace(job.numbers, name=module)).to(torch.float32)
        made[module], left = _cut(delta, _wanted_rank(module, job))
        lost, total = lost + left, total + float(delta.double().square().sum())
    job.progress(len(modules), len(modules))
    share = f"{100 * lost / total if total else 0:.2g}%"
    notes = () if is_exact else (f"cutting the merged deltas to their ranks lost {share} of their energy",)
    return Assembled(_tensors(made, job), _config(made, job), notes)


def is_dora(source: AdapterReader) -> bool:
    """Whether an adapter's update depends on W0 too."""
    return bool(source.config.get("use_dora"))


def delta_of(source: AdapterReader, module: str, base: BaseWeights | None) -> Tensor:
    """The change of W0 (o, d) that an adapter stands for: s B A; of DoRA m (W0 + s B A) / |.| - W0."""
    factors = _factors(source, module)
    delta = factors.up @ factors.down
    if not is_dora(source):
        return delta
    assert base is not None
    W0 = base.read(f"{module}.weight").to(torch.float32)
    changed = W0 + delta
    magnitude = source.get_tensor(source.modules[module][MAGNITUDE]).to(torch.float32).flatten()
    made: Tensor = (magnitude / changed.norm(dim=1)).unsqueeze(1) * changed - W0
    return made


def _factors(source: AdapterReader, module: str) -> Factors:
    parts = source.modules[module]
    if A not in parts or B not in parts or source.config.get("fan_in_fan_out"):
        found = f"{module} in {source.folder} has {', '.join(sorted(parts))}"
        do = "Only LoRA on linear layers is merged: embeddings, convolutions and transposed layers are not"
        raise AdapterError(explain("merging LoRA adapters", found, do))
    down, up = source.get_tensor(parts[A]).to(torch.float32), source.get_tensor(parts[B]).to(torch.float32)
    if down.dim() != 2 or up.dim() != 2:
        found = f"{module} in {source.folder} has A {tuple(down.shape)} and B {tuple(up.shape)}"
        raise AdapterError(explain("merging LoRA adapters", found, "Only LoRA on linear layers is merged"))
    return Factors(up * scaling_of(source.config, module, len(down)), down)


@dataclass(frozen=True)
class _Deltas:
    """The deltas of one module, made anew in each pass."""

    module: str
    job: Job

    def __iter__(self) -> Iterator[Tensor]:
        base = BaseWeights.of(self.job.sources[0].config) if any(map(is_dora, self.job.sources)) else None
        for source in self.job.sources:
            yield delta_of(source, self.module, base)


def _side_by_side(module: str, job: Job) -> Factors:
    """sum_i w_i s_i B_i A_i, exactly: [w_1 s_1 B_1, w_2 s_2 B_2, ...] [A_1; A_2; ...]."""
    found = [_factors(source, module) for source in job.sources]
    shapes = {(len(one.up), one.down.shape[1]) for one in found}
    if len(shapes) > 1:
        raise AdapterError(explain("merging LoRA adapters", f"{module} is {shapes}", "Use one base"))
    numbers = job.numbers
    factor = numbers.lambda_ / (sum(numbers.weights) if numbers.normalize else 1.0)
    ups = [one.up * (factor * weight) for one, weight in zip(found, numbers.weights, strict=True)]
    return Factors(torch.cat(ups, dim=1), torch.cat([one.down for one in found]))


def _wanted_rank(module: str, job: Job) -> int:
    """The sum of the parents' ranks; with DoRA, whose delta has no rank below W0's, all of it."""
    if any(is_dora(source) for source in job.sources):
        return 1 << 30
    return sum(source.entries[source.modules[module][A]].shape[0] for source in job.sources)


def _cut(delta: Tensor, rank: int) -> tuple[Factors, float]:
    """The nearest delta of at most that rank (Eckart-Young), and the squared norm of what was cut off."""
    U, S, Vh = torch.linalg.svd(delta, full_matrices=False)
    rank = min(rank, len(S))
    root = S[:rank].sqrt()
    return Factors(U[:, :rank] * root, root.unsqueeze(1) * Vh[:rank]), float(S[rank:].double().square().sum())


def _tensors(made: dict[str, Factors], job: Job) -> dict[str, Tensor]:
    """All modules with one rank, filled up with zeros; what lies beside the adapter as the first has it."""
    first, r = job.sources[0], _rank(made)
    dtype = getattr(torch, job.request.dtype or "float32")
    tensors = {key: first.get_tensor(key) for key in first.others if key not in job.verdict.left_out}
    for module, factors in made.items():
        parts, missing = first.modules[module], r - len(factors.down)
        down = torch.nn.functional.pad(factors.down, (0, 0, 0, missing))
        up = torch.nn.functional.pad(factors.up, (0, missing))
        tensors |= {parts[A]: down.to(dtype).contiguous(), parts[B]: up.to(dtype).contiguous()}
    return tensors


def _rank(made: dict[str, Factors]) -> int:
    return max(len(factors.down) for factors in made.values())


def _config(made: dict[str, Factors], job: Job) -> dict[str, Any]:
    """The first parent's config; the scaling is in B."""
    r = _rank(made)
    plain = {"use_dora": False, "use_rslora": False, "rank_pattern": {}, "alpha_pattern": {}}
    return merged_config(job) | plain | {"r": r, "lora_alpha": r}
