"""What passes from one task of a stream to the next: looked at where it arrives, before the first step."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from neurolora.continual import cell as cells
from neurolora.continual import load_stream, run_continual, scoring
from neurolora.continual.memory import Memory
from neurolora.continual.use import USE, read_use
from neurolora.training.callback import NeuroLoraCallback

SHORT = {"max_steps": 1}
State = dict[str, torch.Tensor]


def run(tiny_stream: ModuleType, base: Path, row: dict[str, Any], **train: Any) -> Path:
    path = tiny_stream.write_stream(
        base, [row], train={**tiny_stream.TRAIN, **SHORT, **train}, eval={"unseen": False, "limit": 2}
    )
    return run_continual(load_stream(path), progress=False).output_dir


def watch(monkeypatch: pytest.MonkeyPatch, look: Callable[[Any], Any]) -> list[Any]:
    """What `look` makes of the model of each run, once the stream has brought in what it brings in."""
    seen: list[Any] = []
    real = cells.run_training

    def watched(config: Any, *, hooks: Any, **options: Any) -> Any:
        def begin(model: Any, tokenizer: Any) -> None:
            hooks.before_training(model, tokenizer)
            seen.append(look(model))

        return real(config, hooks=dataclasses.replace(hooks, before_training=begin), **options)

    monkeypatch.setattr(cells, "run_training", watched)
    return seen


def weights(model: Any) -> State:
    """What the model's file would hold."""
    if not hasattr(model, "peft_config"):
        return {name: value.detach().clone() for name, value in model.state_dict().items()}
    from peft import get_peft_model_state_dict

    return {name: value.detach().clone() for name, value in get_peft_model_state_dict(model).items()}


def published(output: Path) -> list[State]:
    runs = sorted(output.glob("cells/*/*/tasks/*/run"))
    return [load_file(next(folder.glob("*model.safetensors"))) for folder in runs]


@pytest.mark.parametrize("method", ["lora", "dora", "neurolora", "full"])
def test_weights_arrive_to_the_bit(
    method: str, tiny_stream: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = watch(monkeypatch, weights)
    row = tiny_stream.entry("sequential", "lora" if method == "dora" else method)
    if method == "dora":
        row = {**row, "adapter": {**row["adapter"], "method": "dora"}}
    left = published(run(tiny_stream, tmp_path, row))
    assert len(started) == len(left) == 3
    for before, start in zip(left, started[1:], strict=False):
        assert before.keys() <= start.keys()
        assert all(torch.equal(before[name], start[name]) for name in before)
    first, second = left[0], left[1]
    assert any(not torch.equal(first[name], second[name]) for name in first)  # each task does learn


def test_what_is_kept_is_measured_on_the_files(
    tiny_stream: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model that was trained may still round its inputs, and is gone after a kill: it is not used."""
    real = cells.run_training

    def spoiled(config: Any, **options: Any) -> Any:
        if "1-b" in str(config.output_dir):
            raise KeyboardInterrupt  # so that what was kept after the first task stays
        found = real(config, **options)
        with torch.no_grad():
            for weight in found.model.parameters():
                weight.zero_()
        return found

    monkeypatch.setattr(cells, "run_training", spoiled)
    with pytest.raises(KeyboardInterrupt):
        run(tiny_stream, tmp_path, tiny_stream.entry("ewc", "full", samples=4), bf16=True)
    memory = Memory.load(next(tmp_path.glob("out/cells/*/*/memory/after-0")))
    left = published(tmp_path / "out")[0]
    anchors = {name[2:]: value for name, value in memory.tensors.items() if name.startswith("a.")}
    assert len(anchors) == len(left)
    assert all(torch.equal(value, left[name]) for name, value in anchors.items())


@pytest.mark.parametrize("strategy", ["sequential", "grow"])
def test_the_ranks_that_a_task_uses_are_told_after_every_task(
    strategy: str, tiny_stream: ModuleType, tmp_path: Path
) -> None:
    output = run(tiny_stream, tmp_path, tiny_stream.entry(strategy, "neurolora"))
    folders = sorted(output.glob("cells/*/*/tasks/*"))
    told = [read_use(folder) or {} for folder in folders]
    assert [list(use) for use in told] == [["a"], ["a", "b"], ["a", "b", "c"]]
    widths = [{len(shares) for shares in use["a"].values()} for use in told]
    assert widths == ([{8}, {16}, {24}] if strategy == "grow" else [{8}] * 3)
    for use in told:
        for shares in use["a"].values():
            assert sum(shares) == pytest.approx(2 * len(shares) / 8, abs=1e-4)  # two of eight for each token
    (folders[1] / USE).unlink()
    run(tiny_stream, tmp_path, tiny_stream.entry(strategy, "neurolora"))
    assert read_use(folders[1]) == told[1]


def test_scores_are_of_the_model_as_it_was_trained(
    tiny_stream: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, dtypes = scoring.task_score, []

    def watched(loaded: Any, *arguments: Any, **options: Any) -> Any:
        dtypes.append({value.dtype for name, value in loaded.model.named_parameters() if "lora" not in name})
        return real(loaded, *arguments, **options)

    monkeypatch.setattr(scoring, "task_score", watched)
    path = tiny_stream.write_stream(
        tmp_path,
        [tiny_stream.entry("sequential", "lora")],
        model={"model_name_or_path": str(tmp_path / "model"), "dtype": "bfloat16"},
        train={**tiny_stream.TRAIN, **SHORT},
        eval={"unseen": False, "limit": 2},
    )
    run_continual(load_stream(path), progress=False)
    assert dtypes == [{torch.bfloat16}] * (3 + 1 + 2 + 3)  # the base; then what was learned, after each task


def test_no_optimizer_state_passes(
    tiny_stream: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a task's first step its optimizer has made one step, and not those of the tasks before."""
    real, made = NeuroLoraCallback.on_step_end, []

    def watched(self: Any, args: Any, state: Any, control: Any, **others: Any) -> Any:
        if state.global_step == 1:
            made.append({int(one["step"]) for one in others["optimizer"].state.values()})
        return real(self, args, state, control, **others)

    monkeypatch.setattr(NeuroLoraCallback, "on_step_end", watched)
    run(tiny_stream, tmp_path, tiny_stream.entry("sequential", "neurolora"), max_steps=2)
    assert made == [{1}] * 3


@pytest.mark.parametrize(("strategy", "method"), [("grow", "neurolora"), ("o-lora", "lora")])
def test_what_is_new_starts_at_nothing_beside_what_is_kept(
    strategy: str, method: str, tiny_stream: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The trained B is 0; all of the adapter before is there to the bit, and nothing of it is trained."""

    def look(model: Any) -> tuple[float, dict[str, torch.Tensor]]:
        named = dict(model.named_parameters())
        fresh = [value for name, value in named.items() if value.requires_grad and "_B" in name]
        frozen = {n: v.detach().clone() for n, v in named.items() if not v.requires_grad and "_B" in n}
        assert fresh
        return max(float(value.abs().max()) for value in fresh), frozen

    arrived = watch(monkeypatch, look)
    output = run(tiny_stream, tmp_path, tiny_stream.entry(strategy, method))
    assert [largest for largest, _ in arrived] == [0.0] * 3
    first = load_file(next(output.glob("cells/*/*/tasks/0-a/run/adapter_model.safetensors")))
    left = sorted(float(value.double().sum()) for name, value in first.items() if "_B" in name)
    came = sorted(float(value.double().sum()) for value in arrived[1][1].values())
    assert left == came
    assert any(left)
