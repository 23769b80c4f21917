"""The dry run's figures, counted against the model and against a real Trainer."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from peft import get_peft_model
from transformers import AutoModelForCausalLM, Trainer

from neurolora.errors import ConfigError, DataError, TargetError
from neurolora.training import setup
from neurolora.training.config import load_config
from neurolora.training.plan import count_steps, make_plan, schedule


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, tiny_llama: ModuleType) -> Path:
    folder = tmp_path_factory.mktemp("plan")
    tiny_llama.make_model(folder / "model")
    tiny_llama.make_rows(folder / "data", 21)
    return folder


@pytest.mark.parametrize("method", ["neurolora", "flylora", "lora", "full"])
def test_parameters_are_those_of_the_model(base: Path, tiny_llama: ModuleType, method: str) -> None:
    settings = tiny_llama.settings(base, method=method)
    if method in ("lora", "full"):
        settings = {key: value for key, value in settings.items() if key not in ("r", "top_k", "gate_dim")}
    config = load_config(None, settings)
    plan = make_plan(config)["parameters"]
    model = AutoModelForCausalLM.from_pretrained(base / "model")
    total = sum(p.numel() for p in model.parameters())
    adapter = config.build_adapter()
    if adapter is not None:
        model = get_peft_model(model, adapter)
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert (plan["base"], plan["trainable"]) == (total, trainable)
    assert sum(plan["by_group"].values()) == trainable


@pytest.mark.parametrize(
    "changes",
    [
        {"max_steps": -1, "num_train_epochs": 3},
        {"max_steps": -1, "num_train_epochs": 0.5},
        {"max_steps": -1, "gradient_accumulation_steps": 4, "warmup_steps": 5},
        {"max_steps": -1, "per_device_train_batch_size": 16, "warmup_steps": 0.5},
        {"max_steps": -1, "dataloader_drop_last": True},
        {"max_steps": 9},
    ],
)
def test_steps_and_rates_are_those_of_the_trainer(
    base: Path, tiny_llama: ModuleType, tmp_path: Path, changes: dict[str, Any]
) -> None:
    settings = tiny_llama.settings(
        base, eval_strategy="no", save_strategy="no", output_dir=str(tmp_path), **changes
    )
    config = load_config(None, settings)
    steps = count_steps(config, 21, processes=1)
    planned = {row["step"]: row["learning_rate"] for row in schedule(config, steps["total"], steps["warmup"])}
    rates: list[float] = []

    class Silent(Trainer):
        def training_step(self, *_: Any, **__: Any) -> torch.Tensor:
            return torch.tensor(0.0)

        def _get_learning_rate(self) -> float:
            rates.append(super()._get_learning_rate())
            return rates[-1]

    arguments = setup.training_arguments(config, evaluate=False)
    arguments.logging_strategy = "no"
    trainer = Silent(
        torch.nn.Linear(1, 1), arguments, train_dataset=[{"x": 1}] * 21, data_collator=lambda rows: {}
    )
    trainer.train()
    assert trainer.state.global_step == steps["total"] == len(rates)
    assert {step: rates[step] for step in planned} == pytest.approx(planned)


def test_llama_3_8b_from_its_config_alone(base: Path, tiny_llama: ModuleType, tmp_path: Path) -> None:
    """Counts by hand: B is r times the outputs; a gate is g d + r g + 2 r; B 10,485,760 in all."""
    shape = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 128256,
        "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 8, "dtype": "bfloat16",
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(shape))
    changes = {"model_name_or_path": str(tmp_path), "r": 32, "top_k": 8, "gate_dim": 64, "dtype": "auto"}
    plan = make_plan(load_config(None, tiny_llama.settings(base, **changes)))
    b = 32 * 32 * (4096 + 1024 + 1024 + 4096)
    gates = 128 * (64 * 4096 + 32 * 64 + 2 * 32)
    assert b == 10_485_760
    assert plan["parameters"]["trainable"] == b + gates
    assert plan["parameters"]["percent_of_base"] == pytest.approx(0.552, abs=5e-4)
    assert plan["data"]["train_tokens"] is None
    assert "rows are counted but not encoded" in plan["notes"][0]
    assert 16e9 < plan["memory"]["weights"] < 17e9
    assert plan["memory"]["optimizer"] == 8 * (b + gates)


def test_nothing_is_written(base: Path, tiny_llama: ModuleType, tmp_path: Path) -> None:
    make_plan(load_config(None, tiny_llama.settings(base, output_dir=str(tmp_path / "run"))))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "kind", "words"),
    [
        ({"model_name_or_path": "./nowhere"}, ConfigError, "no such folder here"),
        ({"dataset_name": "./nowhere.jsonl"}, DataError, "nowhere.jsonl"),
        ({"target_modules": ["w_query"]}, TargetError, "w_query"),
        ({"target_modules": ["embed_tokens"]}, TargetError, "embed_tokens"),
        ({"lr_scheduler_type": "sawtooth"}, ConfigError, "sawtooth"),
        ({"task": "completions"}, ConfigError, "completion"),
    ],
)
def test_a_dry_run_finds_what_a_run_would(
    base: Path, tiny_llama: ModuleType, changes: dict[str, Any], kind: type[Exception], words: str
) -> None:
    with pytest.raises(kind, match=words):
        make_plan(load_config(None, tiny_llama.settings(base, **changes)))


def test_activations_shrink_with_checkpointing_and_weights_with_bits(
    base: Path, tiny_llama: ModuleType
) -> None:
    def memory(**changes: Any) -> dict[str, Any]:
        found: dict[str, Any] = make_plan(load_config(None, tiny_llama.settings(base, **changes)))["memory"]
        return found

    plain = memory()
    assert memory(gradient_checkpointing=True)["activations"] < plain["activations"]
    assert memory(load_in_4bit=True)["weights"] < memory(dtype="bfloat16")["weights"] < plain["weights"]
