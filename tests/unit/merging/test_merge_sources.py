import json
import struct
import tracemalloc
from contextlib import ExitStack

import pytest
import torch

from neurolora.errors import AdapterError
from neurolora.merging.sources import AdapterSource, TensorStream, open_adapters


def test_every_tensor_is_read_as_it_is(make):
    folder = make.adapter("a")
    with AdapterSource(folder) as source:
        expected = make.load(folder)
        assert set(source.entries) == set(expected)
        for key, tensor in expected.items():
            found = source.get_tensor(key)
            assert (found.dtype, found.shape) == (tensor.dtype, tensor.shape)
            assert torch.equal(found, tensor)
        assert sorted(source.modules) == sorted(make.modules)
        assert source.others == ()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.int64, torch.bool, torch.int8])
def test_other_dtypes_and_heads(make, dtype):
    head = torch.arange(6).view(2, 3).to(dtype)
    folder = make.adapter("a", tensors_=make.tensors() | {"base_model.model.score.weight": head})
    with AdapterSource(folder) as source:
        assert source.others == ("base_model.model.score.weight",)
        assert torch.equal(source.get_tensor(source.others[0]), head)


def test_files_of_one_layout_share_it(make):
    with AdapterSource(make.adapter("a", 0)) as first, AdapterSource(make.adapter("b", 1)) as second:
        assert first.entries is second.entries


def test_a_stream_can_be_read_again(make):
    with ExitStack() as stack:
        sources = open_adapters([make.adapter(name, i) for i, name in enumerate("ab")], stack)
        stream = TensorStream(sources, make.key("neurolora_B"), lambda tensor, index: tensor * (index + 1))
        first, again = list(stream), list(stream)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert torch.equal(first[1], make.tensors(1)[make.key("neurolora_B")] * 2)


def test_the_file_is_closed(make):
    with AdapterSource(make.adapter("a")) as source:
        pass
    with pytest.raises(ValueError, match="closed"):
        source.get_tensor(make.key("neurolora_B"))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_nan_and_infinity_are_refused_by_name(make, value):
    tensors, key = make.tensors(), make.key("neurolora_gate_W2")
    tensors[key][1, 2] = value
    folder = make.adapter("wild", tensors_=tensors)
    with AdapterSource(folder) as source, pytest.raises(AdapterError, match="NaN or infinity") as error:
        source.get_tensor(key)
    assert key in str(error.value)
    assert "wild" in str(error.value)


@pytest.mark.parametrize("left", [0, 4, 100, -1])
def test_a_truncated_file(make, left):
    weights = make.adapter("a") / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:left])
    with pytest.raises(AdapterError, match="truncated or damaged"):
        AdapterSource(weights.parent)


@pytest.mark.parametrize(
    "header",
    [
        b"{",
        b"[]",
        b'{"a": 3}',
        json.dumps({"a": {"dtype": "F99", "shape": [1], "data_offsets": [0, 4]}}).encode(),
        json.dumps({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}).encode(),
        json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}).encode(),
        json.dumps({"a": {"dtype": "F32", "shape": [-1, -1], "data_offsets": [0, 4]}}).encode(),
    ],
)
def test_a_header_that_is_none(make, header):
    weights = make.adapter("a") / "adapter_model.safetensors"
    weights.write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))
    with pytest.raises(AdapterError, match="truncated or damaged"):
        AdapterSource(weights.parent)


def test_a_header_of_absurd_length(make):
    weights = make.adapter("a") / "adapter_model.safetensors"
    weights.write_bytes(struct.pack("<Q", 2**60) + b"{}")
    with pytest.raises(AdapterError, match="truncated or damaged"):
        AdapterSource(weights.parent)


def test_a_file_that_shrinks_while_it_is_read(make):
    weights = make.adapter("a") / "adapter_model.safetensors"
    with AdapterSource(weights.parent) as source:
        last = list(source.entries)[-1]
        weights.write_bytes(weights.read_bytes()[:-1])
        with pytest.raises(AdapterError, match="it ends before"):
            source.get_tensor(last)


def test_an_empty_tensor_points_to_sharded_saving(make):
    folder = make.adapter("a", tensors_=make.tensors() | {make.key("neurolora_B"): torch.zeros(0, 4)})
    with pytest.raises(AdapterError, match="ZeRO-3"):
        AdapterSource(folder)


def test_a_pickle_is_never_opened(make):
    folder = make.adapter("a")
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(AdapterError, match="is missing"):
        AdapterSource(folder)
    (folder / "adapter_model.bin").write_bytes(b"anything")
    with pytest.raises(AdapterError, match="a pickle, is there"):
        AdapterSource(folder)


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
