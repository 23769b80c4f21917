"""What a strategy keeps from one task to the next, and its folder: tensors and plain values.

Room: continual. Written whole or not at all; only safetensors and JSON are read.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from neurolora.errors import DataError, OutputError, explain
from neurolora.files import atomic_folder
from neurolora.training.checkpoints import why_not_written

TENSORS, VALUES = "memory.safetensors", "memory.json"


@dataclass(frozen=True)
class Memory:
    """tensors by name (names and shapes are the strategy's own), values: plain JSON."""

    tensors: dict[str, Tensor] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        """Bytes that it takes: those of the tensors, and of the values as JSON."""
        text = len(json.dumps(self.values).encode()) if self.values else 0
        return sum(value.nbytes for value in self.tensors.values()) + text

    def save(self, folder: Path) -> None:
        """Write `folder` anew, in one rename. Raises OutputError."""
        tensors = {name: value.detach().cpu().contiguous() for name, value in self.tensors.items()}
        with atomic_folder(folder, overwrite=True) as staged:
            try:
                save_file(tensors, staged / TENSORS)
            except SafetensorError as error:  # a full disk: it is no OSError, as others are
                do = "Free some space, then give the command again"
                raise OutputError(explain(f"writing {folder}", why_not_written(error), do)) from error
            (staged / VALUES).write_text(json.dumps(self.values) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Memory:
        """What `save` wrote. Raises DataError if it is damaged or gone: nothing kept is something else."""
        try:
            values = json.loads((folder / VALUES).read_text(encoding="utf-8"))
            return cls(load_file(folder / TENSORS), values)
        except (OSError, ValueError, SafetensorError) as error:
            do = "Remove the cell's folder to run it anew"
            raise DataError(explain(f"reading what was kept in {folder}", str(error), do)) from error
