"""Counts against tensors really made (on the meta device) and operations really run (PyTorch's counter)."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from neurolora.core.accounting import (
    AdaptedModule,
    adapter_flops,
    adapter_parameters,
    base_flops,
    gate_keys,
    lora_flops,
    lora_parameters,
    model_flops,
    model_parameters,
)
from neurolora.core.gate import modulation
from neurolora.core.projection import make_projection, pack_ternary
from neurolora.core.update import adapter_update
from neurolora.errors import ConfigError

R, K, G = 32, 8, 64
LLAMA_3_8B = 8_030_261_248


def llama(layers: int = 32, wide: int = 4096, narrow: int = 1024) -> list[AdaptedModule]:
    rows = [("q_proj", wide, "hidden"), ("k_proj", narrow, "hidden"), ("v_proj", narrow, "hidden")]
    return [
        AdaptedModule(f"model.layers.{i}.self_attn.{name}", wide, out, f"layers.{i}.{reads}")
        for i in range(layers)
        for name, out, reads in [*rows, ("o_proj", wide, "heads")]
    ]


def made(modules, gate: str, sharing: str) -> dict[str, int]:
    """All tensors of such a model, made on the meta device and counted, sharing spelt out by hand."""
    tensors: dict[tuple[str, ...], torch.Tensor] = {}

    def make(*key: str, shape: tuple[int, ...]) -> None:
        tensors.setdefault(key, torch.empty(shape, device="meta"))

    for module in modules:
        last = module.name.split(".")[-1]
        whole = {"kind": f"{last} {module.in_features}", "model": str(module.in_features)}.get(
            sharing, module.name
        )
        first = module.reads if sharing == "input" else whole
        make("up", module.name, shape=(module.out_features, R))
        make("projection", module.name, shape=(R, module.in_features))
        if gate == "token":
            make("gate", "W1", first, shape=(G, module.in_features))
            make("gate", "W2", whole, shape=(R, G))
            make("gate", "beta", whole, shape=(R,))
        if gate != "none":
            make("gate", "gamma", whole, shape=(R,))
    totals = {"up": 0, "gate": 0, "projection": 0}
    for key, tensor in tensors.items():
        totals[key[0]] += tensor.numel()
    return totals


@pytest.mark.parametrize("sharing", ["module", "input", "kind", "model"])
@pytest.mark.parametrize("gate", ["token", "static", "none"])
def test_totals_are_those_of_real_tensors(gate, sharing):
    modules = [*llama(3), AdaptedModule("model.layers.0.mlp.down_proj", 14336, 4096, "inner")]
    found = model_parameters(modules, R, K, gate, G, sharing)
    assert {"up": found.up, "gate": found.gate, "projection": found.projection} == made(
        modules, gate, sharing
    )
    assert found.trainable == found.up + found.gate
    assert found.stored == found.trainable + found.projection
    assert found.active == K * sum(module.out_features for module in modules) + found.gate
    trained = model_parameters(modules, R, K, gate, G, sharing, train_projection=True)
    assert trained.trainable == trained.stored == found.stored


def test_the_figures_of_llama_3_8b():
    modules = llama()
    own, kind = (model_parameters(modules, R, K, "token", G, sharing) for sharing in ("module", "kind"))
    assert own.up == 10_485_760
    assert adapter_parameters(4096, 4096, R, K, "token", G).gate == 264_256
    assert own.gate == 128 * 264_256
    assert kind.gate == 4 * 264_256
    assert model_parameters(modules, R, K, "token", G, "model").gate == 264_256
    lora = sum(lora_parameters(module.in_features, module.out_features, R) for module in modules)
    assert lora == 27_262_976
    percent = [round(100 * n / LLAMA_3_8B, 3) for n in (own.up, own.trainable, kind.trainable, lora)]
    assert percent == [0.131, 0.552, 0.144, 0.34]


def test_one_adapter():
    count = adapter_parameters(10, 6, 4, 3, "token", 5)
    assert (count.up, count.gate, count.projection) == (24, 5 * 10 + 4 * 5 + 2 * 4, 40)
    assert count.active == 3 * 6 + count.gate
    assert adapter_parameters(10, 6, 4, 3, "static").gate == 4
    assert adapter_parameters(10, 6, 4, 3, "none").gate == 0


def test_stored_bytes_are_those_of_the_tensors():
    count = adapter_parameters(64, 48, R, K, "none")
    projection = make_projection(R, 64, kind="ternary", density=0.25, scale="unit", seed=0, name="q")
    B = torch.zeros(48, R)
    packed, dense = pack_ternary(projection.values), projection.dense()
    assert count.stored_bytes() == B.nbytes + packed.nbytes
    assert count.stored_bytes(projection_bytes_each=4) == B.nbytes + dense.nbytes


def test_who_shares():
    q, k, o = llama(1)[0], llama(1)[1], llama(1)[3]
    later_q = llama(2)[4]
    assert gate_keys(q, "module") != gate_keys(k, "module")
    assert gate_keys(q, "input").first == gate_keys(k, "input").first != gate_keys(o, "input").first
    assert gate_keys(q, "input").rest != gate_keys(k, "input").rest
    assert gate_keys(q, "kind") == gate_keys(later_q, "kind") != gate_keys(k, "kind")
    assert gate_keys(q, "model") == gate_keys(o, "model")
    wider = AdaptedModule(q.name, 8192, 4096)
    for sharing in ("kind", "model"):
        assert gate_keys(q, sharing) != gate_keys(wider, sharing)
    alone = [AdaptedModule("a", 8, 8), AdaptedModule("b", 8, 8)]
    assert gate_keys(alone[0], "input").first != gate_keys(alone[1], "input").first


# Operations


def counted(run) -> int:
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def leaf(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, requires_grad=True)


@pytest.mark.parametrize("gate", ["token", "static", "none"])
def test_operations_are_those_that_run(gate):
    tokens, d, o, r, g = 10, 24, 18, 6, 5
    x, A, B = leaf(tokens, d), torch.randn(r, d), leaf(o, r)
    parameters = {"token": [leaf(g, d), leaf(r, g), leaf(r), leaf(r)], "static": [leaf(r)], "none": []}[gate]

    def forward():
        m = modulation(x, *parameters) if gate == "token" else (parameters[0] if parameters else None)
        return adapter_update(x, A, B, modulation=m, top_k=2, scaling=1.0)[0]

    flops = adapter_flops(d, o, r, gate, g)
    assert counted(forward) == tokens * flops.forward
    assert counted(lambda: forward().sum().backward()) == tokens * flops.total


def test_operations_of_base_and_lora_are_those_that_run():
    tokens, d, o, r = 10, 24, 18, 6
    x, W0, down, up = leaf(tokens, d), torch.randn(o, d), leaf(r, d), leaf(o, r)
    assert counted(lambda: (x @ W0.T).sum().backward()) == tokens * base_flops(d, o).total
    assert counted(lambda: (x @ down.T @ up.T).sum().backward()) == tokens * lora_flops(d, o, r).total
    assert counted(lambda: x @ down.T @ up.T) == tokens * lora_flops(d, o, r).forward


def test_the_formulas():
    """512 d + 192 o for a gated adapter of rank 32 and gate width 64, and W2's small part, 6 r g."""
    for d, o in ((4096, 1024), (1024, 2816)):
        assert base_flops(d, o).total == 4 * d * o
        assert lora_flops(d, o, R).total == 6 * R * (d + o)
        assert adapter_flops(d, o, R, "none").total == 4 * R * d + 6 * R * o
        assert adapter_flops(d, o, R, "token", G).total == 512 * d + 192 * o + 6 * R * G


def test_a_shared_first_layer_runs_once():
    modules = llama(2)
    own, shared = (model_flops(modules, R, "token", G, sharing).total for sharing in ("module", "input"))
    assert own - shared == 2 * 2 * 6 * G * 4096  # in each layer two are saved of q, k and v
    # The same weights on another input are another product.
    assert model_flops(modules, R, "token", G, "kind").total == own
    # One gate for all is one gate for q, k and v: W2's product is shared too.
    whole = model_flops(modules, R, "token", G, "model").total
    assert shared - whole == 2 * 2 * 6 * G * R


def test_unknown_inputs_are_taken_for_different_ones():
    blind = [AdaptedModule(module.name, module.in_features, module.out_features) for module in llama(1)]
    own = model_flops(blind, R, "token", G, "module")
    for sharing in ("input", "kind", "model"):
        assert model_flops(blind, R, "token", G, sharing) == own


@pytest.mark.parametrize("wrong", [{"top_k": 0}, {"top_k": 33}, {"gate": "soft"}, {"gate_sharing": "layer"}])
def test_impossible_requests(wrong):
    request = {"r": R, "top_k": K, "gate": "token", "gate_sharing": "module"} | wrong
    with pytest.raises(ConfigError, match=str(next(iter(wrong.values())))):
        model_parameters(llama(1), **request)
