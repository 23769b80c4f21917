"""The compiled loops of a decode step against `core/`: the selection to the bit, values to rounding."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from neurolora.core.kernels import (
    MAX_DECODE_TOKENS,
    RouteSpec,
    decode,
    decode_numba,
    decode_pack,
    use_kernels,
)
from neurolora.core.kernels.decode_numba import NumbaPack
from neurolora.core.routing import Routing, routing_score, top_k_mask
from neurolora.core.update import adapter_update

pytest.importorskip("numba")

loops: ModuleType = decode_numba._working_loops()
D, OUT, G = 20, 12, 5
NAN, INF = float("nan"), float("inf")
AWKWARD = st.sampled_from([0.0, -0.0, 1.0, -1.0, 2.0, -2.0, NAN, -NAN, INF, -INF, 1e-45, -1e-45, 3e38, 0.5])


def marked(scores: torch.Tensor, k: int, routing: Routing) -> torch.Tensor:
    keys = np.zeros(len(scores), np.int64 if scores.dtype == torch.float64 else np.int32)
    mask = np.zeros(len(scores), np.bool_)
    loops.write_keys(scores.numpy(), routing == "signed", keys)
    loops.mark_largest(keys, k, mask)
    return torch.from_numpy(mask)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("routing", ["abs", "signed"])
@settings(max_examples=200, deadline=None)
@given(
    values=st.lists(st.one_of(AWKWARD, st.floats(-4, 4, width=16)), min_size=1, max_size=40), data=st.data()
)
def test_selection_is_the_readable_one(
    dtype: torch.dtype, routing: Routing, values: list[float], data: st.DataObject
) -> None:
    h_mod, k = torch.tensor(values, dtype=dtype), data.draw(st.integers(1, len(values)))
    mask = marked(h_mod, k, routing)
    assert mask.sum() == k
    assert mask.equal(top_k_mask(routing_score(h_mod, routing), k))


def spec_of(gate: str, members: int, w1_count: int, **changes: Any) -> RouteSpec:
    made = RouteSpec(members, 6, 2, gate, "abs", w1_count, torch.float32, torch.float32)  # type: ignore[arg-type]
    return replace(made, **changes)


def parts_of(s: RouteSpec, *, biased: bool) -> dict[str, Any]:
    torch.manual_seed(0)

    def normal(count: int, *shape: int) -> list[torch.Tensor]:
        return [torch.randn(*shape, dtype=s.dtype) for _ in range(count)]

    token = [
        normal(s.w1_count, G, D),
        normal(s.members, s.r, G),
        normal(s.members, s.r),
        normal(s.members, s.r),
    ]
    return {
        "projections": normal(s.members, s.r, D),
        "scales": [0.5] * s.members,
        "gates": {"token": token, "static": [normal(s.members, s.r)], "none": []}[s.gate],
        "biases": normal(s.members, s.r) if biased else None,
        "up": normal(s.members, OUT, s.r),
        "in_features": D,
    }


def readable(s: RouteSpec, parts: dict[str, Any], member: int, x: torch.Tensor) -> torch.Tensor:
    """`core/update.py` for one member, with scaling 3."""
    gate, m = parts["gates"], None
    if s.gate == "token":
        W1 = gate[0][member if s.w1_count > 1 else 0]
        bottleneck = torch.nn.functional.gelu(x @ W1.T)
        m = torch.sigmoid(bottleneck @ gate[1][member].T) * gate[2][member] + gate[3][member]
    elif s.gate == "static":
        m = gate[0][member]
    bias = None if parts["biases"] is None else parts["biases"][member]
    A, B = parts["projections"][member] * 0.5, parts["up"][member]
    dy, _ = adapter_update(x, A, B, modulation=m, top_k=s.top_k, scaling=3.0, routing=s.routing, bias=bias)
    return dy


CASES = [("token", 1, 1), ("token", 3, 3), ("token", 3, 1), ("static", 2, 0), ("none", 3, 0)]


@pytest.mark.parametrize(("gate", "members", "w1_count"), CASES)
@pytest.mark.parametrize("routing", ["abs", "signed"])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("kernels", ["auto", "torch"])
def test_a_pack_gives_the_readable_update(
    gate: str, members: int, w1_count: int, routing: Routing, biased: bool, kernels: Any
) -> None:
    s = spec_of(gate, members, w1_count, routing=routing, dtype=torch.float64, compute=torch.float64)
    parts = parts_of(s, biased=biased)
    for tokens in (1, 3, MAX_DECODE_TOKENS):
        with use_kernels(kernels):
            pack = decode_pack(s, tokens, **parts)
        assert (type(pack) is NumbaPack) == (kernels == "auto")
        x, result = torch.randn(tokens, D, dtype=s.dtype), torch.randn(tokens, OUT, dtype=s.dtype)
        routing_made = pack.route(x)
        for member in range(members):
            expected = result + readable(s, parts, member, x)
            for in_place in (False, True):
                before = result.clone()
                found = pack.add(before, routing_made, member, 3.0, in_place=in_place)
                torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
                assert (found is before) == in_place
                assert in_place or before.equal(result)


def test_a_bf16_result_is_added_to_in_float32() -> None:
    s = spec_of("token", 1, 1)
    parts = parts_of(s, biased=False)
    x, result = torch.randn(2, D), torch.randn(2, OUT).bfloat16()
    pack = decode_pack(s, 2, **parts)
    found = pack.add(result.clone(), pack.route(x.bfloat16()), 0, 3.0, in_place=True)
    expected = (result + readable(s, parts, 0, x.bfloat16().float())).bfloat16()
    torch.testing.assert_close(found, expected)


def test_a_nan_reaches_the_result() -> None:
    s = spec_of("none", 1, 0)
    pack = decode_pack(s, 1, **parts_of(s, biased=False))
    x = torch.randn(1, D)
    x[0, 3] = NAN
    assert pack.add(torch.zeros(1, OUT), pack.route(x), 0, 1.0, in_place=True).isnan().all()


@pytest.fixture
def _forgets() -> Iterator[None]:
    decode_numba._loops.cache_clear()
    yield
    decode_numba._loops.cache_clear()


@pytest.mark.usefixtures("_forgets")
def test_without_numba_pytorch_decodes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode_numba.importlib.util, "find_spec", lambda name: None)
    s = spec_of("none", 1, 0)
    assert type(decode_pack(s, 1, **parts_of(s, biased=False))) is decode.PlainPack


@pytest.mark.usefixtures("_forgets")
def test_where_numba_cannot_compile_pytorch_decodes_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def cannot(*_: object) -> None:
        raise RuntimeError("cannot cache function")

    import neurolora.core.kernels as room

    monkeypatch.setattr(room, "numba_device", SimpleNamespace(mark_largest=cannot))
    s = spec_of("none", 1, 0)
    with pytest.warns(UserWarning, match="decodes without numba.*cannot cache"):
        pack = decode_pack(s, 1, **parts_of(s, biased=False))
    assert type(pack) is decode.PlainPack


def test_autocast_is_left_to_pytorch() -> None:
    s = spec_of("none", 1, 0, compute=torch.bfloat16)
    assert type(decode_pack(s, 1, **parts_of(s, biased=False))) is decode.PlainPack
