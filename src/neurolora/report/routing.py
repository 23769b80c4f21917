"""Running an adapted model over texts to see its routing: how often each rank is used, what the gate does.

Room: report. Called by the command `inspect`; it loads the base model, and nothing is trained or written.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from neurolora.adapter_file import read_adapter_config
from neurolora.errors import ConfigError, DataError, explain

BLOCK_TOKENS = 256


def measure_routing(
    adapter: Path | str,
    texts: Sequence[str],
    *,
    base_model: str | None = None,
    dtype: str | None = None,
    device: str | None = None,
    max_tokens: int = 8192,
    allow_base_mismatch: bool = False,
) -> dict[str, Any]:
    """Routing over the first `max_tokens` tokens of the texts, in the form of `routing.json`.

    base_model, dtype, device, allow_base_mismatch: as `neurolora.evaluation.load_for_inference` takes them,
    whose errors come through. Raises ConfigError for an adapter without routing, DataError for texts
    without a token.
    """
    import torch

    from neurolora.evaluation import load_for_inference

    _require_routing(Path(adapter))
    loaded = load_for_inference(adapter, base_model, dtype, device, allow_base_mismatch)
    blocks = list(token_blocks(loaded.tokenizer, texts, max_tokens))
    if not blocks:
        raise DataError(explain("measuring the routing", "the texts hold no token", "Give a file with text"))

    from neurolora.tuner import routing_statistics

    with torch.inference_mode(), routing_statistics(loaded.model) as statistics:
        for block in blocks:
            ids = torch.tensor([block], device=loaded.model.device)
            loaded.model(input_ids=ids, attention_mask=torch.ones_like(ids))
    found: dict[str, Any] = statistics.summary()
    return found


def _require_routing(folder: Path) -> None:
    """Plain LoRA is refused before a base is loaded for it."""
    kind = read_adapter_config(folder)["peft_type"]
    if kind != "NEUROLORA":
        found = f"it is a {kind} adapter, which uses all its ranks for every token"
        raise ConfigError(explain(f"measuring the routing of {folder}", found, "Leave out --text"))


def token_blocks(tokenizer: Any, texts: Sequence[str], max_tokens: int) -> Iterator[list[int]]:
    """The texts as blocks of at most `BLOCK_TOKENS` tokens, `max_tokens` of them in all."""
    left = max_tokens
    for text in texts:
        ids = tokenizer(text, verbose=False)["input_ids"]
        for start in range(0, len(ids), BLOCK_TOKENS):
            block = ids[start : start + BLOCK_TOKENS][:left]
            if block:
                yield block
            left -= len(block)
