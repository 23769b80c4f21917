"""How much memory a run takes, roughly: an estimate to choose a machine by, never a measurement.

Room: training; used by `plan`. Arithmetic on shapes.
"""

from __future__ import annotations

from typing import Any

from neurolora.training.config import TrainingConfig

BYTES = {"float32": 4.0, "bfloat16": 2.0, "float16": 2.0}
ADAM_BYTES = 8  # two moments in float32


def estimate_memory(model: Any, config: TrainingConfig, model_config: Any, length: int) -> dict[str, Any]:
    """Bytes of weights, gradients, optimizer state and activations for rows of `length` tokens.

    Activations: for each token and layer about 10 vectors of the hidden width and 3 of the feed-forward width
    are kept for the backward pass (with checkpointing 1, and one layer in full), and the logits three times
    in float32. Attention is taken as not storing its matrix.
    """
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    frozen = sum(p.numel() for p in model.parameters()) - trained
    buffers = sum(b.numel() * b.element_size() for b in model.buffers())
    parts = {
        "weights": int(frozen * weight_bytes(config, model_config) + buffers + 4 * trained),
        "gradients": 4 * trained,
        "optimizer": ADAM_BYTES * trained,
        "activations": _activations(config, model_config, length),
    }
    return {
        **parts,
        "total": sum(parts.values()),
        "row_length": length,
        "note": "an estimate for one process; the activations are rough",
    }


def weight_bytes(config: TrainingConfig, model_config: Any) -> float:
    """Bytes of one frozen weight."""
    if config.model.load_in_4bit:
        return 0.55  # with the scales of its blocks
    if config.model.load_in_8bit:
        return 1.05
    name: str = config.model.dtype
    if name == "auto":
        name = str(getattr(model_config, "dtype", None) or "float32").removeprefix("torch.")
    return BYTES.get(name, 4.0)


def _activations(config: TrainingConfig, model_config: Any, length: int) -> int:
    text = model_config.get_text_config() if hasattr(model_config, "get_text_config") else model_config
    hidden = int(getattr(text, "hidden_size", 0) or getattr(text, "n_embd", 0) or 0)
    layers = int(getattr(text, "num_hidden_layers", 0) or getattr(text, "n_layer", 0) or 0)
    inner = int(getattr(text, "intermediate_size", None) or 4 * hidden)
    half = config.train.bf16 or config.train.fp16 or config.model.dtype in ("bfloat16", "float16")
    size = 2 if half else 4
    tokens = config.train.per_device_train_batch_size * length
    layer = tokens * (10 * hidden + 3 * inner) * size
    kept = layer + layers * tokens * hidden * size if config.train.gradient_checkpointing else layers * layer
    return kept + 3 * 4 * tokens * int(getattr(text, "vocab_size", 0) or 0)
