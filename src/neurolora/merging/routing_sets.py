"""The routing set S of a stored adapter on given inputs, from its own tensors: no base model is needed.

Room: merging. `interference_collection` calls it, for one module at a time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from neurolora.adapter_file import BIAS, GATE, GATE_PARTS
from neurolora.errors import AdapterError, explain
from neurolora.merging.stored_adapter import StoredAdapter

if TYPE_CHECKING:
    from torch import Tensor


def random_inputs(module: str, width: int, tokens: int, seed: int) -> Tensor:
    """N(0, 1) float32 (tokens, width), the same for the same arguments whatever was drawn before."""
    import torch

    from neurolora.core.projection import private_generator

    generator = private_generator("interference", int(seed), module, width)
    return torch.randn(tokens, width, generator=generator, dtype=torch.float32, device="cpu")


def routing_mask(adapter: StoredAdapter, module: str, x: Tensor, A: Tensor) -> Tensor:
    """True at the ranks in S (Eqs. 3-5): bool (N, r) for x (N, d) and the adapter's A (r, d).

    Raises AdapterError if a part of the gate is missing, or x has another width.
    """
    from neurolora.core.routing import block_top_k_mask, routing_score
    from neurolora.core.update import low_rank_activations

    if x.shape[1] != A.shape[1]:
        asked = f"routing {module} of {adapter.folder}"
        found = f"the input has {x.shape[1]} features, its A {A.shape[1]} columns"
        raise AdapterError(explain(asked, found, "Compare adapters of the same base model"))
    h_mod = low_rank_activations(x, A, _modulation(adapter, module, x))
    bias = adapter.read(module, BIAS) if BIAS in adapter.modules[module] else None
    score = routing_score(h_mod, adapter.config.get("routing", "abs"), bias)
    return block_top_k_mask(score, adapter.config.get("top_k", 8), adapter.config.get("blocks", 1))


def _modulation(adapter: StoredAdapter, module: str, x: Tensor) -> Tensor | None:
    """m (N, r) or (r) by the adapter's gate; None without one."""
    from neurolora.core.gate import modulation, static_modulation

    kind = adapter.config.get("gate", "token")
    parts = [_gate_part(adapter, module, part, x.shape[1]) for part in GATE_PARTS[kind]]
    if kind == "none":
        return None
    if kind == "static":
        return static_modulation(*parts)
    W1, W2, gamma, beta = parts
    return modulation(x, W1, W2, gamma, beta, adapter.config.get("blocks", 1))


def _gate_part(adapter: StoredAdapter, module: str, part: str, width: int) -> Tensor:
    """A part of the gate, the module's own or, if shared, that of the module which holds it."""
    name = GATE + part
    if name in adapter.modules[module]:
        return adapter.read(module, name)
    lender = _lender(adapter, module, name, width)
    if lender is None:
        asked = f"routing {module} of {adapter.folder}"
        do = "The file is incomplete: save or copy it again"
        raise AdapterError(explain(asked, f"missing: {name}, of its own or shared", do))
    return adapter.read(lender, name)


def _lender(adapter: StoredAdapter, module: str, name: str, width: int) -> str | None:
    """The module of the same gate group (tuner.naming) that holds this part."""
    from neurolora.tuner.naming import gate_group

    sharing = adapter.config.get("gate_sharing", "module")
    group = gate_group(module, width, sharing)
    holders = (other for other, parts in adapter.modules.items() if name in parts)
    # the width comes last: it may cost the reading of an A
    fitting = (other for other in holders if gate_group(other, width, sharing) == group)
    return next((other for other in fitting if adapter.width(other) == width), None)
