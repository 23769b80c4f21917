"""The builders of `tests/stored_adapters.py`, bound to this test's folder."""

from types import SimpleNamespace

import pytest


@pytest.fixture
def make(stored, tmp_path):
    """`make.adapter(name, seed, tensors_=..., **config)` writes one folder; the rest is as in `stored`."""
    return SimpleNamespace(
        adapter=lambda name, *seed, **settings: stored.routed(tmp_path / name, *seed, **settings),
        tensors=stored.tensors,
        key=stored.key,
        load=stored.read,
        read_config=stored.read_config,
        modules=stored.MODULES,
        base=stored.BASE,
    )


@pytest.fixture
def three(make):
    """Three adapters that fit together."""
    return [make.adapter(name, seed) for seed, name in enumerate("abc")]
