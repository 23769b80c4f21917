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
    WEIGHTS,
    Keys,
    group_keys,
    method_name,
    open_weights,
    other_half,
    pair_of,
    read_adapter_config,
    scaling_of,
    shape_of,
    sorted_modules,
)
from neurolora.errors import AdapterError, explain
from neurolora.merging.interference import Delta
from neurolora.merging.projections import drawn_projection, read_projection, recorded_fingerprint

if TYPE_CHECKING:
    from torch import Tensor

ROUTED = "NEUROLORA"
W1 = "neurolora_gate_W1"


@dataclass(frozen=True)
class StoredAdapter:
    """One adapter whose file is open; it is valid inside `open_adapters` only.

    label: a short name that no other adapter of the comparison has. others: keys of tensors beside the
    adapter, such as heads.
    """

    label: str
    folder: Path
    config: dict[str, Any]
    weights: Any
    modules: Keys
    others: list[str]

    @property
    def is_routed(self) -> bool:
        """Whether it has an A from a seed and routing sets."""
        return bool(self.config["peft_type"] == ROUTED)

    @property
    def method(self) -> str:
        """`NeuroLoRA`, `FlyLoRA`, `LoRA` or `DoRA`."""
        return "DoRA" if self.config.get("use_dora") else method_name(self.config)

    def shape(self, module: str, part: str) -> tuple[int, ...]:
        """A tensor's shape, from the header."""
        return shape_of(self.weights, self.modules[module][part])

    def up_shape(self, module: str) -> tuple[int, ...]:
        """B's shape: out_features, then r."""
        return self.shape(module, self._pair(module)[1])

    def read(self, module: str, part: str) -> Tensor:
        """One tensor, at least float32. Raises AdapterError if it is empty or not all finite."""
        import torch

        self.shape(module, part)
        stored: Tensor = self.weights.get_tensor(self.modules[module][part])
        tensor = stored.to(torch.promote_types(stored.dtype, torch.float32))
        if not bool(torch.isfinite(tensor).all()):
            wrong = int((~torch.isfinite(tensor)).sum())
            found = f"{wrong} of its {tensor.numel():,} entries are NaN or infinite"
            asked = f"reading {module}.{part} of {self.folder}"
            raise AdapterError(explain(asked, found, "Train or copy the adapter again, or leave it out"))
        return tensor

    def fingerprint(self, module: str) -> str | None:
        """The fingerprint of A as recorded; None for an A of its own kind, such as LoRA's."""
        key = self.modules[module].get("neurolora_A_fingerprint")
        return recorded_fingerprint(self.weights, key) if key else None

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
        """A (r, d), at least float32: as stored, or drawn again from its seed. Raises AdapterError."""
        part = self._pair(module)[0]
        if part != "neurolora_A":
            return self.read(module, part).flatten(1)
        parts = self.modules[module]
        if part in parts:
            return read_projection(self.weights, module, parts, self._gate_width(module)).dense()
        width = self._gate_width(module)
        if width is None:
            found = "only the seed of A was saved, and without a gate of its own its width is not known"
            do = "Save the adapter again with save_projection=True"
            raise AdapterError(explain(f"reading the projection A of {module} in {self.folder}", found, do))
        recorded = self.fingerprint(module) or ""
        return drawn_projection(self.config, module, self.up_shape(module)[1], width, recorded).dense()

    def width(self, module: str) -> int:
        """in_features, from a header where one tells it."""
        return self._gate_width(module) or int(self.down_projection(module).shape[1])

    def _pair(self, module: str) -> tuple[str, str]:
        return pair_of(self.modules[module]) or ("", "")

    def _gate_width(self, module: str) -> int | None:
        return self.shape(module, W1)[1] if W1 in self.modules[module] else None


@contextmanager
def open_adapters(folders: Sequence[Path | str]) -> Iterator[list[StoredAdapter]]:
    """Open all folders, their files closed at the end of the block.

    Raises AdapterError for a folder that is no adapter, a method that is not known here, a file that is
    truncated or lacks half of a module.
    """
    paths = [Path(folder) for folder in folders]
    with ExitStack() as stack:
        adapters = []
        for path, label in zip(paths, labels(paths), strict=True):
            config = read_adapter_config(path)
            weights = stack.enter_context(open_weights(path))
            modules, others = group_keys(weights)
            _require_known(path, config)
            _require_complete(path, config, modules)
            found = dict(sorted_modules(modules))
            adapters.append(StoredAdapter(label, path, config, weights, found, others))
        yield adapters


def labels(paths: Sequence[Path]) -> list[str]:
    """The shortest ending of each path that tells them all apart; the same path twice gets numbers."""
    whole = [path.expanduser().resolve() for path in paths]
    longest = max(len(path.parts) for path in whole)
    for count in range(1, longest + 1):
        short = ["/".join(path.parts[-count:]) for path in whole]
        if len(set(short)) == len(set(whole)):
            break
    earlier = [short[:index].count(name) for index, name in enumerate(short)]
    return [f"{name} ({count + 1})" if count else name for name, count in zip(short, earlier, strict=True)]


def _require_known(folder: Path, config: dict[str, Any]) -> None:
    kind = config["peft_type"]
    if kind not in DEFAULT_ALPHA:
        do = "Give NeuroLoRA, FlyLoRA or LoRA adapters"
        raise AdapterError(explain(f"comparing the adapter {folder}", f"it is a {kind} adapter", do))


def _require_complete(folder: Path, config: dict[str, Any], modules: Keys) -> None:
    """Every module has its A and B, unless only A's seed was saved."""
    asked = f"reading {folder / WEIGHTS}"
    if not any(pair_of(parts) for parts in modules.values()):
        found = "no tensor of a low-rank adapter in it"
        raise AdapterError(explain(asked, found, "Save or copy the adapter again"))
    missing = [
        f"{name}.{part}"
        for name, parts in modules.items()
        for part in _expected(config, parts)
        if part not in parts
    ]
    if missing:
        shown = ", ".join(sorted(missing)[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
        do = "The file is incomplete: save or copy it again"
        raise AdapterError(explain(asked, f"missing: {shown}", do))


def _expected(config: dict[str, Any], parts: dict[str, str]) -> tuple[str, ...]:
    """Parts without which a module cannot be compared, by what its config and its other parts promise."""
    if config["peft_type"] != ROUTED:
        return other_half(parts)
    whole = config.get("save_projection", True) and not config.get("train_projection", False)
    trained = ("neurolora_A_trained",) if config.get("train_projection", False) else ()
    projection = ("neurolora_A", "neurolora_A_scale") if whole else trained
    return ("neurolora_B", "neurolora_A_fingerprint", *projection)
