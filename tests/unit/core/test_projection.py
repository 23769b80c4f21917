"""The frozen A: what is drawn, that nothing around can change it, its 2-bit storage, its fingerprint."""

from __future__ import annotations

import math
import os
import subprocess
import sys

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from neurolora.core.projection import (
    Projection,
    dense_projection,
    fingerprint,
    make_projection,
    pack_ternary,
    private_generator,
    unpack_ternary,
)
from neurolora.errors import AdapterError, ConfigError

KINDS = ["ternary", "gaussian"]


def draw(kind="ternary", rows=32, columns=1024, density=0.25, scale="unit", seed=0, name="layers.0.q_proj"):
    return make_projection(rows, columns, kind=kind, density=density, scale=scale, seed=seed, name=name)


def same(one: Projection, other: Projection) -> bool:
    return torch.equal(one.values, other.values) and one.scale == other.scale


# What is drawn


@pytest.mark.parametrize("density", [0.05, 0.25, 0.5, 1.0])
def test_ternary_probabilities(density):
    signs = draw(columns=8192, density=density).values
    assert signs.dtype == torch.int8
    assert set(signs.unique().tolist()) <= {-1, 0, 1}
    n = signs.numel()
    for sign, share in ((1, density / 2), (-1, density / 2), (0, 1 - density)):
        deviation = abs(int((signs == sign).sum()) - n * share)
        assert deviation <= 5 * math.sqrt(n * share * (1 - share))


@pytest.mark.parametrize(
    ("columns", "density", "kept"), [(1024, 0.25, 256), (10, 0.3, 3), (3, 0.01, 1), (7, 1.0, 7)]
)
def test_gaussian_rows_have_exactly_p_entries(columns, density, kept):
    values = draw("gaussian", columns=columns, density=density).values
    assert values.dtype == torch.float32
    assert ((values != 0).sum(1) == kept).all()


def test_gaussian_entries_are_standard_normal_and_anywhere():
    values = draw("gaussian", rows=64, columns=4096).values.double()
    entries = values[values != 0]
    n = entries.numel()
    assert abs(entries.mean()) < 5 / math.sqrt(n)
    assert abs(entries.var() - 1) < 5 * math.sqrt(2 / n)
    assert abs((entries**4).mean() - 3) < 5 * math.sqrt(96 / n)
    hits = (values != 0).double().mean(0)  # a column is hit in a quarter of the rows, give or take
    assert abs(hits[:2048].mean() - 0.25) < 0.01
    assert hits.std() == pytest.approx(math.sqrt(0.25 * 0.75 / 64), rel=0.1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("columns", [256, 4096])
def test_unit_scale_keeps_the_spread_of_white_inputs(kind, columns):
    A = draw(kind, rows=64, columns=columns).dense()
    x = torch.randn(512, columns, generator=torch.Generator().manual_seed(1))
    assert (x @ A.T).std().item() == pytest.approx(1.0, rel=0.05)


def test_scales():
    assert draw("ternary", columns=4096).scale == 1 / math.sqrt(0.25 * 4096)
    assert draw("gaussian", columns=4096).scale == 1 / math.sqrt(0.25 * 4096)
    assert draw("ternary", scale="paper").scale == 1.0
    assert draw("gaussian", rows=16, scale="paper").scale == 1 / 16
    for kind in KINDS:  # the scale is a factor, not another draw
        assert torch.equal(draw(kind, scale="paper").values, draw(kind, scale="unit").values)
    # At d = 4096 and r = 32 both scales of FlyLoRA's own code are one.
    assert same(draw("gaussian", columns=4096, scale="paper"), draw("gaussian", columns=4096, scale="unit"))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_dense_is_the_rounded_product(kind, dtype):
    projection = draw(kind, columns=100)
    dense = projection.dense(dtype, "cpu")
    assert dense.shape == (32, 100)
    assert dense.dtype == dtype
    expected = [[value * projection.scale for value in row] for row in projection.values.double().tolist()]
    assert torch.equal(dense, torch.tensor(expected, dtype=torch.float64).to(dtype))


def test_dense_goes_to_the_device_asked_for():
    assert draw().dense(torch.bfloat16, "meta").device.type == "meta"


# Nothing around changes it


@pytest.mark.parametrize("kind", KINDS)
def test_same_bits_whatever_is_global(kind):
    expected = draw(kind)
    before = torch.get_rng_state()
    torch.manual_seed(99)
    torch.rand(7)
    drawn = torch.get_rng_state()
    assert same(draw(kind), expected)
    assert torch.equal(torch.get_rng_state(), drawn)  # and it leaves the global generator alone
    torch.set_rng_state(before)

    threads = torch.get_num_threads()
    try:
        torch.set_default_dtype(torch.float64)
        assert same(draw(kind), expected)
        torch.set_default_dtype(torch.bfloat16)
        assert same(draw(kind), expected)
        torch.set_default_dtype(torch.float32)
        torch.set_default_device("meta")
        assert same(draw(kind), expected)
        torch.set_default_device(None)
        torch.set_num_threads(1)
        assert same(draw(kind), expected)
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_default_device(None)
        torch.set_num_threads(threads)
    with torch.device("meta"):
        assert same(draw(kind), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_same_bits_while_weights_are_made_empty(kind):
    from accelerate import init_empty_weights

    expected = draw(kind)
    with init_empty_weights(include_buffers=True):
        assert same(draw(kind), expected)


def test_same_bits_in_another_process():
    program = (
        "from neurolora.core.projection import make_projection, fingerprint\n"
        "for kind in ('gaussian', 'ternary'):\n"
        "    options = dict(kind=kind, density=0.25, scale='unit', seed=0, name='layers.0.q_proj')\n"
        "    print(fingerprint(make_projection(32, 1024, **options)))\n"
    )
    environment = os.environ | {
        "PYTHONHASHSEED": "123",
        "ATEN_CPU_CAPABILITY": "default",
        "OMP_NUM_THREADS": "1",
    }
    out = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    assert out.stdout.split() == [fingerprint(draw("gaussian")), fingerprint(draw("ternary"))]


@pytest.mark.parametrize("kind", KINDS)
def test_each_argument_matters(kind):
    others = [
        draw(kind, seed=1),
        draw(kind, seed=-1),
        draw(kind, name="layers.1.q_proj"),
        draw(kind, density=0.2501),
        draw(kind, rows=33),
    ]
    expected = draw(kind)
    for other in others:
        assert not torch.equal(other.values[:32, :1000], expected.values[:32, :1000])


def test_parts_of_a_seed_do_not_run_together():
    one, other = private_generator("a", "bc"), private_generator("ab", "c")
    assert one.initial_seed() != other.initial_seed()
    assert private_generator(1).initial_seed() != private_generator("1").initial_seed()
    assert private_generator(1, 23).initial_seed() != private_generator(12, 3).initial_seed()


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"density": 0.0}, "density is 0.0"),
        ({"density": 1.5}, "density is 1.5"),
        ({"density": float("nan")}, "density is nan"),
        ({"rows": 0}, "(0, 1024)"),
        ({"columns": 0}, "(32, 0)"),
        ({"kind": "dense"}, "'dense'"),
        ({"scale": "big"}, "'big'"),
    ],
)
def test_impossible_requests_are_named(wrong, named):
    with pytest.raises(ConfigError) as caught:
        draw(**wrong)
    assert named in str(caught.value)


# Two bits an entry

sign_rows = st.integers(1, 13).flatmap(
    lambda columns: st.lists(
        st.lists(st.sampled_from([-1, 0, 1]), min_size=columns, max_size=columns), min_size=1, max_size=4
    )
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(sign_rows)
def test_pack_and_back(rows):
    signs = torch.tensor(rows, dtype=torch.int8)
    packed = pack_ternary(signs)
    assert packed.dtype == torch.uint8
    assert packed.shape == (len(rows), math.ceil(len(rows[0]) / 4))
    back = unpack_ternary(packed, len(rows[0]))
    assert back.dtype == torch.int8
    assert torch.equal(back, signs)


def test_packed_layout():
    """Lowest bits first: 0 -> 00, +1 -> 01, -1 -> 11, the rest of the last byte zero."""
    codes = {0: 0b00, 1: 0b01, -1: 0b11}
    row = [1, -1, 0, 1, -1]
    expected = [0, 0]
    for position, sign in enumerate(row):
        expected[position // 4] |= codes[sign] << 2 * (position % 4)
    assert pack_ternary(torch.tensor([row], dtype=torch.int8)).tolist() == [expected]


def test_packing_takes_slices_and_transposes():
    signs = draw(rows=8, columns=16).values
    assert torch.equal(unpack_ternary(pack_ternary(signs.T), 8), signs.T)
    assert torch.equal(unpack_ternary(pack_ternary(signs[:, 1:]), 15), signs[:, 1:])


@pytest.mark.parametrize("place", [0, 2, 4, 6])
def test_a_code_that_means_nothing_is_damage(place):
    packed = torch.tensor([[0, 0b10 << place]], dtype=torch.uint8)
    with pytest.raises(AdapterError, match="damaged"):
        unpack_ternary(packed, 8)


def test_filling_that_is_not_zero_is_damage():
    packed = torch.tensor([[0, 0b0100]], dtype=torch.uint8)  # the sixth entry is +1
    assert unpack_ternary(packed, 6).tolist() == [[0, 0, 0, 0, 0, 1]]
    with pytest.raises(AdapterError, match="damaged"):
        unpack_ternary(packed, 5)


@pytest.mark.parametrize(
    "packed", [torch.zeros(2, 3, dtype=torch.uint8), torch.zeros(2, 2), torch.zeros(2, dtype=torch.uint8)]
)
def test_packed_tensors_that_do_not_fit(packed):
    with pytest.raises(AdapterError, match=r"\(r, 2\)"):
        unpack_ternary(packed, 8)


@pytest.mark.parametrize(
    "signs",
    [
        torch.tensor([[2, 0]]).to(torch.int8),
        torch.tensor([[-128]]).to(torch.int8),
        torch.ones(2, 2),
        torch.ones(3).to(torch.int8),
    ],
)
def test_what_cannot_be_packed(signs):
    with pytest.raises(AdapterError, match="Packing"):
        pack_ternary(signs)


# Fingerprint


def test_fingerprint_of_what_is_stored():
    projection = draw(columns=64)
    whole = fingerprint(projection)
    assert len(whole) >= 16
    int(whole, 16)
    assert fingerprint(projection.values, projection.scale) == whole
    assert fingerprint(unpack_ternary(pack_ternary(projection.values), 64), projection.scale) == whole
    for stored in (projection.values, projection.values.float()):
        strided = stored.T.contiguous().T
        assert not strided.is_contiguous()
        assert fingerprint(strided, 0.5) == fingerprint(stored, 0.5)


def test_fingerprint_sees_every_change():
    projection = draw(columns=64)
    values, scale = projection.values, projection.scale
    one_entry = values.clone()
    one_entry[-1, -1] = 1 if one_entry[-1, -1] != 1 else -1
    changed = [
        (one_entry, scale),
        (values, math.nextafter(scale, 1)),
        (values.reshape(16, 128), scale),
        (values.to(torch.float32), scale),
        (values.view(torch.uint8), scale),  # the same bytes, read otherwise
    ]
    marks = {fingerprint(v, s) for v, s in changed} | {fingerprint(projection)}
    assert len(marks) == len(changed) + 1


def test_bare_values_need_their_scale():
    with pytest.raises(TypeError, match="scale"):
        fingerprint(torch.ones(2, 2))


@pytest.mark.parametrize("kind", ["ternary", "gaussian"])
@pytest.mark.parametrize("columns", [16, 17, 19])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_dense_from_what_is_stored(kind, columns, dtype):
    made = make_projection(5, columns, kind=kind, density=0.5, scale="unit", seed=3, name="q")
    stored = made.stored()
    assert stored.dtype == (torch.uint8 if kind == "ternary" else torch.float32)
    assert Projection.from_stored(stored, columns, made.scale).values.equal(made.values)
    found = dense_projection(stored, columns, made.scale, dtype)
    assert found.shape == (5, columns)
    assert torch.allclose(found, made.dense(dtype), rtol=1e-2 if dtype == torch.bfloat16 else 1e-6, atol=0)
    if kind == "ternary":
        assert found.equal(made.dense(dtype))
