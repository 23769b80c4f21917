"""The fast paths against `core/update.py`: outputs, masks and all gradients, one module or several."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from neurolora.core.gate import modulation
from neurolora.core.kernels import RouteSpec, add_update, fast_top_k_mask, route
from neurolora.core.projection import Projection, pack_ternary
from neurolora.core.routing import routing_score, top_k_mask
from neurolora.core.update import adapter_update

D, OUT, R, G, K, SCALING = 14, 10, 8, 5, 3, 0.5
TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-6}


def spec(members: int, gate: str, shared: bool = False, dtype: torch.dtype = torch.float64) -> RouteSpec:
    w1 = {"token": 1 if shared else members}.get(gate, 0)
    return RouteSpec(members, R, K, gate, "abs", w1, dtype, dtype)  # type: ignore[arg-type]


def tensors(s: RouteSpec, tokens: int = 17) -> dict[str, Any]:
    torch.manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=s.dtype).requires_grad_()

    members = range(s.members)
    gates = {
        "token": [
            [normal(G, D) for _ in range(s.w1_count)],
            *([normal(*shape) for _ in members] for shape in ((R, G), (R,), (R,))),
        ],
        "static": [[normal(R) for _ in members]],
        "none": [],
    }
    return {
        "x": normal(tokens, D),
        "A": [pack_ternary(torch.randint(-1, 2, (R, D), dtype=torch.int8)) for _ in members],
        "scales": [0.3 + 0.1 * i for i in members],
        "gates": gates[s.gate],
        "B": [normal(OUT + i, R) for i in members],
        "result": [normal(tokens, OUT + i) for i in members],
    }


def leaves(t: dict[str, Any]) -> list[Tensor]:
    return [t["x"], *(p for parts in t["gates"] for p in parts), *t["B"], *t["result"]]


def fast(s: RouteSpec, t: dict[str, Any], biases: Any = None, in_place: bool = False) -> list[Tensor]:
    made = route(t["x"], t["A"], t["scales"], t["gates"], biases, s)
    results = [y + 0.0 if in_place else y for y in t["result"]]
    return [
        add_update(y, one, B, SCALING, compute=s.compute, in_place=in_place)
        for y, one, B in zip(results, made, t["B"], strict=True)
    ]


def slow(s: RouteSpec, t: dict[str, Any], biases: Any = None) -> list[Tensor]:
    outputs = []
    for i in range(s.members):
        m: Tensor | None = None
        if s.gate == "token":
            W1, W2, gamma, beta = t["gates"]
            m = modulation(t["x"], W1[0 if s.shares_w1 else i], W2[i], gamma[i], beta[i])
        elif s.gate == "static":
            m = t["gates"][0][i]
        A = Projection.from_stored(t["A"][i], D, t["scales"][i]).dense(s.dtype)
        dy, _ = adapter_update(
            t["x"], A, t["B"][i], modulation=m, top_k=s.top_k, scaling=SCALING, routing=s.routing,
            bias=None if biases is None else biases[i],
        )  # fmt: skip
        outputs.append(t["result"][i] + dy)
    return outputs


def gradients(outputs: list[Tensor], t: dict[str, Any]) -> list[Tensor]:
    torch.manual_seed(1)
    loss = sum((y * torch.randn_like(y)).sum() for y in outputs)
    assert isinstance(loss, Tensor)
    return list(torch.autograd.grad(loss, leaves(t), materialize_grads=True))


CASES = [(n, gate, shared) for n in (1, 3) for gate in ("token", "static", "none") for shared in (False, True)
         if not shared or (gate == "token" and n > 1)]  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize(("members", "gate", "shared"), CASES)
def test_outputs_and_gradients_are_the_readable_path_s(
    members: int, gate: str, shared: bool, in_place: bool, dtype: torch.dtype
) -> None:
    s = spec(members, gate, shared, dtype)
    t = tensors(s)
    expected, found = slow(s, t), fast(s, t, in_place=in_place)
    for a, b in zip(found, expected, strict=True):
        assert torch.allclose(a, b, rtol=0, atol=TOLERANCE[dtype] * 10)
    for a, b in zip(gradients(found, t), gradients(expected, t), strict=True):
        assert torch.allclose(a, b, rtol=TOLERANCE[dtype] * 10, atol=TOLERANCE[dtype] * 50)


@pytest.mark.parametrize("routing", ["abs", "signed"])
def test_load_balancing_s_bias_and_signed_routing(routing: Any) -> None:
    s = replace(spec(3, "token"), routing=routing)
    t, biases = tensors(s), [torch.randn(R, dtype=s.dtype) for _ in range(3)]
    for a, b in zip(fast(s, t, biases), slow(s, t, biases), strict=True):
        assert torch.allclose(a, b, rtol=0, atol=1e-12)


def test_gradcheck() -> None:
    """Against finite differences, away from the borders where the set of active ranks changes."""
    s = spec(2, "token")
    t = tensors(s, tokens=3)

    def run(*values: Tensor) -> tuple[Tensor, ...]:
        x, *rest = values
        gates = [list(rest[2 * i : 2 * i + 2]) for i in range(4)]
        return tuple(fast(s, {**t, "x": x, "gates": gates, "B": rest[8:10], "result": rest[10:]}))

    assert torch.autograd.gradcheck(run, tuple(leaves(t)), eps=1e-7, atol=1e-5)


def test_a_module_that_was_not_used_gets_no_gradient_and_disturbs_none() -> None:
    s = spec(3, "token")
    t = tensors(s)
    found = gradients(fast(s, t)[:2], {**t, "B": t["B"][:2], "result": t["result"][:2]})
    expected = gradients(slow(s, t)[:2], {**t, "B": t["B"][:2], "result": t["result"][:2]})
    third = [2, 5, 8, 11]  # W1, W2, gamma and beta of the third module, behind x
    for i, (a, b) in enumerate(zip(found, expected, strict=False)):
        assert a.equal(torch.zeros_like(a)) if i - 1 in third else torch.allclose(a, b, atol=1e-12)


def test_only_what_is_wanted_is_computed() -> None:
    s = spec(2, "token")
    t = tensors(s)
    for frozen in ("x", "gates", "B"):
        held = {"x": [t["x"]], "gates": [p for parts in t["gates"] for p in parts], "B": t["B"]}[frozen]
        for p in held:
            p.requires_grad_(False)
        wanted = [p for p in leaves(t) if p.requires_grad]
        torch.manual_seed(1)
        found = torch.autograd.grad(sum(y.sum() for y in fast(s, t)), wanted)
        expected = torch.autograd.grad(sum(y.sum() for y in slow(s, t)), wanted)
        assert all(torch.allclose(a, b, atol=1e-12) for a, b in zip(found, expected, strict=True))
        for p in held:
            p.requires_grad_(True)


def test_flylora_without_a_gradient_to_its_input() -> None:
    s = spec(3, "none")
    t = tensors(s)
    t["x"].requires_grad_(False)
    t["result"] = [y.detach() for y in t["result"]]
    found = torch.autograd.grad(sum(y.square().sum() for y in fast(s, t, in_place=True)), t["B"])
    expected = torch.autograd.grad(sum(y.square().sum() for y in slow(s, t)), t["B"])
    assert all(torch.allclose(a, b, atol=1e-12) for a, b in zip(found, expected, strict=True))


def test_a_second_backward_over_a_kept_graph_gives_the_same() -> None:
    s = spec(3, "token")
    t = tensors(s)
    loss = sum(y.square().sum() for y in fast(s, t))
    first = torch.autograd.grad(loss, leaves(t), retain_graph=True)
    assert all(a.equal(b) for a, b in zip(first, torch.autograd.grad(loss, leaves(t)), strict=True))


@pytest.mark.parametrize("gate", ["token", "none"])
def test_what_is_kept_for_the_backward(gate: str) -> None:
    """x once, the product of [A; W1], a byte a rank; without a gate not even x."""
    s = spec(3, gate, dtype=torch.float32)
    t = tensors(s, tokens=64)
    own = {p.untyped_storage().data_ptr() for p in [*leaves(t)[1:], *t["A"]]}
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        outputs = fast(s, t)
    found = sum(size for pointer, size in kept.items() if pointer not in own)
    x, h, u, mask = 64 * D * 4, 64 * 3 * R * 4, 64 * 3 * G * 4, 64 * 3 * R
    assert len(outputs) == 3
    assert found == (x + h + u + mask if gate == "token" else h + mask)


AWKWARD = {
    "ties": torch.tensor([[1.0, -1.0, 1.0, 0.0, -0.0, 1.0, -1.0, 0.5]]),
    "zeros": torch.tensor([[0.0, -0.0, 0.0, 0.0, -0.0, 0.0, 0.0, 0.0]]),
    "nan": torch.tensor([[1.0, float("nan"), 3.0, float("inf"), -float("inf"), 0.0, -5.0, 2.0]]),
    "nans": torch.tensor([[float("nan"), -float("nan"), 3.0, float("nan"), float("nan"), 0.0, 1.0, 2.0]]),
    "negative": -torch.arange(1.0, 9.0)[None],
    "tiny": torch.tensor([[1e-45, -1e-45, 0.0, 2e-45, -3e-45, 1e-38, 0.0, -1e-40]]),
    "empty": torch.zeros(0, 8),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("routing", ["abs", "signed"])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("name", AWKWARD)
def test_selection_is_the_stable_sort_s(name: str, biased: bool, routing: Any, dtype: torch.dtype) -> None:
    h = AWKWARD[name].to(dtype)
    bias = torch.linspace(-1, 1, 8).to(dtype) if biased else None
    for k in range(1, 9):
        expected = top_k_mask(routing_score(h, routing, bias), k)
        assert fast_top_k_mask(h, k, routing, bias).equal(expected), k


def test_selection_on_many_rows_with_and_without_ties() -> None:
    torch.manual_seed(0)
    for h in (torch.randn(4, 500, 32), torch.randint(-4, 5, (2000, 32)).float()):
        for k in (1, 8, 31, 32):
            assert fast_top_k_mask(h, k).equal(top_k_mask(h.abs(), k))
    with pytest.raises(ValueError, match="top_k"):
        fast_top_k_mask(torch.randn(2, 8), 9)


@pytest.mark.parametrize("name", AWKWARD)
def test_awkward_values_reach_the_output_as_in_the_readable_path(name: str) -> None:
    s = replace(spec(1, "none", dtype=torch.float32))
    t = tensors(s, tokens=len(AWKWARD[name]))
    t["A"], t["scales"] = [torch.eye(R, D)], [1.0]  # a gaussian A is stored as it is
    t["x"] = torch.nn.functional.pad(AWKWARD[name], (0, D - R)).requires_grad_()
    (found,), (expected,) = fast(s, t), slow(s, t)
    assert torch.allclose(found, expected, atol=1e-6, equal_nan=True)


@pytest.mark.parametrize("tokens", [0, 1])
def test_no_token_and_one_token(tokens: int) -> None:
    s = spec(3, "token")
    t = tensors(s, tokens)
    found, expected = fast(s, t), slow(s, t)
    assert all(torch.allclose(a, b, atol=1e-12) for a, b in zip(found, expected, strict=True))
    for a, b in zip(gradients(found, t), gradients(expected, t), strict=True):
        assert torch.allclose(a, b, atol=1e-11)


@pytest.mark.parametrize("compute", [torch.bfloat16, torch.float32])
def test_a_bf16_base_keeps_its_dtype(compute: torch.dtype) -> None:
    s = replace(spec(2, "token", dtype=torch.float32), compute=compute)
    t = tensors(s)
    t["x"] = t["x"].detach().to(torch.bfloat16).requires_grad_()
    t["result"] = [y.detach().to(torch.bfloat16).requires_grad_() for y in t["result"]]
    found = fast(s, t)
    exact = {**t, "x": t["x"].float(), "result": [y.float() for y in t["result"]]}
    for a, b in zip(found, slow(s, exact), strict=True):
        assert a.dtype == torch.bfloat16
        # rounding may change which ranks are active, so the mean is compared, not the worst
        assert (a.float() - b).abs().mean() < 0.02 * b.abs().mean()
    dx, *rest = gradients(found, t)
    assert dx.dtype == torch.bfloat16
    assert all(g.dtype == torch.float32 for g in rest[: -len(t["result"])])
