"""Registering with PEFT as soon as there is a PEFT to register with, without importing it.

Room: the door. `neurolora/__init__.py` calls `register_with_peft` and nobody else does. Importing PEFT takes
seconds, and `neurolora --help` needs none of it; yet after `import neurolora` every adapter folder must load.
So: is PEFT imported already, register now; else register at the moment somebody imports it.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Sequence
from types import ModuleType

WATCHED = "peft"
TUNER = "neurolora.tuner"


class _RegisteringLoader(importlib.abc.Loader):
    """PEFT's own loader, followed by the import of our tuner, which registers itself."""

    def __init__(self, loader: importlib.abc.Loader) -> None:
        self.loader = loader

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, _PeftFinder)]
        self.loader.exec_module(module)
        importlib.import_module(TUNER)

    def __getattr__(self, name: str) -> object:
        return getattr(self.loader, name)


class _PeftFinder(importlib.abc.MetaPathFinder):
    """Finds `peft` by asking the others, and hands its loader on wrapped.

    It stays in place until PEFT is imported: transformers and others ask for the spec only to see whether
    PEFT is installed.
    """

    def __init__(self) -> None:
        self.is_asking = False

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != WATCHED or self.is_asking:
            return None
        self.is_asking = True
        try:
            spec = importlib.util.find_spec(fullname)
        finally:
            self.is_asking = False
        if spec is not None and spec.loader is not None:
            spec.loader = _RegisteringLoader(spec.loader)
        return spec


def register_with_peft() -> None:
    """Register NeuroLoRA with PEFT, now if PEFT is imported, else when it will be."""
    if WATCHED in sys.modules:
        importlib.import_module(TUNER)
    elif not any(isinstance(finder, _PeftFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _PeftFinder())
