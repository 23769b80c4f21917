"""An opened adapter: its config and layout at once, its tensors one at a time when they are asked for.

Room: merging. Reads `adapter_config.json` and `adapter_model.safetensors`. The bytes of one tensor are read
from their place in the file and nothing is mapped into memory, so that what a hundred adapters take does not
add up. Adapters whose files have the same header, as those of one model do, share one parsed layout.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from neurolora.adapter_file import PICKLE, WEIGHTS, read_adapter_config, split_key
from neurolora.errors import AdapterError, explain

_DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8,
    "BOOL": torch.bool,
}  # fmt: skip
_LENGTH = struct.Struct("<Q")
_LONGEST_HEADER = 100_000_000  # what the format allows


@dataclass(frozen=True)
class Entry:
    """One tensor in the file: what it is, and where its bytes lie, counted from the end of the header."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    stop: int


@dataclass(frozen=True)
class Layout:
    """A parsed header. modules: module -> part -> key. others: keys of no adapter part (heads)."""

    entries: dict[str, Entry]
    modules: dict[str, dict[str, str]]
    others: tuple[str, ...]


class AdapterSource:
    """One adapter folder, open for reading; a context manager.

    folder, config, and the `Layout`'s entries, modules and others. Raises AdapterError for a folder that is
    no adapter, a pickle, and a file that is truncated, damaged or has tensors without elements.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        self.config: dict[str, Any] = read_adapter_config(self.folder)
        self.path = self.folder / WEIGHTS
        self._asked = f"reading {self.path}"
        if not self.path.is_file():
            found = (
                f"only {PICKLE}, a pickle, is there" if (self.folder / PICKLE).is_file() else "it is missing"
            )
            raise AdapterError(explain(self._asked, found, "Save the adapter again as safetensors"))
        self._file = self.path.open("rb", buffering=0)
        try:
            self._layout, self._begin = self._read_layout()
        except BaseException:
            self.close()
            raise
        self.entries, self.modules = self._layout.entries, self._layout.modules
        self.others = self._layout.others

    def __enter__(self) -> AdapterSource:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()

    def get_tensor(self, key: str) -> Tensor:
        """One tensor, from the file at every call. Raises AdapterError for NaN or infinity in it."""
        entry = self.entries[key]
        data = torch.empty(entry.stop - entry.start, dtype=torch.uint8, device="cpu")
        self._fill(data, self._begin + entry.start)
        tensor = data.view(entry.dtype).view(entry.shape)
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            found = f"the tensor {key} holds NaN or infinity"
            raise AdapterError(
                explain(self._asked, found, "The training had gone wrong by then: use an earlier checkpoint")
            )
        return tensor

    def _fill(self, data: Tensor, place: int) -> None:
        view = memoryview(data.numpy())  # type: ignore[arg-type]  # of bytes
        self._file.seek(place)
        while view.nbytes:
            count = self._file.readinto(view)
            if not count:
                raise self._damaged(f"it ends before byte {place + view.nbytes:,}")
            view, place = view[count:], place + count

    def _read_layout(self) -> tuple[Layout, int]:
        """The layout, and the place of the first tensor's first byte."""
        size = self.path.stat().st_size
        start = self._file.read(_LENGTH.size) or b""
        length = _LENGTH.unpack(start)[0] if len(start) == _LENGTH.size else size
        begin = _LENGTH.size + length
        if begin > size or length > _LONGEST_HEADER:
            raise self._damaged(f"its header should have {length:,} bytes")
        try:
            layout = _parse(self._file.read(length) or b"")
        except (ValueError, KeyError, TypeError) as error:
            raise self._damaged(f"its header cannot be read: {error}") from error
        expected = begin + max((entry.stop for entry in layout.entries.values()), default=0)
        if expected != size:
            raise self._damaged(f"it should have {expected:,} bytes")
        self._refuse_empty(layout)
        return layout, begin

    def _damaged(self, how: str) -> AdapterError:
        size = self.path.stat().st_size
        found = f"the file is truncated or damaged ({how}; {size:,} bytes)"
        return AdapterError(explain(self._asked, found, "Copy or save it again"))

    def _refuse_empty(self, layout: Layout) -> None:
        empty = [key for key, entry in layout.entries.items() if 0 in entry.shape]
        if empty:
            found = f"the tensor {empty[0]} is empty, of shape {layout.entries[empty[0]].shape}"
            do = "A sharded model (ZeRO-3, FSDP) was saved without gathering it: gather, and save again"
            raise AdapterError(explain(self._asked, found, do))


@lru_cache(maxsize=4)
def _parse(header: bytes) -> Layout:
    """A header's layout. Raises ValueError, KeyError or TypeError for one that is none."""
    entries: dict[str, Entry] = {}
    modules: dict[str, dict[str, str]] = {}
    others: list[str] = []
    reached = 0
    table = json.loads(header)
    if not isinstance(table, dict):
        raise ValueError(f"it is a {type(table).__name__}")
    table.pop("__metadata__", None)
    for key, value in sorted(table.items(), key=lambda item: item[1]["data_offsets"]):
        entry = Entry(_DTYPES[value["dtype"]], tuple(value["shape"]), *value["data_offsets"])
        size = math.prod(entry.shape) * entry.dtype.itemsize
        if min(entry.shape, default=0) < 0 or (entry.start, entry.stop) != (reached, reached + size):
            raise ValueError(f"the place of {key} does not fit its shape")
        reached = entry.stop
        entries[key] = entry
        place = split_key(key)
        if place is None:
            others.append(key)
        else:
            modules.setdefault(place[0], {})[place[1]] = key
    return Layout(entries, modules, tuple(others))


def open_adapters(folders: Sequence[Path | str], stack: ExitStack) -> list[AdapterSource]:
    """All of them open until the stack closes. Raises AdapterError with everything that cannot be read."""
    sources, problems = [], []
    for folder in folders:
        try:
            sources.append(stack.enter_context(AdapterSource(folder)))
        except AdapterError as error:
            problems.append(str(error))
    if problems:
        raise AdapterError("\n".join(problems))
    return sources


@dataclass(frozen=True)
class TensorStream:
    """One tensor of every adapter, read from the files in each pass, and changed by `change` if given."""

    sources: Sequence[AdapterSource]
    key: str
    change: Callable[[Tensor, int], Tensor] | None = None

    def __iter__(self) -> Iterator[Tensor]:
        for index, source in enumerate(self.sources):
            tensor = source.get_tensor(self.key)
            yield tensor if self.change is None else self.change(tensor, index)
