"""Single weights of a base model, from its safetensors files.

Room: merging; only DoRA needs W0. One tensor is read at a time.
"""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

from torch import Tensor

from neurolora.errors import AdapterError, explain
from neurolora.world import resolve_model_name

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"


class BaseWeights:
    """The tensors of a model's folder by name."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._files = _files_of(folder)

    @classmethod
    def of(cls, config: dict[str, Any]) -> BaseWeights:
        """Of an adapter's base, a local folder. Raises AdapterError if it is none."""
        name = str(config.get("base_model_name_or_path"))
        return _opened(Path(resolve_model_name(name)))

    def read(self, key: str) -> Tensor:
        """One tensor; a name may lack or have the body's prefix. Raises AdapterError if there is none."""
        from safetensors import safe_open

        names = [key, *(name for name in self._files if name.endswith(f".{key}") or key.endswith(f".{name}"))]
        for name in names:
            if name in self._files:
                with safe_open(self._files[name], framework="pt") as opened:
                    tensor: Tensor = opened.get_tensor(name)
                return tensor
        do = "Give the base in safetensors, with the names that the adapter was trained with"
        raise AdapterError(explain(f"reading the base {self.folder}", f"there is no {key} in it", do))


@lru_cache(maxsize=2)
def _opened(folder: Path) -> BaseWeights:
    return BaseWeights(folder)


def _files_of(folder: Path) -> dict[str, Path]:
    """The file of each tensor."""
    from safetensors import safe_open

    if (folder / INDEX).is_file():
        table = json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"]
        return {name: folder / file for name, file in table.items()}
    if not (folder / WEIGHTS).is_file():
        do = "DoRA's update depends on W0: give base_model as a folder with model.safetensors"
        raise AdapterError(explain(f"reading the base {folder}", f"there is no {WEIGHTS} in it", do))
    with safe_open(folder / WEIGHTS, framework="pt") as opened:
        return dict.fromkeys(opened.keys(), folder / WEIGHTS)
