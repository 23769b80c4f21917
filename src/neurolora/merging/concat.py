"""Adapters side by side: the exact sum of their outputs as one adapter, whatever the A of each.

Room: merging, a row of `methods.py`. Each parent becomes a block with an A, a gate and a top-k of its own
(docs/method.md, blocks), so that the merged adapter computes

    dy = lambda sum_i w_i (alpha_i / r_i) sum over j in S_i of B_i[:, j] h'_i[j],

where S_i and h'_i are what parent i alone would have. Nothing is averaged; the rank is the sum of the ranks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from neurolora.adapter_file import BIAS, FINGERPRINT, GATE, SCALE, UP, A, split_key
from neurolora.adapter_reader import AdapterReader
from neurolora.core.projection import Projection, fingerprint
from neurolora.errors import AdapterError, explain
from neurolora.merging.by_tensor import Assembled, Job, merged_config
from neurolora.merging.differences import alpha_over_r, setting
from neurolora.merging.likeness import is_projection
from neurolora.merging.projections import projection_of


def assemble_side_by_side(job: Job) -> Assembled:
    """The blocked adapter. Raises AdapterError for tensors that are damaged or cannot stand together."""
    first = job.sources[0]
    packed = _can_stay_packed(job.sources)
    keys = [key for key in first.entries if key not in job.verdict.left_out and not is_projection(key)]
    tensors: dict[str, Tensor] = {}
    for done, key in enumerate(keys):
        job.progress(done, len(keys))
        tensors[key] = _stacked(key, job)
    for module in first.modules:
        tensors |= _projection_tensors(module, job.sources, packed)
    job.progress(len(keys), len(keys))
    return Assembled(tensors, _config(job, packed))


def _stacked(key: str, job: Job) -> Tensor:
    """One tensor of every parent: B's columns side by side, weighted; a gate's rows one below the other."""
    part = (split_key(key) or ("", ""))[1]
    if part == UP:
        columns = [_weighted(source.get_tensor(key), index, job) for index, source in enumerate(job.sources)]
        _require_equal_rows(key, columns)
        merged = torch.cat(columns, dim=1)
    elif part == BIAS or part.startswith(GATE):
        merged = torch.cat([source.get_tensor(key) for source in job.sources])
    else:
        return job.sources[0].get_tensor(key)
    wanted = getattr(torch, job.request.dtype) if job.request.dtype and part != BIAS else None
    return merged if wanted is None else merged.to(wanted)


def _weighted(B: Tensor, index: int, job: Job) -> Tensor:
    """B_i times its weight, lambda, and what its own scaling is of the first parent's; as it is for 1."""
    own, first = (alpha_over_r(job.sources[place].config) for place in (index, 0))
    factor = job.numbers.lambda_ * job.numbers.weights[index] * own / first
    if job.numbers.normalize:
        factor /= sum(job.numbers.weights)
    return B if factor == 1 else (B.to(torch.float64) * factor).to(B.dtype)


def _require_equal_rows(key: str, columns: Sequence[Tensor]) -> None:
    rows = [B.shape[0] for B in columns]
    if len(set(rows)) > 1:
        found = f"{key} has {', '.join(map(str, rows))} rows in the parents"
        raise AdapterError(explain("putting adapters side by side", found, "Merge adapters of one base"))


def _projection_tensors(module: str, sources: Sequence[AdapterReader], packed: bool) -> dict[str, Tensor]:
    """A of one module, its scale and its fingerprint; of one parent alone as they are."""
    if len(sources) == 1:
        parts = sources[0].modules[module].values()
        return {key: sources[0].get_tensor(key) for key in parts if is_projection(key)}
    found = [projection_of(source, module) for source in sources]
    if packed:
        made = Projection(torch.cat([one.values for one in found]), found[0].scale)
    else:
        made = Projection(torch.cat([one.dense() for one in found]), 1.0)
    prefix = sources[0].modules[module][UP].removesuffix(UP)
    return {
        prefix + A: made.stored(),
        prefix + SCALE: torch.tensor(made.scale, dtype=torch.float64),
        prefix + FINGERPRINT: torch.tensor(list(bytes.fromhex(fingerprint(made))), dtype=torch.uint8),
    }


def _can_stay_packed(sources: Sequence[AdapterReader]) -> bool:
    """Whether all A are ternary, of one scale in each module; else they are float32, scale included."""
    if any(source.config.get("projection", "ternary") != "ternary" for source in sources):
        return False
    if any(setting(source.config, "train_projection") for source in sources):
        return False
    return all(
        len({float(source.get_tensor(source.modules[module][SCALE]).flatten()[0]) for source in sources}) == 1
        for module in sources[0].modules
    )


def _config(job: Job, packed: bool) -> dict[str, Any]:
    """The first parent's config with the ranks and blocks of all; its scaling holds for all."""
    config, first = merged_config(job), job.sources[0].config
    if len(job.sources) == 1:
        return config
    r = sum(int(setting(source.config, "r")) for source in job.sources)
    return config | {
        "r": r,
        "blocks": sum(int(setting(source.config, "blocks")) for source in job.sources),
        "lora_alpha": alpha_over_r(first) * r,
        "projection": "ternary" if packed else "gaussian",
        "train_projection": False,
        "save_projection": True,
        "projection_fingerprint": None,
    }
