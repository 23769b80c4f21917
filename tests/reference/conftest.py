"""Hands the loop-written reference to the tests of this folder (they are no package to import from)."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def paper() -> ModuleType:
    path = Path(__file__).with_name("paper_loops.py")
    spec = importlib.util.spec_from_file_location("paper_loops", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
