"""The Triton kernels against `core/`: on a GPU where there is one, else by Triton's interpreter.

The selection must be equal to the bit, values to rounding. Interpreted kernels say nothing of the
compiler, so one test compiles every kernel, for a GPU that need not be there.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import subprocess
import sys
from dataclasses import replace
from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from neurolora.core.gate import GateKind, modulation
from neurolora.core.kernels import RouteSpec
from neurolora.core.kernels.triton_kernels import (
    decode_add,
    decode_route,
    fused_route,
    fused_route_backward,
    fused_selected,
    triton_available,
    triton_supports,
)
from neurolora.core.routing import routing_score, top_k_mask
from neurolora.core.update import adapter_update
from neurolora.errors import ConfigError

pytest.importorskip("triton")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
with pytest.MonkeyPatch.context() as patch:
    # read where a kernel is declared: set for this import alone, other tests must not see interpreted kernels
    if DEVICE == "cpu":
        patch.setenv("TRITON_INTERPRET", "1")
    importlib.import_module("neurolora.core.kernels.triton_decode_device")

R, K, G, D, OUT = 6, 3, 5, 150, 130
NAN, INF = float("nan"), float("inf")
ROUNDED_BF16 = pytest.mark.skipif(
    DEVICE == "cpu",
    reason="Triton's interpreter cuts bf16 off instead of rounding it, and cannot multiply it",
)
HALF = [torch.float16, pytest.param(torch.bfloat16, marks=ROUNDED_BF16)]
CLOSE = {"rtol": 2e-6, "atol": 2e-6}
Gate = dict[str, Tensor | None]


@pytest.fixture(autouse=True)
def _interpreted(monkeypatch: pytest.MonkeyPatch) -> None:
    if DEVICE == "cpu":
        monkeypatch.setenv("TRITON_INTERPRET", "1")
    torch.manual_seed(0)


#: A learned router is for the readable version alone.
GATES = [kind for kind in get_args(GateKind) if kind != "router"]


def spec(gate: GateKind = "token", members: int = 3, **changes: Any) -> RouteSpec:
    made = RouteSpec(members, R, K, gate, "abs", members, torch.float32, torch.float32)
    return replace(made, **changes)


def normal(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, dtype=dtype, device=DEVICE)


def gate_of(s: RouteSpec, tokens: int) -> Gate:
    """Logits that are a slice of a wider tensor, gamma and beta; None what the gate lacks."""
    made: Gate = {
        "logits": normal(tokens, s.width + 7, dtype=s.dtype)[:, 3 : 3 + s.width],
        "gamma": normal(s.width, dtype=s.dtype),
        "beta": normal(s.width, dtype=s.dtype),
    }
    kept = {"token": tuple(made), "static": ("gamma",), "none": ()}[s.gate]
    return {name: t if name in kept else None for name, t in made.items()}


def slice_of_wider(tokens: int, s: RouteSpec) -> Tensor:
    return normal(tokens, s.width + 9, dtype=s.dtype)[:, : s.width]


def check_selection(s: RouteSpec, h: Tensor, gate: Gate, bias: Tensor | None) -> None:
    """Given the kernel's m, everything else must be as PyTorch has it, bit by bit."""
    selected, mask, m = fused_route(h, gate["logits"], gate["gamma"], gate["beta"], bias, s)
    if s.gate == "token":
        assert m is not None
        assert m.shape == h.shape
        expected = gate["logits"].sigmoid() * gate["gamma"] + gate["beta"]  # type: ignore[union-attr,operator]
        rounding = CLOSE if s.dtype == torch.float32 else {"rtol": 0.02, "atol": 0.02}
        torch.testing.assert_close(m, expected, **rounding)  # type: ignore[arg-type]
    else:
        assert m is gate["gamma"]
    h_mod = (h if m is None else h * m).view(len(h), s.members, s.r)
    wanted = top_k_mask(routing_score(h_mod, s.routing, bias), s.top_k)
    assert mask.dtype == torch.bool
    assert mask.equal(wanted)
    assert selected.dtype == s.dtype
    torch.testing.assert_close(selected, h_mod.masked_fill(~wanted, 0.0), rtol=0, atol=0, equal_nan=True)
    again = fused_selected(h, gate["logits"], gate["gamma"], gate["beta"], mask, s)
    torch.testing.assert_close(again, selected, rtol=0, atol=0, equal_nan=True)


VARIANTS = [(1, "abs", False), (3, "abs", True), (3, "signed", False), (3, "signed", True)]


@pytest.mark.parametrize(("members", "routing", "biased"), VARIANTS)
@pytest.mark.parametrize("gate", GATES)
def test_route(gate: GateKind, members: int, routing: Any, biased: bool) -> None:
    s = spec(gate, members, routing=routing)
    for tokens in (0, 1, 5, 33):
        bias = normal(members, R) if biased else None
        check_selection(s, slice_of_wider(tokens, s), gate_of(s, tokens), bias)


@pytest.mark.parametrize(("r", "k"), [(1, 1), (32, 8), (100, 7), (128, 127)])
def test_route_at_other_ranks_and_over_several_blocks(r: int, k: int) -> None:
    tokens = 1024 // r + 1 if r > 1 else 3
    s = spec("token", 1, r=r, top_k=k)
    check_selection(s, slice_of_wider(tokens, s), gate_of(s, tokens), None)


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("dtype", HALF)
def test_route_of_half_precision_rounds_as_pytorch(dtype: torch.dtype, biased: bool) -> None:
    s = spec("token", 2, r=32, top_k=8, dtype=dtype, compute=dtype, routing="signed")
    check_selection(s, slice_of_wider(40, s), gate_of(s, 40), normal(2, 32, dtype=dtype) if biased else None)


@pytest.mark.parametrize(("gate", "biased"), [("static", False), ("none", True)])
def test_what_rounding_makes_equal_is_equal(gate: GateKind, biased: bool) -> None:
    """Just below 2, times 1.1 or plus 1, neighbours in fp16 become one number; unrounded they would not."""
    s = spec(gate, 1, r=32, top_k=8, dtype=torch.float16)
    h = (1.9 + torch.randint(0, 16, (32, 32), device=DEVICE) * 2.0**-10).half()
    gates: Gate = {"logits": None, "gamma": torch.full_like(h[0], 1.1), "beta": None}
    gates = gates if gate == "static" else dict.fromkeys(gates)
    check_selection(s, h, gates, torch.ones_like(h[:1]) if biased else None)


AWKWARD = torch.tensor(
    [
        [1.0, -1.0, 1.0, 0.0, -0.0, 1.0, -1.0, 0.5],
        [0.0, -0.0, 0.0, 0.0, -0.0, 0.0, 0.0, 0.0],
        [1.0, NAN, 3.0, INF, -INF, 0.0, -5.0, 2.0],
        [NAN, -NAN, 3.0, NAN, NAN, INF, 1.0, 2.0],
        [-1.0, -2.0, -3.0, -4.0, -5.0, -6.0, -7.0, -8.0],
        [1e-45, -1e-45, 0.0, 2e-45, -3e-45, 1e-38, 0.0, -1e-40],
    ]
)


@pytest.mark.parametrize("gate", ["none", "static"])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("routing", ["abs", "signed"])
def test_ties_zeros_nan_and_inf(routing: Any, biased: bool, gate: GateKind) -> None:
    h = AWKWARD.to(DEVICE)
    bias = torch.linspace(-1, 1, 8, device=DEVICE).round()[None] if biased else None
    gates: Gate = {"logits": None, "gamma": torch.ones(8, device=DEVICE), "beta": None}
    for k in range(1, 9):
        s = spec(gate, 1, r=8, top_k=k, routing=routing)
        check_selection(s, h, gates if gate == "static" else dict.fromkeys(gates), bias)


def test_a_gate_at_its_start_is_one_to_the_bit() -> None:
    s = spec()
    ones = torch.ones(s.width, device=DEVICE)
    h = slice_of_wider(4, s)
    selected, mask, m = fused_route(h, torch.zeros_like(h), 2 * ones, 0 * ones, None, s)
    assert m is not None
    assert m.equal(torch.ones_like(m))
    assert selected.view_as(h)[mask.view_as(h)].equal(h[mask.view_as(h)])


@pytest.mark.parametrize("members", [1, 3])
@pytest.mark.parametrize("gate", GATES)
def test_backward_is_autograd_s(gate: GateKind, members: int) -> None:
    s = spec(gate, members, r=20, top_k=7)
    for tokens in (0, 1, 5, 150):
        h, gates = slice_of_wider(tokens, s), gate_of(s, tokens)
        d = normal(tokens, s.width + 2)[:, 1:-1]
        leaves = [t.detach().requires_grad_() for t in (h, *gates.values()) if t is not None]
        own, *rest = leaves
        m = rest[0].sigmoid() * rest[1] + rest[2] if gate == "token" else rest[0] if rest else None
        h_mod = (own if m is None else own * m).view(tokens, members, s.r)
        mask = top_k_mask(routing_score(h_mod), s.top_k)
        selected = h_mod.masked_fill(~mask, 0.0).view(tokens, s.width)
        expected = torch.autograd.grad(selected, leaves, d)
        wide = normal(tokens, s.width + 4)
        beside = wide.clone()
        found = fused_route_backward(d, h, *gates.values(), mask, s, out=wide[:, : s.width])  # type: ignore[misc]
        assert found.dh.data_ptr() == wide.data_ptr()
        assert wide[:, s.width :].equal(beside[:, s.width :])
        given = [t for t in found if t is not None]
        for a, b in zip(given, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
        apart = fused_route_backward(d, h, *gates.values(), mask, s)  # type: ignore[misc]
        assert all(a.equal(b) for a, b in zip([t for t in apart if t is not None], given, strict=True))


def test_backward_of_a_rank_that_is_not_active_is_zero_whatever_came_back_for_it() -> None:
    s = spec("static", 1, r=8)
    mask = torch.zeros(2, 1, 8, dtype=torch.bool, device=DEVICE)
    mask[..., :3] = True
    d = torch.where(mask.view(2, 8), 1.0, NAN)
    ones = torch.ones(2, 8, device=DEVICE)
    found = fused_route_backward(d, ones, None, ones[0], None, mask, s)
    assert found.dh.equal(mask.view(2, 8).float())
    assert found.dgamma is not None
    assert found.dgamma.equal(mask[0, 0].float() * 2)


@pytest.mark.parametrize("compute", HALF)
def test_backward_gives_the_logits_gradient_in_the_dtype_of_the_products(compute: torch.dtype) -> None:
    s = spec("token", 2, compute=compute)
    h, gates = slice_of_wider(5, s), gate_of(s, 5)
    mask = torch.ones(5, 2, R, dtype=torch.bool, device=DEVICE)
    exact = fused_route_backward(h, h, *gates.values(), mask, replace(s, compute=s.dtype))  # type: ignore[misc]
    found = fused_route_backward(h, h, *gates.values(), mask, s)  # type: ignore[misc]
    assert found.dz is not None
    assert exact.dz is not None
    assert found.dz.equal(exact.dz.to(compute))
    assert found.dh.dtype == torch.float32


class Decode:
    """A group's tensors, its update by the readable path and by the kernels."""

    def __init__(self, s: RouteSpec, tokens: int, biased: bool = False, g: int = G, d: int = D) -> None:
        self.spec, n = s, s.members
        # x is not adjacent, weights as small as a layer's
        self.x = normal(tokens, d + 3)[:, 1 : d + 1]
        self.A = normal(n, s.r, d) / d**0.5
        self.W1 = normal(s.w1_count if s.gate == "token" else 0, g, d) / d**0.5
        self.W2, self.gamma, self.beta = normal(n, s.r, g), normal(n, s.r), normal(n, s.r)
        self.B, self.result = normal(n, OUT, s.r), normal(n, tokens, OUT)
        self.bias = normal(n, s.r) if biased else None

    def expected(self, member: int, result: Tensor) -> tuple[Tensor, Tensor]:
        m: Tensor | None = None
        if self.spec.gate == "token":
            W1 = self.W1[0 if self.spec.shares_w1 else member]
            m = modulation(self.x, W1, self.W2[member], self.gamma[member], self.beta[member])
        elif self.spec.gate == "static":
            m = self.gamma[member]
        dy, mask = adapter_update(
            self.x, self.A[member], self.B[member], modulation=m, top_k=self.spec.top_k, scaling=0.5,
            routing=self.spec.routing, bias=None if self.bias is None else self.bias[member],
        )  # fmt: skip
        return (result.float() + dy).to(result.dtype), mask

    def arguments(self) -> list[Tensor | None]:
        token, gated = self.spec.gate == "token", self.spec.gate != "none"
        P = torch.cat([self.A.flatten(0, 1), self.W1.flatten(0, 1)]).to(self.spec.compute)
        W2 = self.W2.flatten(0, 1) if token else None
        gamma, beta = (t.flatten() for t in (self.gamma, self.beta))
        return [self.x, P, W2, gamma if gated else None, beta if token else None, self.bias]

    def check(self, result_dtype: torch.dtype = torch.float32) -> None:
        routed = decode_route(*self.arguments(), self.spec)  # type: ignore[arg-type]
        for i in range(self.spec.members):
            result = self.result[i].to(result_dtype)
            wanted, mask = self.expected(i, result)
            found = decode_add(result, routed, i, self.B[i].T.contiguous(), 0.5)
            assert found is result
            chosen = torch.zeros_like(mask).scatter(1, routed.indices[:, i].long(), True)
            assert chosen.equal(mask)
            rounding = {"rtol": 1e-5, "atol": 1e-5} if result_dtype == torch.float32 else {}
            torch.testing.assert_close(found, wanted, **rounding)  # type: ignore[arg-type]


CASES = [
    ("token", 1, 1),
    ("token", 3, 3),
    ("token", 3, 1),
    ("static", 1, 0),
    ("static", 3, 0),
    ("none", 3, 0),
]


@pytest.mark.parametrize(("gate", "members", "w1_count"), CASES)
@pytest.mark.parametrize("routing", ["abs", "signed"])
@pytest.mark.parametrize("biased", [False, True])
def test_decode(biased: bool, routing: Any, gate: GateKind, members: int, w1_count: int) -> None:
    s = spec(gate, members, routing=routing, w1_count=w1_count)
    Decode(s, 3 if biased else 1, biased).check()


@pytest.mark.parametrize(("gate", "tokens"), [("none", 17), ("token", 32)])
def test_decode_of_several_tokens(gate: GateKind, tokens: int) -> None:
    Decode(spec(gate, 1), tokens).check()


@pytest.mark.parametrize(("r", "k", "g", "d"), [(6, 1, 1, 20), (6, 6, 5, 20), (40, 19, 70, 1100)])
def test_decode_at_other_sizes(r: int, k: int, g: int, d: int) -> None:
    """Up to more than one step of every loop: over d, over g and over the active ranks."""
    Decode(spec("token", 1, r=r, top_k=k), 2, g=g, d=d).check()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_decode_into_a_half_precision_result(dtype: torch.dtype) -> None:
    Decode(spec("token", 3), 2).check(dtype)


@pytest.mark.parametrize("compute", HALF)
def test_decode_with_products_in_half_precision(compute: torch.dtype) -> None:
    t = Decode(spec("token", 1, compute=compute, top_k=R), 4)
    result = t.result[0].clone()
    routed = decode_route(*t.arguments(), t.spec)  # type: ignore[arg-type]
    found = decode_add(result, routed, 0, t.B[0].T.contiguous(), 0.5)
    torch.testing.assert_close(found, t.expected(0, t.result[0])[0], rtol=0.05, atol=0.05)


def test_decode_ranks_ties_and_nan_as_the_readable_path() -> None:
    t = Decode(spec("none", 1, r=8, top_k=4), len(AWKWARD), d=8)
    t.x, t.A = (
        AWKWARD.nan_to_num(nan=7.0, posinf=7.0, neginf=-7.0).to(DEVICE),
        torch.eye(8, device=DEVICE)[None],
    )
    t.check()
    t.x = torch.where(AWKWARD.isnan().any(1, keepdim=True), NAN, t.x.cpu()).to(DEVICE)
    indices = decode_route(*t.arguments(), t.spec).indices  # type: ignore[arg-type]
    assert indices[2].tolist() == [[0, 1, 2, 3]]


def test_decode_refuses_what_it_has_no_room_for() -> None:
    for tokens in (0, 33):
        with pytest.raises(ConfigError, match="32"):
            decode_route(*Decode(spec(), tokens).arguments(), spec())  # type: ignore[arg-type]


def test_availability(monkeypatch: pytest.MonkeyPatch) -> None:
    assert triton_available("cuda")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert triton_available(torch.device("cpu"))
    assert not triton_available("meta")
    monkeypatch.delenv("TRITON_INTERPRET")
    assert not triton_available("cpu")
    assert triton_supports(spec(r=128))
    assert not triton_supports(spec(r=129))
    assert not triton_supports(spec(dtype=torch.float64))


def test_without_triton_there_are_no_kernels_and_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec("neurolora.core.kernels.triton_kernels")
    assert found is not None
    assert found.loader is not None
    monkeypatch.setitem(sys.modules, "triton", None)
    fresh = importlib.util.module_from_spec(found)
    monkeypatch.setitem(sys.modules, found.name, fresh)
    found.loader.exec_module(fresh)
    assert not fresh.triton_available("cuda")


COMPILE = """
import torch, triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from neurolora.core.kernels import RouteSpec, triton_kernels as kernels

NAMES = {torch.float32: "*fp32", torch.bfloat16: "*bf16", torch.uint8: "*u8", torch.int32: "*i32"}
compiled = []

def compile_instead(kernel, grid):
    def launch(*args, enable_fp_fusion=True):
        signature, constants = {}, {}
        for i, (parameter, arg) in enumerate(zip(kernel.params, args, strict=True)):
            if parameter.is_constexpr or arg is None:
                signature[parameter.name], constants[(i,)] = "constexpr", arg
            else:
                kinds = {int: "i32", float: "fp32"}
                signature[parameter.name] = kinds[type(arg)] if type(arg) in kinds else NAMES[arg.dtype]
        options = {"enable_fp_fusion": enable_fp_fusion}
        target = GPUTarget("cuda", 80, 32)
        made = triton.compile(ASTSource(kernel, signature, constants), target=target, options=options)
        compiled.append(kernel.__name__)
        assert made.asm["cubin"]
    return launch

triton.JITFunction.__getitem__ = compile_instead
s = RouteSpec(2, 32, 8, "token", "abs", 2, torch.float32, torch.bfloat16)
h = torch.zeros(3, 64)
gamma, bias = h[0], h[0].view(2, 32)
mask = kernels.fused_route(h, h, gamma, gamma, bias, s)[1]
kernels.fused_selected(h, h, gamma, gamma, mask, s)
kernels.fused_route_backward(h, h, h, gamma, gamma, mask, s)
x, P = torch.zeros(1, 128).bfloat16(), torch.zeros(128, 128).bfloat16()
routed = kernels.decode_route(x, P, torch.zeros(64, 32), gamma, gamma, bias, s)
kernels.decode_add(x.clone(), routed, 0, P, 0.5)
assert len(compiled) == 6, compiled
"""


def test_every_kernel_compiles_for_a_gpu() -> None:
    pytest.importorskip("triton", minversion="3.3")
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    command = [sys.executable, "-c", COMPILE]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
