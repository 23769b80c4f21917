"""An adapter in its folder, opened to be compared: every tensor is read when it is asked for, and checked.

Room: merging. `interference_collection` and `routing_sets` call it. NeuroLoRA, FlyLoRA and LoRA are read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neurolora.adapter_file import (
    DEFAULT_ALPHA,
    FINGERPRINT,
    ROUTED,
    Keys,
    known_as,
    method_name,
    pair_of,
    scaling_of,
    sorted_modules,
)
from neurolora.adapter_reader import AdapterReader
from neurolora.errors import AdapterError, explain
from neurolora.merging.completeness import require_complete
from neurolora.merging.interference import Delta
from neurolora.merging.projections import known_width, projection_of, recorded_fingerprint
from neurolora.merging.sources import open_adapters

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class StoredAdapter:
    """One adapter whose file is open; it is valid inside `adapters_to_compare` only.

    label: a short name that no other adapter of the comparison has. modules: in the model's order.
    """

    label: str
    source: AdapterReader
    modules: Keys

    @property
    def folder(self) -> Path:
        """Where it lies."""
        return self.source.folder

    @property
    def config(self) -> dict[str, Any]:
        """What its `adapter_config.json` says."""
        return self.source.config

    @property
    def is_routed(self) -> bool:
        """Whether it has an A from a seed and routing sets."""
        return bool(self.config["peft_type"] == ROUTED)

    @property
    def method(self) -> str:
        """`NeuroLoRA`, `FlyLoRA`, `LoRA` or `DoRA`."""
        return "DoRA" if self.config.get("use_dora") else method_name(self.config)

    def up_shape(self, module: str) -> tuple[int, ...]:
        """B's shape: out_features, then r."""
        return self.source.shape_of(module, self._pair(module)[1])

    def read(self, module: str, part: str) -> Tensor:
        """One tensor, at least float32. Raises AdapterError if it is not all finite."""
        import torch

        stored = self.source.get_tensor(self.modules[module][part])
        return stored.to(torch.promote_types(stored.dtype, torch.float32))

    def fingerprint(self, module: str) -> str | None:
        """The fingerprint of A as recorded; None for an A of its own kind, such as LoRA's."""
        return recorded_fingerprint(self.source, module) if FINGERPRINT in self.modules[module] else None

    def scaling(self, module: str) -> float:
        """The factor of B, as `scaling_of` has it."""
        return scaling_of(self.config, module, self.up_shape(module)[1])

    def delta(self, module: str, with_A: bool) -> Delta:
        """The update of a module as factors, B alone or with its dense A. Raises AdapterError."""
        B = self.read(module, self._pair(module)[1]).flatten(1)
        A = self.down_projection(module) if with_A else None
        if A is not None and A.shape[0] != B.shape[1]:
            asked = f"reading {module} of {self.folder}"
            found = f"A has {A.shape[0]} rows, B {B.shape[1]} columns"
            raise AdapterError(explain(asked, found, "The file is damaged: save or copy it again"))
        return Delta(B, self.scaling(module), A)

    def down_projection(self, module: str) -> Tensor:
        """A (r, d), at least float32; of a routed adapter it is checked. Raises AdapterError."""
        if self.is_routed:
            return projection_of(self.source, module).dense()
        return self.read(module, self._pair(module)[0]).flatten(1)

    def width(self, module: str) -> int:
        """in_features, from a header where one tells it."""
        return known_width(self.source, module) or int(self.down_projection(module).shape[1])

    def _pair(self, module: str) -> tuple[str, str]:
        return pair_of(self.modules[module]) or ("", "")


@contextmanager
def adapters_to_compare(folders: Sequence[Path | str]) -> Iterator[list[StoredAdapter]]:
    """Open all folders, their files closed at the end of the block.

    Raises AdapterError for a folder that is no adapter, a method that is not known here, a file that is
    truncated or lacks a tensor.
    """
    with ExitStack() as stack:
        sources = open_adapters(folders, stack)
        for source in sources:
            _require_known(source)
            require_complete(source)
        names = labels([source.folder for source in sources])
        yield [
            StoredAdapter(name, source, dict(sorted_modules(source.modules)))
            for name, source in zip(names, sources, strict=True)
        ]


def labels(paths: Sequence[Path]) -> list[str]:
    """The shortest ending of each path that tells them all apart; the same path twice gets numbers."""
    whole = [Path(known_as(path.expanduser().resolve())) for path in paths]
    longest = max(len(path.parts) for path in whole)
    for count in range(1, longest + 1):
        short = ["/".join(path.parts[-count:]) for path in whole]
        if len(set(short)) == len(set(whole)):
            break
    earlier = [short[:index].count(name) for index, name in enumerate(short)]
    return [f"{name} ({count + 1})" if count else name for name, count in zip(short, earlier, strict=True)]


def _require_known(source: AdapterReader) -> None:
    kind = source.config["peft_type"]
    if kind not in DEFAULT_ALPHA:
        do = "Give NeuroLoRA, FlyLoRA or LoRA adapters"
        raise AdapterError(explain(f"comparing the adapter {source.folder}", f"it is a {kind} adapter", do))
