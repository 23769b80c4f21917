"""What a base model and a set of projections were, in a few hundred bytes that travel with an adapter.

Room: tuner. Reads tensors, changes nothing. A base is known by the shape of its architecture and by a sample
of its weights, compared with a tolerance: a copy in another dtype, or quantised, is the same base.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from neurolora.errors import FingerprintMismatchError, explain
from neurolora.tuner.naming import canonical_name

ARCHITECTURE_KEYS = (
    "model_type", "hidden_size", "d_model", "n_embd", "num_hidden_layers", "num_layers", "n_layer",
    "num_attention_heads", "num_heads", "n_head", "num_key_value_heads", "head_dim", "intermediate_size",
    "d_ff",
)  # fmt: skip
SAMPLED_TENSORS = 24
SAMPLED_VALUES = 4
# Rounding to bfloat16 moves a value by at most 2^-9 of itself; another training run moves most by far more.
RELATIVE_TOLERANCE = 2.0**-8
ABSOLUTE_TOLERANCE = 1e-6
# A head or a pooler that is drawn anew at every load may differ without the base being another one.
SHARE_THAT_MAY_DIFFER = 0.2

Fingerprint = dict[str, Any]


def base_fingerprint(model: nn.Module) -> Fingerprint:
    """`{"architecture", "sample", "digest"}` of a base model, adapters in it left out.

    sample: name -> a few of the tensor's values, of weights that are in memory in a floating dtype.
    digest: 16 hex digits over both, to name the base in a message; equality is `same_base`'s to decide.
    """
    architecture = _architecture(model)
    weights = dict(sorted(_plain_weights(model)))
    sample = {name: _sample(weights[name]) for name in _spread(list(weights), SAMPLED_TENSORS)}
    return {"architecture": architecture, "sample": sample, "digest": _digest([architecture, sample])}


def same_base(saved: Fingerprint, model: nn.Module) -> bool:
    """Whether `model` is the base that `saved` was taken from; True where nothing can be compared."""
    if _changed(saved, _architecture(model)):
        return False
    weights = dict(_plain_weights(model))
    if _is_quantised(model):
        weights = {name: weight for name, weight in weights.items() if _is_kept_by_quantisers(name, weight)}
    pairs = [
        (old, new)
        for name, values in saved["sample"].items()
        if name in weights
        for old, new in zip(values, _sample(weights[name]), strict=False)
    ]
    differing = sum(not _close(old, new) for old, new in pairs)
    return differing <= SHARE_THAT_MAY_DIFFER * len(pairs)


def base_difference(saved: Fingerprint | None, model: nn.Module) -> str | None:
    """A sentence naming both fingerprints if `model` is another base than the adapter's, else None."""
    if not saved or same_base(saved, model):
        return None
    current = base_fingerprint(model)
    changed = _changed(saved, current["architecture"])
    detail = f"; they differ in {changed}" if changed else "; same architecture, other weights"
    return f"the adapter was trained on base {saved['digest']}, this base is {current['digest']}{detail}"


def require_same_base(saved: Fingerprint | None, model: nn.Module) -> None:
    """Refuse another base.

    Raises:
        FingerprintMismatchError: naming both fingerprints.
    """
    difference = base_difference(saved, model)
    if difference:
        raise FingerprintMismatchError(
            explain("using the adapter on this base model", difference, "Load the base it was trained on")
        )


def combined_fingerprint(parts: Mapping[str, str]) -> str:
    """One fingerprint for the projections of all modules, whatever their order: 16 hex digits."""
    return _digest(sorted(parts.items()))


def _architecture(model: nn.Module) -> dict[str, Any]:
    config = getattr(model, "config", None)
    values = config.to_dict() if config is not None and hasattr(config, "to_dict") else {}
    return {key: values[key] for key in ARCHITECTURE_KEYS if values.get(key) is not None}


def _changed(saved: Fingerprint, architecture: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """What differs, old and new; a key that one side lacks (another transformers) is no difference."""
    old = saved["architecture"]
    return {key: (old[key], new) for key, new in architecture.items() if key in old and old[key] != new}


def _plain_weights(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Names and values of the base's own weights that can be read here and now."""
    prefix = getattr(model, "base_model_prefix", "")
    for path, weight in model.named_parameters():
        if ".neurolora_" in path or "modules_to_save" in path or "original_module" in path or "lora_" in path:
            continue
        if weight.is_floating_point() and not weight.is_meta and weight.numel() >= SAMPLED_VALUES:
            yield canonical_name(path, prefix), weight


def _sample(weight: Tensor) -> list[float]:
    """Values at fixed places of the first rows, which a resized vocabulary leaves alone."""
    flat = weight.detach().reshape(-1)
    reach = min(flat.numel(), 4096)
    places = [(2 * i + 1) * reach // (2 * SAMPLED_VALUES) for i in range(SAMPLED_VALUES)]
    values = flat[torch.tensor(places, device=flat.device)].float()
    return [float(f"{value:.9g}") if math.isfinite(value) else 0.0 for value in values.tolist()]


def _spread(names: list[str], count: int) -> list[str]:
    if len(names) <= count:
        return names
    return [names[i * len(names) // count] for i in range(count)]


def _is_quantised(model: nn.Module) -> bool:
    config = getattr(model, "config", None)
    return getattr(model, "is_quantized", False) or getattr(config, "quantization_config", None) is not None


def _is_kept_by_quantisers(name: str, weight: Tensor) -> bool:
    return weight.dim() == 1 or "embed" in name or "wte" in name or "shared" in name


def _close(old: float, new: float) -> bool:
    return abs(old - new) <= max(ABSOLUTE_TOLERANCE, RELATIVE_TOLERANCE * max(abs(old), abs(new)))


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
