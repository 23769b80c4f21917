import tracemalloc
from contextlib import ExitStack

import pytest
import torch

from neurolora.errors import AdapterError
from neurolora.merging.sources import TensorStream, open_adapters


def test_a_stream_can_be_read_again(make):
    with ExitStack() as stack:
        sources = open_adapters([make.adapter(name, i) for i, name in enumerate("ab")], stack)
        stream = TensorStream(sources, make.key("neurolora_B"), lambda tensor, index: tensor * (index + 1))
        first, again = list(stream), list(stream)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert torch.equal(first[1], make.tensors(1)[make.key("neurolora_B")] * 2)


def test_all_that_cannot_be_read_is_told_at_once(make, tmp_path):
    with ExitStack() as stack, pytest.raises(AdapterError) as error:
        open_adapters([tmp_path / "x", make.adapter("a"), tmp_path / "y"], stack)
    assert str(tmp_path / "x") in str(error.value)
    assert str(tmp_path / "y") in str(error.value)


def test_opening_many_holds_no_tensors(make):
    folders = [make.adapter(f"n{i}", i) for i in range(12)]
    with ExitStack() as stack:
        open_adapters(folders[:2], stack)
        tracemalloc.start()
        open_adapters(folders[2:], stack)
        held = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
    assert held < 10 * 12_000  # a config, a handle; the parsed header alone is several times that
