"""Public names of a package that are imported when they are first asked for.

Room: the floor; imports nothing of ours. It makes the import of a room cost nothing.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any


def lazy_attributes(package: str, homes: Mapping[str, str]) -> Callable[[str], Any]:
    """A package's `__getattr__` (PEP 562). homes: public name -> the module that holds it.

    A module is named in full (`neurolora.tuner`), or as a file of the package (`config`).
    """

    def find(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        home = homes[name]
        return getattr(importlib.import_module(home if "." in home else f"{package}.{home}"), name)

    return find
