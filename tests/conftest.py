"""Things that tests of several rooms share: tiny models, one thread, and no network."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch


def _beside(name: str) -> ModuleType:
    """A module of this folder (tests are no package to import from)."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # torch.compile looks modules up by name
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def tiny_llama() -> ModuleType:
    """`tests/tiny_llama.py`: makes a tiny model, rows and settings, as files."""
    return _beside("tiny_llama")


@pytest.fixture(scope="session")
def tiny_stream(tiny_llama: ModuleType) -> ModuleType:
    """`tests/tiny_stream.py`: three small tasks in a row for the tiny model."""
    return _beside("tiny_stream")


@pytest.fixture(scope="session")
def tiny_studies(tiny_stream: ModuleType) -> ModuleType:
    """`tests/tiny_studies.py`: every kind of study for the tiny model."""
    return _beside("tiny_studies")


@pytest.fixture(scope="session")
def tiny() -> ModuleType:
    """`tests/tiny_models.py`: tiny models of all kinds, and their batches."""
    return _beside("tiny_models")


@pytest.fixture(scope="session")
def stored() -> ModuleType:
    """`tests/stored_adapters.py`: adapter folders made by hand."""
    return _beside("stored_adapters")


@pytest.fixture(scope="session")
def local_hub() -> ModuleType:
    """`tests/local_hub.py`: a hub on this machine that serves folders."""
    return _beside("local_hub")


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Before whatever a module's tests share is made, for other numbers of threads give other bits."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No network, and one thread, whatever a test before has set."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
