"""Precisions, batches of several adapters, generation, compilation, quantised layers, several processes."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model
from torch import Tensor, nn

from neurolora import step_load_balance
from neurolora.tuner import adapter_layers


def adapted(tiny: ModuleType, kind: str, base: nn.Module | None = None, **fields: Any) -> Any:
    base = tiny.make(kind) if base is None else base
    return get_peft_model(base, tiny.make_config(kind, **fields)).eval()


HALVES = [torch.bfloat16, torch.float16]


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("projection", ["ternary", "gaussian"])
def test_on_a_half_precision_base_the_adapter_is_float32(
    tiny: ModuleType, dtype: torch.dtype, projection: str, tmp_path: Path
) -> None:
    batch = tiny.inputs("llama")
    model = adapted(tiny, "llama", tiny.make("llama").to(dtype), init_weights=False, projection=projection)
    exact = adapted(tiny, "llama", init_weights=False, projection=projection)
    for (_, one), (_, other) in zip(adapter_layers(model), adapter_layers(exact), strict=True):
        assert one.neurolora_A["default"].equal(other.neurolora_A["default"])
    assert {p.dtype for name, p in model.named_parameters() if ".neurolora_" in name} == {torch.float32}
    expected = tiny.outputs(model, batch)
    assert expected.dtype == dtype
    model.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(tiny.make("llama").to(dtype), tmp_path)
    assert tiny.outputs(again, batch).equal(expected)


@pytest.mark.parametrize("dtype", HALVES)
def test_transformers_own_loader_gives_the_base_s_dtype_but_never_another_ternary_a(
    tiny: ModuleType, dtype: torch.dtype, tmp_path: Path
) -> None:
    """Its loader casts what it loads, PEFT's LoRA weights as well; signs are integers and stay."""
    model = adapted(tiny, "llama", tiny.make("llama").to(dtype), init_weights=False)
    model.save_pretrained(tmp_path)
    native = tiny.make("llama").to(dtype)
    native.load_adapter(tmp_path)
    for (_, one), (_, other) in zip(adapter_layers(native), adapter_layers(model), strict=True):
        assert one.neurolora_A["default"].equal(other.neurolora_A["default"])
        assert one.neurolora_B["default"].to(dtype).equal(other.neurolora_B["default"].to(dtype))
    assert tiny.outputs(native, tiny.inputs("llama")).isfinite().all()


@pytest.mark.parametrize("dtype", HALVES)
def test_on_a_half_precision_base_training_moves_b(tiny: ModuleType, dtype: torch.dtype) -> None:
    model = adapted(tiny, "llama", tiny.make("llama").to(dtype))
    tiny.train(model, tiny.labelled("llama"), steps=1)
    assert all(layer.neurolora_B["default"].any() for _, layer in adapter_layers(model))


def test_under_autocast_it_trains_and_the_record_is_exact(tiny: ModuleType) -> None:
    model = adapted(tiny, "llama").train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = model(**tiny.labelled("llama")).loss
    loss.backward()
    for _, layer in adapter_layers(model):
        record = layer.records["default"]
        assert record.coactivation.dtype == torch.float32
        assert float(record.coactivation.sum()) == 15 * 2 * 4
        assert layer.neurolora_B["default"].grad.dtype == torch.float32


@pytest.mark.parametrize("kind", ["llama", "gpt2", "t5", "bert"])
def test_rows_of_a_batch_may_belong_to_different_adapters(tiny: ModuleType, kind: str) -> None:
    batch = tiny.inputs(kind)
    model = adapted(tiny, kind, init_weights=False)
    model.add_adapter("other", tiny.make_config(kind, init_weights=False, init_seed=1, gate="static"))
    model.eval()
    with torch.no_grad():
        mixed = model(**batch, adapter_names=["other", "__base__", "default"]).logits
    alone = {}
    for name in ("default", "other"):
        model.set_adapter(name)
        alone[name] = tiny.outputs(model.eval(), batch)
    expected = torch.stack([alone["other"][0], tiny.outputs(tiny.make(kind), batch)[1], alone["default"][2]])
    if kind != "bert":  # whose head is trained with the adapter, so that each row has its adapter's head
        torch.testing.assert_close(mixed, expected, rtol=1e-4, atol=1e-5)  # another path, other rounding
    with pytest.raises(ValueError, match="nobody"):
        model(**batch, adapter_names=["default", "nobody", "default"])
    with pytest.raises(ValueError, match=r"2 and 3"):
        model(**batch, adapter_names=["default", "default"])
    with pytest.raises(ValueError, match="training mode"):
        model.train()(**batch, adapter_names=["default"] * 3)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "opt"])
def test_generation_with_and_without_the_cache_agrees(tiny: ModuleType, kind: str) -> None:
    model = adapted(tiny, kind, init_weights=False)
    batch = tiny.inputs(kind, rows=2)
    batch["attention_mask"][0, :2] = 0
    texts = [
        model.generate(**batch, max_new_tokens=6, do_sample=False, use_cache=cached)
        for cached in (True, False)
    ]
    assert texts[0].equal(texts[1])
    assert texts[0].shape[1] > 5


@pytest.mark.parametrize("kind", ["llama", "t5"])
def test_generation_of_a_mixed_batch_by_beams(tiny: ModuleType, kind: str) -> None:
    model = adapted(tiny, kind, init_weights=False)
    model.add_adapter("other", tiny.make_config(kind, init_weights=False, init_seed=1))
    model.eval()
    batch = tiny.inputs(kind, rows=2)
    batch.pop("decoder_input_ids", None)
    options = {"max_new_tokens": 4, "min_new_tokens": 4, "num_beams": 2, "do_sample": False}
    mixed = model.generate(**batch, adapter_names=["default", "other"], **options)
    for row, name in enumerate(("default", "other")):
        model.set_adapter(name)
        assert model.eval().generate(**batch, **options)[row].equal(mixed[row])


def test_compiled_it_equals_eager_in_loss_and_gradients(tiny: ModuleType) -> None:
    batch = tiny.inputs("mlp")
    plain = adapted(tiny, "mlp", init_weights=False, orthogonality_weight=0.0)
    plain(**batch).square().sum().backward()
    model = adapted(tiny, "mlp", init_weights=False, orthogonality_weight=0.0)
    compiled = torch.compile(model, backend="aot_eager")
    compiled(**batch).square().sum().backward()
    gradients = dict(model.named_parameters())
    for name, parameter in plain.named_parameters():
        if parameter.requires_grad:
            torch.testing.assert_close(gradients[name].grad, parameter.grad, rtol=1e-4, atol=1e-5)
    torch._dynamo.reset()


def test_compiled_in_training_the_auxiliary_loss_is_there(tiny: ModuleType) -> None:
    batch = tiny.labelled("llama")
    expected = float(adapted(tiny, "llama", init_weights=False).train()(**batch).loss)
    model = adapted(tiny, "llama", init_weights=False).train()
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    for _ in range(2):
        assert float(compiled(**batch).loss) == pytest.approx(expected, rel=1e-5)
    torch._dynamo.reset()


@pytest.mark.parametrize("bits", [4, 8])
def test_frozen_quantised_linears_are_adapted(tiny: ModuleType, bits: int) -> None:
    bnb = pytest.importorskip("bitsandbytes")
    base = tiny.make("mlp")
    base.first, base.second = nn.Linear(8, 128), nn.Linear(128, 64)  # smaller ones bitsandbytes does not take
    source = base.second
    if bits == 4:
        quantised = bnb.nn.Linear4bit(128, 64, compute_dtype=torch.float32, quant_type="nf4")
        quantised.weight = bnb.nn.Params4bit(source.weight.data, requires_grad=False, quant_type="nf4")
    else:
        quantised = bnb.nn.Linear8bitLt(128, 64, has_fp16_weights=False)
        quantised.weight = bnb.nn.Int8Params(source.weight.data, requires_grad=False, has_fp16_weights=False)
    quantised.bias = source.bias
    base.second = quantised.to("cpu").eval()
    x = tiny.inputs("mlp")["x"]
    try:
        before = tiny.outputs(base, {"x": x})
    except Exception as error:
        pytest.skip(f"bitsandbytes does not compute on this machine: {error}")
    model = adapted(tiny, "mlp", base, target_modules=["second"])
    assert tiny.outputs(model, {"x": x}).equal(before)
    tiny.train(model, {"x": x})
    assert not tiny.outputs(model, {"x": x}).equal(before)


#: Fresh processes, as this one has had threads by now: forked ones hung now and then.
_PROCESS = """
import faulthandler, importlib.util, sys
faulthandler.dump_traceback_later(240, exit=True)
rank, here, tests, folder = sys.argv[1:]
spec = importlib.util.spec_from_file_location("here", here)
module = importlib.util.module_from_spec(spec)
sys.modules["here"] = module
spec.loader.exec_module(module)
module._process(int(rank), tests, folder)
"""


def _process(rank: int, tests: str, folder: str) -> None:
    """One of two processes: half of the batch each, with the loss that Trainer would give."""
    spec = importlib.util.spec_from_file_location("tiny_models", Path(tests) / "tiny_models.py")
    assert spec is not None
    assert spec.loader is not None
    tiny = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tiny)
    torch.set_num_threads(1)
    # They meet at a file: a port that was free when it was asked for may be taken by the time it is used.
    meet = (Path(folder) / "meet").as_uri()
    torch.distributed.init_process_group("gloo", init_method=meet, rank=rank, world_size=2)
    model = _ddp_model(tiny)
    wrapped = nn.parallel.DistributedDataParallel(model)
    batch = {key: value[2 * rank : 2 * rank + 2] for key, value in _ddp_batch(tiny).items()}
    # Trainer's way with tokens averaged over devices: the sum over all tokens, times the number of processes.
    loss = wrapped(**batch, num_items_in_batch=torch.tensor(4 * 5)).loss * 2
    loss.backward()
    step_load_balance(model)
    torch.save(_ddp_state(model), Path(folder) / f"{rank}.part")
    (Path(folder) / f"{rank}.part").rename(Path(folder) / f"{rank}.pt")
    # Each waits until the other needs nothing more of it, and nothing is taken down: the store at a file
    # hangs now and then when it is, one process waiting for the file that the other one has removed.
    while not (Path(folder) / f"{1 - rank}.pt").exists():
        time.sleep(0.05)
    os._exit(0)


def _ddp_model(tiny: ModuleType) -> Any:
    fields = {"init_weights": False, "orthogonality_weight": 0.5, "load_balance_rate": 0.125}
    return adapted(tiny, "llama", **fields).train()


def _ddp_batch(tiny: ModuleType) -> dict[str, Tensor]:
    """Two pairs of equal rows, so that the routing's mean is the same in each process."""
    return {key: value.repeat(2, 1) for key, value in tiny.labelled("llama", rows=2, length=6).items()}


def _ddp_state(model: nn.Module) -> dict[str, Tensor]:
    state = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {**state, **{name: layer.neurolora_bias["default"] for name, layer in adapter_layers(model)}}


def test_two_processes_give_the_gradients_and_biases_of_one(tiny: ModuleType, tmp_path: Path) -> None:
    model = _ddp_model(tiny)
    model(**_ddp_batch(tiny), num_items_in_batch=torch.tensor(4 * 5)).loss.backward()
    step_load_balance(model)
    expected = _ddp_state(model)
    tests = next(folder for folder in Path(__file__).parents if folder.name == "tests")
    told = [__file__, str(tests), str(tmp_path)]
    command = [sys.executable, "-W", "ignore", "-c", _PROCESS]
    running = [
        subprocess.Popen([*command, str(rank), *told], stderr=subprocess.PIPE, text=True) for rank in range(2)
    ]
    try:
        ends = [process.communicate(timeout=300)[1] for process in running]
    finally:
        for process in running:
            process.kill()
    assert [process.returncode for process in running] == [0, 0], ends
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-6, msg=name)
