"""`neurolora.bench`: what is counted and compared, on tiny shapes; never how long something took."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from neurolora.bench.decode import decoding
from neurolora.bench.memory import file_bytes, measure_memory, saved_bytes
from neurolora.bench.methods import METHODS, adapted, choose
from neurolora.bench.results import BENCHMARKS, Request, run_benchmark
from neurolora.bench.scaling import exponent
from neurolora.bench.shapes import SHAPES, embeddings, make_base, twin
from neurolora.bench.timing import in_turn, ratio
from neurolora.bench.train_step import training_step
from neurolora.cli.main import main
from neurolora.errors import ConfigError
from neurolora.report.benchmark import benchmark_tables, write_benchmark_page

TINY, CPU = SHAPES["tiny"], torch.device("cpu")


def test_steps_run_in_turn_and_the_warm_up_is_left_out() -> None:
    order: list[str] = []
    steps = {name: lambda name=name: order.append(name) for name in "abc"}  # type: ignore[misc]
    times = in_turn(steps, rounds=3, warmup=2, device=CPU)
    assert "".join(order) == "aabbcc" + "abc" * 3
    assert [len(values) for values in times.values()] == [3, 3, 3]


def test_a_ratio_is_taken_within_a_round() -> None:
    """A machine that slows down tenfold in the middle changes no ratio."""
    reference = [1.0, 1.0, 10.0, 10.0, 1.0]
    found = ratio([1.1 * value for value in reference], reference)
    assert found.median == pytest.approx(1.1)
    assert found.quartiles == (pytest.approx(1.1), pytest.approx(1.1))
    spread = ratio([float(i) for i in range(1, 102)], [1.0] * 101)
    assert (spread.median, spread.quartiles) == (51.0, (25.5, 76.5))
    assert spread.interval == (41.0, 61.0)  # of 101 values the order statistics 41 and 61


@pytest.mark.parametrize("name", METHODS)
def test_every_method_makes_a_step_and_shares_the_base_s_weights(name: str) -> None:
    base, inputs = make_base(TINY, torch.float32, CPU), embeddings(TINY, torch.float32, CPU)
    model = adapted(twin(base), METHODS[name]).train()
    own = {p.data_ptr() for p in base.parameters()}
    assert own <= {p.data_ptr() for p in model.parameters()}
    found: list[Any] = []
    for p in model.parameters():
        if p.requires_grad:
            p.register_hook(lambda grad: found.append(grad.isfinite().all()))
    training_step(model, inputs, METHODS[name])()
    assert all(found)
    assert bool(found) == (name != "frozen")
    assert inputs.grad is not None
    assert all(p.grad is None for p in model.parameters())


def test_saved_bytes_are_counted_by_hand() -> None:
    methods = choose(["neurolora", "flylora"])
    rows = {row["method"]: row for row in measure_memory(TINY, methods, dtype=torch.float32, device=CPU)}
    tokens, r, g = TINY.batch * TINY.length, 32, 64
    routed = 4 * TINY.layers * tokens * r * (4 + 1)  # h in float32 and a byte of the mask, for q, k, v, o
    assert rows["flylora"]["adapter_saved_bytes"] == routed
    bottlenecks = 4 * TINY.layers * tokens * g * 4
    x = TINY.layers * tokens * TINY.hidden * 4  # q, k and v share theirs; o's is the attention's own output
    assert rows["neurolora"]["adapter_saved_bytes"] == routed + bottlenecks + x


def test_a_file_weighs_its_tensors() -> None:
    size = file_bytes(TINY, METHODS["lora"])
    inputs, outputs = TINY.hidden, (64, 32, 32, 64)
    tensors = TINY.layers * sum(32 * (inputs + out) * 4 for out in outputs)
    assert tensors < size < tensors + 8000  # the header names every tensor


def test_decoding_starts_from_the_prompt_every_time() -> None:
    base = make_base(TINY, torch.float32, CPU, head=True)
    model = adapted(twin(base), METHODS["neurolora"]).eval()
    seen: list[torch.Tensor] = []
    step = decoding(model, TINY, METHODS["neurolora"], CPU)
    model.register_forward_hook(lambda *inputs: seen.append(inputs[2].logits.clone()))
    step()
    first, seen[:] = list(seen), []
    step()
    assert len(seen) == len(first) > 1
    assert all(a.equal(b) for a, b in zip(first, seen, strict=True))


def test_exponents() -> None:
    rows = [{"size": size, "value": 3.0 * size**1.5, "none": size - 2} for size in (1, 2, 4)]
    assert exponent(rows, "value") == pytest.approx(1.5)
    assert exponent(rows, "none") is None


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"benchmark": "trainstep"}, "trainstep.*train-step"),
        ({"shape": "huge"}, "huge.*small"),
        ({"dtype": "int8"}, "int8.*float32"),
        ({"rounds": 0}, "rounds is 0"),
    ],
)
def test_requests_that_cannot_be(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        Request(**{"benchmark": "memory", **changes})


def test_an_unknown_method_is_named() -> None:
    with pytest.raises(ConfigError, match=r"nope.*neurolora"):
        choose(["nope"])
    assert [method.name for method in choose(["flylora"])] == ["frozen", "lora", "flylora"]


@pytest.mark.parametrize("benchmark", BENCHMARKS)
def test_a_result_has_its_provenance_tables_and_a_page(
    benchmark: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("neurolora.bench.results.FILE_SHAPE", "tiny")  # the real one writes 300 MB
    request = Request(benchmark, "tiny", rounds=2, methods=("frozen", "lora", "neurolora"))
    document = run_benchmark(request)
    assert {"versions", "device", "git"} <= document["environment"].keys()
    tables = benchmark_tables(document)
    assert all(len(row) == len(table.columns) for table in tables for row in table.rows)
    page = write_benchmark_page(document, tmp_path / "page.html").read_text()
    assert page.count("<svg") == {"train-step": 1, "memory": 1, "decode": 3, "scaling": 4}[benchmark]
    assert "mathdefault" not in page  # a label that nobody can read
    json.dumps(document, allow_nan=False)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "deep" / "result.json"
    asked = [
        "bench",
        "train-step",
        "--shape",
        "tiny",
        "--rounds",
        "2",
        "--methods",
        "flylora",
        "--out",
        str(out),
    ]
    assert main([*asked, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["request"] == json.loads(out.read_text())["request"]
    assert out.with_suffix(".html").is_file()
    assert main(["bench", "nothing"]) == 2
    assert "train-step" in capsys.readouterr().err


def test_counting_saved_bytes_leaves_nothing_behind() -> None:
    """A graph that holds itself would stay for good, and a long benchmark would eat all memory."""
    import gc

    def tensors() -> int:
        gc.collect()
        return sum(isinstance(thing, torch.Tensor) for thing in gc.get_objects())

    base, inputs = (
        make_base(SHAPES["tiny"], torch.float32, CPU),
        embeddings(SHAPES["tiny"], torch.float32, CPU),
    )
    saved_bytes(base.train(), inputs, METHODS["frozen"])
    before = tensors()
    saved_bytes(base, inputs, METHODS["frozen"])
    assert tensors() <= before
