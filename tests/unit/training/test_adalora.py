"""PEFT's AdaLoRA under our trainer: the schedule follows the run, ranks are let go, resuming is refused."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from peft import AdaLoraConfig

from neurolora.errors import ConfigError
from neurolora.evaluation import load_for_inference
from neurolora.report.inspection import inspect_adapter
from neurolora.training import load_config, run_training
from neurolora.training.adalora import fit_schedule
from neurolora.training.adapter_section import UNKNOWN_STEPS


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, tiny_llama: ModuleType) -> Path:
    folder = tmp_path_factory.mktemp("adalora")
    tiny_llama.make_model(folder / "model")
    tiny_llama.make_rows(folder / "data")
    return folder


def config_of(base: Path, tiny_llama: ModuleType, output: Path, **changes: Any) -> Any:
    settings = tiny_llama.settings(
        base, output_dir=str(output), max_steps=10, eval_strategy="no", save_strategy="no"
    )
    routed = ("projection_seed", "r", "top_k", "gate_dim", "density")
    kept = {name: value for name, value in settings.items() if name.rpartition(".")[2] not in routed}
    adapter = {"method": "adalora", "init_r": 6, "target_r": 4, "target_modules": ["q_proj", "v_proj"]}
    return load_config(None, {**kept, "adapter": adapter, **changes})


def test_the_schedule_follows_the_length_of_the_run() -> None:
    config = AdaLoraConfig(total_step=UNKNOWN_STEPS)
    fit_schedule(config, 200)
    assert (config.total_step, config.tinit, config.tfinal, config.deltaT) == (200, 20, 80, 4)


def test_a_schedule_that_is_given_stays() -> None:
    config = AdaLoraConfig(total_step=100, tinit=5, tfinal=10, deltaT=2)
    fit_schedule(config, 200)
    assert (config.total_step, config.tinit, config.tfinal, config.deltaT) == (100, 5, 10, 2)


def test_a_run_too_short_for_its_schedule_is_refused() -> None:
    with pytest.raises(ConfigError, match="tinit 30, tfinal 10"):
        fit_schedule(AdaLoraConfig(total_step=UNKNOWN_STEPS, tinit=30, tfinal=10), 40)
    with pytest.raises(ConfigError, match="total_step 2"):
        fit_schedule(AdaLoraConfig(total_step=UNKNOWN_STEPS), 2)


def test_accumulation_does_not_change_the_regulariser_and_the_weight_is_saved_as_it_was(
    base: Path, tiny_llama: ModuleType, tmp_path: Path
) -> None:
    losses = []
    for steps in (1, 4):
        size = {"gradient_accumulation_steps": steps, "per_device_train_batch_size": 8 // steps}
        run = config_of(
            base, tiny_llama, tmp_path / str(steps), logging_steps=1, learning_rate=0.0, max_steps=8, **size
        )
        run_training(run, progress=False)
        lines = (tmp_path / str(steps) / "metrics.jsonl").read_text().splitlines()
        losses.append(json.loads(lines[0])["loss"])
        saved = json.loads((tmp_path / str(steps) / "adapter_config.json").read_text())
        assert saved["orth_reg_weight"] == 0.5
    assert losses[1] == pytest.approx(losses[0], rel=2e-2)


def test_a_module_may_lose_all_its_ranks(base: Path, tiny_llama: ModuleType, tmp_path: Path) -> None:
    adapter = {"method": "adalora", "init_r": 4, "target_r": 1, "target_modules": "all-linear"}
    config = config_of(base, tiny_llama, tmp_path / "run", max_steps=30, adapter=adapter)
    run_training(config, progress=False)
    saved = json.loads((tmp_path / "run" / "adapter_config.json").read_text())
    assert any(sum(ranks) == 0 for ranks in saved["rank_pattern"].values())
    load_for_inference(str(tmp_path / "run"))
    assert inspect_adapter(tmp_path / "run").parameters.trainable > 0


def test_ranks_are_let_go_down_to_the_target_and_the_adapter_loads(
    base: Path, tiny_llama: ModuleType, tmp_path: Path
) -> None:
    run_training(config_of(base, tiny_llama, tmp_path / "run"), progress=False)
    saved = json.loads((tmp_path / "run" / "adapter_config.json").read_text())
    kept = [sum(ranks) for ranks in saved["rank_pattern"].values()]
    assert sum(kept) == 4 * len(kept)
    assert (saved["total_step"], saved["init_r"]) == (10, 6)
    load_for_inference(str(tmp_path / "run"))


def test_going_on_from_a_checkpoint_is_refused(base: Path, tiny_llama: ModuleType, tmp_path: Path) -> None:
    changes = {"save_strategy": "steps", "save_steps": 5}
    config = config_of(base, tiny_llama, tmp_path / "run", **changes)
    run_training(config, progress=False)
    (tmp_path / "run" / "run.json").unlink()
    with pytest.raises(ConfigError, match="rank allocator"):
        run_training(config, resume="auto", progress=False)
