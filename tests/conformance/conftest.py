"""The tiny models, one thread, and no network."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

TESTS = next(folder for folder in Path(__file__).parents if folder.name == "tests")


@pytest.fixture(scope="session")
def tiny() -> ModuleType:
    """`tests/tiny_models.py` (tests are no package to import from)."""
    spec = importlib.util.spec_from_file_location("tiny_models", TESTS / "tiny_models.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # torch.compile looks modules up by name
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
