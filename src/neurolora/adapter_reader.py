"""An adapter folder, opened: its config and layout at once, its tensors one at a time when asked for.

Room: the floor, above `adapter_file.py`; the one reader of adapters for all rooms. Reads
`adapter_config.json` and `adapter_model.safetensors`, pickles never. The bytes of one tensor are read from
their place in the file and nothing is mapped into memory, so that what a hundred adapters take does not add
up. Adapters whose files have the same header, as those of one model do, share one parsed layout.
"""

from __future__ import annotations

import json
import math
import struct
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neurolora.adapter_file import PICKLE, WEIGHTS, Keys, is_without_ranks, read_adapter_config, split_key
from neurolora.errors import AdapterError, explain

if TYPE_CHECKING:
    import torch
    from torch import Tensor

#: The format's names of dtypes -> torch's.
_DTYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2", "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8", "U64": "uint64",
    "U32": "uint32", "U16": "uint16", "U8": "uint8", "BOOL": "bool",
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
    modules: Keys
    others: tuple[str, ...]


class AdapterReader:
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
            is_pickled = (self.folder / PICKLE).is_file()
            found = f"only {PICKLE}, a pickle, is there" if is_pickled else "the file is missing"
            raise AdapterError(explain(self._asked, found, "Save the adapter again as safetensors"))
        try:
            self._file = self.path.open("rb", buffering=0)
        except OSError as error:
            do = "Make the file readable, or copy it again"
            raise AdapterError(explain(self._asked, f"it cannot be opened ({error})", do)) from error
        try:
            self._layout, self._begin = self._read_layout()
        except BaseException:
            self.close()
            raise
        self.entries, self.modules = self._layout.entries, self._layout.modules
        self.others = self._layout.others

    def __enter__(self) -> AdapterReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()

    def get_tensor(self, key: str) -> Tensor:
        """One tensor, from the file at every call. Raises AdapterError for NaN or infinity in it."""
        import torch

        tensor = self.raw_tensor(key)
        if not tensor.is_floating_point():
            return tensor
        # torch has no isfinite for floats of one byte
        finite = torch.isfinite(tensor.float() if tensor.dtype.itemsize == 1 else tensor)
        if not bool(finite.all()):
            wild = f"{int((~finite).sum()):,} of its {tensor.numel():,} entries"
            found = f"the tensor {key} holds NaN or infinity, in {wild}"
            do = "The training had gone wrong by then: use an earlier checkpoint"
            raise AdapterError(explain(self._asked, found, do))
        return tensor

    def raw_tensor(self, key: str) -> Tensor:
        """One tensor as it lies in the file, NaN and all, for a report on it."""
        import torch

        entry = self.entries[key]
        data = torch.empty(entry.stop - entry.start, dtype=torch.uint8, device="cpu")
        self._fill(data, self._begin + entry.start)
        return data.view(entry.dtype).view(entry.shape)

    def shape_of(self, module: str, part: str) -> tuple[int, ...]:
        """The shape of a module's part, from the header."""
        return self.entries[self.modules[module][part]].shape

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
        shapes = {key: entry.shape for key, entry in layout.entries.items() if 0 in entry.shape}
        empty = [key for key, shape in shapes.items() if not is_without_ranks(key, shape)]
        if empty:
            found = f"the tensor {empty[0]} is empty, of shape {layout.entries[empty[0]].shape}"
            do = "A sharded model (ZeRO-3, FSDP) was saved without gathering it: gather, and save again"
            raise AdapterError(explain(self._asked, found, do))


@lru_cache(maxsize=4)
def _parse(header: bytes) -> Layout:
    """A header's layout. Raises ValueError, KeyError or TypeError for one that is none."""
    import torch

    entries: dict[str, Entry] = {}
    modules: Keys = {}
    others: list[str] = []
    reached = 0
    table = json.loads(header)
    if not isinstance(table, dict):
        raise ValueError(f"it is a {type(table).__name__}")
    table.pop("__metadata__", None)
    for key, value in sorted(table.items(), key=lambda item: item[1]["data_offsets"]):
        entry = Entry(getattr(torch, _DTYPES[value["dtype"]]), tuple(value["shape"]), *value["data_offsets"])
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
