"""Several adapters at once: opened together, one tensor of all of them as a stream.

Room: merging. Opening holds a config and a handle of each; tensors are read when a stream comes to them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from neurolora.adapter_reader import AdapterReader
from neurolora.errors import AdapterError


def open_adapters(folders: Sequence[Path | str], stack: ExitStack) -> list[AdapterReader]:
    """All of them open until the stack closes. Raises AdapterError with everything that cannot be read."""
    sources, problems = [], []
    for folder in folders:
        try:
            sources.append(stack.enter_context(AdapterReader(folder)))
        except AdapterError as error:
            problems.append(str(error))
    if problems:
        raise AdapterError("\n".join(problems))
    return sources


@dataclass(frozen=True)
class TensorStream:
    """One tensor of every adapter, read from the files in each pass, and changed by `change` if given."""

    sources: Sequence[AdapterReader]
    key: str
    change: Callable[[Tensor, int], Tensor] | None = None

    def __iter__(self) -> Iterator[Tensor]:
        for index, source in enumerate(self.sources):
            tensor = source.get_tensor(self.key)
            yield tensor if self.change is None else self.change(tensor, index)
