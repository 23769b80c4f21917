"""The one reader of adapter folders: every tensor to the bit, and every way in which a file may be broken."""

import json
import struct
from pathlib import Path

import pytest
import torch

from neurolora.adapter_file import known_as
from neurolora.adapter_reader import AdapterReader
from neurolora.errors import AdapterError


@pytest.fixture
def folder(stored, tmp_path):
    return stored.routed(tmp_path / "a")


@pytest.fixture
def weights(folder):
    return folder / "adapter_model.safetensors"


def test_every_tensor_is_read_as_it_is(stored, folder):
    with AdapterReader(folder) as source:
        expected = stored.read(folder)
        assert set(source.entries) == set(expected)
        for key, tensor in expected.items():
            for found in (source.get_tensor(key), source.raw_tensor(key)):
                assert (found.dtype, found.shape) == (tensor.dtype, tensor.shape)
                assert torch.equal(found, tensor)
        assert sorted(source.modules) == sorted(stored.MODULES)
        assert source.shape_of(stored.MODULES[1], "neurolora_B") == (stored.OUT, stored.R)
        assert source.others == ()


DTYPES = ("bfloat16", "float16", "float8_e4m3fn", "float8_e5m2", "int64", "int8", "uint16", "bool")


@pytest.mark.parametrize("dtype", DTYPES)
def test_other_dtypes_and_heads(stored, folder, dtype):
    head = torch.arange(6).view(2, 3).to(getattr(torch, dtype))
    stored.change(folder, {"score.weight": head})
    with AdapterReader(folder) as source:
        assert source.others == ("base_model.model.score.weight",)
        found = source.get_tensor(source.others[0])
        assert (found.dtype, found.tolist()) == (head.dtype, head.tolist())


def test_files_of_one_layout_share_it(stored, folder, tmp_path):
    with AdapterReader(folder) as first, AdapterReader(stored.routed(tmp_path / "b", 1)) as second:
        assert first.entries is second.entries


def test_the_file_is_closed(stored, folder):
    with AdapterReader(folder) as source:
        pass
    with pytest.raises(ValueError, match="closed"):
        source.get_tensor(stored.key("neurolora_B"))


@pytest.mark.parametrize(
    ("dtype", "value"),
    [
        (torch.float32, float("nan")),
        (torch.float32, float("inf")),
        (torch.float32, -float("inf")),
        (torch.bfloat16, float("nan")),
        (torch.float8_e5m2, float("inf")),
        (torch.float8_e4m3fn, float("nan")),  # it has no infinity
    ],
)
def test_nan_and_infinity_are_refused_by_name_and_can_be_looked_at(stored, folder, dtype, value):
    name = f"{stored.MODULES[0]}.neurolora_gate_W2"
    wild = torch.ones(8, 4)
    wild[1, 2] = value
    stored.change(folder, {name: wild.to(dtype)})
    with AdapterReader(folder) as source:
        with pytest.raises(AdapterError, match="NaN or infinity, in 1 of its 32 entries") as error:
            source.get_tensor(stored.PREFIX + name)
        assert not torch.isfinite(source.raw_tensor(stored.PREFIX + name).float()[1, 2])
    assert stored.PREFIX + name in str(error.value)
    assert str(folder) in str(error.value)


@pytest.mark.parametrize("left", [0, 4, 100, -1])
def test_a_truncated_file(folder, weights, left):
    weights.write_bytes(weights.read_bytes()[:left])
    with pytest.raises(AdapterError, match="truncated or damaged"):
        AdapterReader(folder)


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
def test_a_header_that_is_none(folder, weights, header):
    weights.write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))
    with pytest.raises(AdapterError, match="truncated or damaged"):
        AdapterReader(folder)


def test_a_header_of_absurd_length(folder, weights):
    weights.write_bytes(struct.pack("<Q", 2**60) + b"{}")
    with pytest.raises(AdapterError, match="truncated or damaged"):
        AdapterReader(folder)


def test_a_file_that_shrinks_while_it_is_read(folder, weights):
    with AdapterReader(folder) as source:
        last = list(source.entries)[-1]
        weights.write_bytes(weights.read_bytes()[:-1])
        with pytest.raises(AdapterError, match="it ends before"):
            source.get_tensor(last)


def test_an_empty_tensor_points_to_sharded_saving(stored, folder):
    stored.change(folder, {f"{stored.MODULES[0]}.neurolora_B": torch.zeros(0, 4)})
    with pytest.raises(AdapterError, match="ZeRO-3"):
        AdapterReader(folder)


def test_a_file_that_may_not_be_read(folder, monkeypatch):
    def refuse(*_args, **_kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.open", refuse)
    monkeypatch.setattr("neurolora.adapter_reader.read_adapter_config", lambda _folder: {})
    with pytest.raises(AdapterError, match=r"cannot be opened .*Permission denied"):
        AdapterReader(folder)


def test_a_pickle_is_never_opened(folder, weights):
    weights.unlink()
    with pytest.raises(AdapterError, match="the file is missing"):
        AdapterReader(folder)
    (folder / "adapter_model.bin").write_bytes(b"anything")
    with pytest.raises(AdapterError, match="a pickle, is there"):
        AdapterReader(folder)


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("/cache/hub/models--some--a/snapshots/" + "c" * 40, "some/a"),
        ("/cache/hub/models--gpt2/snapshots/" + "c" * 40, "gpt2"),
        ("/cache/hub/models--some--a/refs/main", "/cache/hub/models--some--a/refs/main"),
        ("runs/a", "runs/a"),
        (Path("/runs/snapshots/a"), "/runs/snapshots/a"),
    ],
)
def test_a_folder_in_the_hubs_cache_is_known_by_its_name_there(folder, name):
    assert known_as(folder) == name
