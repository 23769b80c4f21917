"""Which model something was measured on, so that it is not used for another.

Room: evaluation. The command `estimate` writes it into a calibration and compares it. It reads tensors and
changes nothing.
"""

from __future__ import annotations

import hashlib
from typing import Any

import torch


def identity_of(model: Any) -> dict[str, Any]:
    """Plain JSON values. base: a fingerprint of the base's weights, compared with tolerance for its dtype.

    adapter: sha256 of the active adapter's tensors; None for a plain model, which must be the same exactly.
    """
    from neurolora.tuner import base_fingerprint

    return {"base": base_fingerprint(model), "adapter": _adapter_digest(model)}


def identity_difference(saved: dict[str, Any], model: Any) -> str | None:
    """A sentence if `model` is another than `saved` was taken from, else None.

    Raises KeyError or TypeError for what `identity_of` has not made.
    """
    from neurolora.tuner import base_difference, base_fingerprint

    digest, base = _adapter_digest(model), base_fingerprint(model)["digest"]
    known = saved["base"]["digest"]
    # Whole models may be fine-tuned from one and differ by less than another dtype makes: no tolerance there.
    plain = saved["adapter"] is None and digest is None
    if (plain and known != base) or base_difference(saved["base"], model) is not None:
        return f"it was made on base {known}, and this is {base}"
    if saved["adapter"] != digest:
        return f"it was made with {_named(saved['adapter'])}, and this is {_named(digest)}"
    return None


def _named(digest: str | None) -> str:
    return "no adapter" if digest is None else f"adapter {digest[:16]}"


def _adapter_digest(model: Any) -> str | None:
    """sha256 over names, shapes, dtypes and bytes of what PEFT would save of the active adapter."""
    if not getattr(model, "peft_config", None):
        return None
    from peft import get_peft_model_state_dict

    digest = hashlib.sha256()
    tensors = get_peft_model_state_dict(model, adapter_name=model.active_adapter, save_embedding_layers=False)
    for name, tensor in sorted(tensors.items()):
        values = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype} ".encode())
        digest.update(values.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
