"""What the adapted modules of a base model read when it runs over texts: the inputs for comparing routing.

Room: report. Called by the command `inspect` for several adapters. The adapters are switched off while the
base runs, so that all of them are routed on one and the same input.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neurolora.adapter_file import read_adapter_config
from neurolora.errors import ConfigError, DataError, explain
from neurolora.report.routing import token_blocks

if TYPE_CHECKING:
    from torch import Tensor

#: Tokens kept of all that were run: enough for a mean, and little to hold for every module of a large model.
KEPT_TOKENS = 512
PREFIX = "base_model.model."


def inputs_from_texts(
    adapters: Sequence[Path | str],
    texts: Sequence[str],
    *,
    base_model: str | None = None,
    dtype: str | None = None,
    device: str | None = None,
    max_tokens: int = 8192,
    allow_base_mismatch: bool = False,
) -> dict[str, Tensor]:
    """Module -> x (N, d) on the CPU, in the base's dtype; N is at most about `KEPT_TOKENS`, evenly spread.

    The base is that of the first adapter with routing, which is loaded as
    `neurolora.evaluation.load_for_inference` does; its errors come through. Raises ConfigError if no
    adapter routes, DataError for texts without a token.
    """
    from neurolora.evaluation import load_for_inference

    adapter = first_routed(adapters, "--text")
    loaded = load_for_inference(adapter, base_model, dtype, device, allow_base_mismatch)
    blocks = list(token_blocks(loaded.tokenizer, texts, max_tokens))
    if not blocks:
        raise DataError(explain("comparing the routing", "the texts hold no token", "Give a file with text"))
    return collect_inputs(loaded.model, blocks, KEPT_TOKENS)


def collect_inputs(model: Any, blocks: Sequence[Sequence[int]], keep: int) -> dict[str, Tensor]:
    """Every n-th token's input of each adapted module of a PEFT model, its adapters switched off."""
    import torch

    total = sum(map(len, blocks))
    collected = _Collected(every=-(-total // keep))
    with torch.inference_mode(), model.disable_adapter(), _hooks(model, collected):
        for block in blocks:
            ids = torch.tensor([block], device=model.device)
            model(input_ids=ids, attention_mask=torch.ones_like(ids))
            collected.seen += len(block)
    return collected.joined()


class _Collected:
    """Rows kept so far. Modules that read one tensor, such as q, k and v, share the copy of it."""

    def __init__(self, every: int) -> None:
        self.every = every
        self.seen = 0
        self.parts: dict[str, list[Tensor]] = {}
        self._last: tuple[Tensor, Tensor] | None = None

    def add(self, name: str, x: Tensor) -> None:
        """Keep every n-th row of x (1, N, d), counted over all blocks."""
        if self._last is None or self._last[0] is not x:
            rows = x.reshape(-1, x.shape[-1])[-self.seen % self.every :: self.every]
            self._last = (x, rows.to("cpu", copy=True))
        self.parts.setdefault(name, []).append(self._last[1])

    def joined(self) -> dict[str, Tensor]:
        """All rows of each module; what was shared stays so."""
        import torch

        found: dict[tuple[int, ...], Tensor] = {}
        keys = {name: tuple(map(id, parts)) for name, parts in self.parts.items()}
        for name, key in keys.items():
            if key not in found:
                found[key] = torch.cat(self.parts[name])
        return {name: found[key] for name, key in keys.items()}


@contextmanager
def _hooks(model: Any, collected: _Collected) -> Iterator[None]:
    """Note the input of every adapted module inside the block."""
    from neurolora.tuner import adapter_layers

    handles = []
    for path, layer in adapter_layers(model):

        def note(_: Any, inputs: tuple[Tensor, ...], name: str = path.removeprefix(PREFIX)) -> None:
            collected.add(name, inputs[0])

        handles.append(layer.register_forward_pre_hook(note))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def first_routed(adapters: Sequence[Path | str], asked_by: str) -> Path:
    """The first adapter that routes. Raises ConfigError if none does; asked_by: the flags to leave out then.

    Adapters without routing are refused before a base is loaded, or anything compared, for them.
    """
    kinds = {str(adapter): read_adapter_config(Path(adapter))["peft_type"] for adapter in adapters}
    routed = [name for name, kind in kinds.items() if kind == "NEUROLORA"]
    if not routed:
        found = (
            f"they are {', '.join(sorted(set(kinds.values())))} adapters, which use all ranks for every token"
        )
        raise ConfigError(explain("comparing the routing of the adapters", found, f"Leave out {asked_by}"))
    return Path(routed[0])
