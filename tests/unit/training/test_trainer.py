"""`NeuroLoraTrainer`: two rates, losses apart, accumulation changes nothing, NaN stops."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from peft import get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainingArguments

from neurolora import NeuroLoraConfig, get_auxiliary_loss
from neurolora.errors import OutputError, TrainingError
from neurolora.tasks import CompletionCollator, TaskRequest, encode_all, load_examples
from neurolora.training import NeuroLoraTrainer
from neurolora.training.checkpoints import latest_checkpoint

WEIGHT = 5.0


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, tiny_llama: ModuleType) -> Path:
    folder = tmp_path_factory.mktemp("trainer")
    tiny_llama.make_model(folder / "model", dropout=0.0)
    tiny_llama.make_rows(folder / "data", 16)
    return folder


def make_model(base: Path, **changes: Any) -> Any:
    settings = {"r": 8, "top_k": 2, "gate_dim": 4, "init_weights": "gaussian", "orthogonality_weight": WEIGHT}
    model = AutoModelForCausalLM.from_pretrained(base / "model")
    return get_peft_model(model, NeuroLoraConfig(**{**settings, **changes}, task_type="CAUSAL_LM"))


def make_trainer(base: Path, output: Path, model: Any = None, rows: Any = None, **changes: Any) -> Any:
    tokenizer = AutoTokenizer.from_pretrained(base / "model")
    examples = load_examples(TaskRequest("completion", dataset_name=str(base / "data")), "train")
    encoded, _ = encode_all(examples, tokenizer, 32)
    arguments = {
        "per_device_train_batch_size": 4,
        "max_steps": 2,
        "learning_rate": 1e-2,
        "lr_scheduler_type": "constant",
        "logging_steps": 1,
        "save_strategy": "no",
        "use_cpu": True,
        "disable_tqdm": True,
        "report_to": "none",
        "remove_unused_columns": False,
        **changes,
    }
    return NeuroLoraTrainer(
        model=model if model is not None else make_model(base),
        args=TrainingArguments(output_dir=str(output), **arguments),
        train_dataset=rows or encoded,
        eval_dataset=encoded,
        data_collator=CompletionCollator(tokenizer),
        gate_learning_rate=3e-2,
    )


def first_gradient(
    base: Path, output: Path, weight: float, accumulation: int, counts_items: bool = True, **changes: Any
) -> torch.Tensor:
    """Gradient of all B's at the first optimizer step, for the same 16 rows."""
    found: list[torch.Tensor] = []
    model = make_model(base, orthogonality_weight=weight)
    trainer = make_trainer(
        base,
        output,
        model,
        per_device_train_batch_size=16 // accumulation,
        gradient_accumulation_steps=accumulation,
        max_steps=1,
        max_grad_norm=0.0,
        **changes,
    )
    trainer.model_accepts_loss_kwargs = counts_items

    class Peek(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            found.append(
                torch.cat(
                    [p.grad.flatten() for n, p in model.named_parameters() if "neurolora_B" in n]
                ).clone()
            )
            return super().step(closure)

    trainer.optimizer = Peek([p for p in model.parameters() if p.requires_grad], lr=0.0)
    trainer.train()
    return found[0]


@pytest.mark.parametrize(
    "changes",
    [{}, {"label_smoothing_factor": 0.1}, {"counts_items": False}],
    ids=["the model's loss", "label smoothing", "a mean for each micro-batch"],
)
def test_accumulation_keeps_the_orthogonality_loss(
    base: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    """peft.md, trap 8: added in the forward without care, its gradient grows with the accumulation steps.

    The rows have different lengths, and only a part of their tokens have labels.
    """
    parts = {}
    for accumulation in (1, 2, 4, 8):
        task, both = (
            first_gradient(base, tmp_path, weight, accumulation, **changes) for weight in (0.0, WEIGHT)
        )
        parts[accumulation] = both - task
    assert parts[1].norm() > 1e-3
    for accumulation, gradient in parts.items():
        assert (gradient - parts[1]).norm() / parts[1].norm() < 1e-4, accumulation


def test_accumulation_is_exact_when_rows_are_alike(base: Path, tmp_path: Path) -> None:
    """With equal rows every micro-batch has the same C, so the parts must be equal to rounding."""
    row = {"input_ids": [5, 6, 7, 8, 9], "labels": [-100, -100, 7, 8, 9]}
    losses = {}
    for accumulation in (1, 4):
        trainer = make_trainer(
            base,
            tmp_path,
            rows=[row] * 16,
            per_device_train_batch_size=16 // accumulation,
            gradient_accumulation_steps=accumulation,
            max_steps=3,
        )
        trainer.train()
        losses[accumulation] = [
            (e["loss"], e["orthogonality_loss"]) for e in trainer.state.log_history if "loss" in e
        ]
    assert losses[1] == [pytest.approx(pair, rel=1e-5) for pair in losses[4]]


def test_losses_are_logged_apart(base: Path, tmp_path: Path) -> None:
    """Against the model asked directly, with the first batch of the same order."""
    trainer = make_trainer(base, tmp_path, max_steps=1, per_device_train_batch_size=16)
    batch = next(iter(trainer.get_train_dataloader()))
    model = make_model(base)
    model.eval()
    task = float(model(**batch).loss)
    model.train()
    total = float(model(**batch).loss)
    weighted = float(get_auxiliary_loss(model))
    trainer.train()
    logged = next(entry for entry in trainer.state.log_history if "loss" in entry)
    assert logged["loss"] == pytest.approx(task, rel=1e-5)
    assert logged["orthogonality_loss"] == pytest.approx(weighted / WEIGHT, rel=1e-5)
    assert task + weighted == pytest.approx(total, rel=1e-5)
    assert weighted > 0.1


def test_two_learning_rates_one_schedule(base: Path, tmp_path: Path) -> None:
    trainer = make_trainer(base, tmp_path, lr_scheduler_type="linear", max_steps=2)
    trainer.train()
    rates = [
        (entry["learning_rate"], entry["gate_learning_rate"])
        for entry in trainer.state.log_history
        if "loss" in entry
    ]
    assert rates == [pytest.approx((1e-2, 3e-2)), pytest.approx((5e-3, 1.5e-2))]
    names = [group["name"] for group in trainer.optimizer.param_groups]
    assert names == ["adapter", "gate", "gate_no_decay"]


def test_eval_loss_is_the_mean_over_label_tokens_whatever_the_batch(base: Path, tmp_path: Path) -> None:
    found = []
    for size in (1, 3, 16):
        trainer = make_trainer(base, tmp_path, per_device_eval_batch_size=size)
        found.append(trainer.evaluate()["eval_loss"])
    model, collate = trainer.model.eval(), trainer.data_collator
    total, count = 0.0, 0
    for row in trainer.eval_dataset:
        batch = collate([row])
        logits = model(input_ids=batch["input_ids"]).logits[0, :-1].double().log_softmax(-1)
        for position, label in enumerate(batch["labels"][0, 1:].tolist()):
            if label != -100:
                total -= float(logits[position, label])
                count += 1
    assert found == [pytest.approx(total / count, rel=1e-5)] * 3


def poison(model: Any, after: int) -> None:
    """From the `after`-th training forward on, the loss is NaN."""
    calls = {"n": 0}
    real = model.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        outputs = real(*args, **kwargs)
        calls["n"] += model.training
        if calls["n"] > after:
            outputs.loss = outputs.loss * float("nan")
        return outputs

    model.forward = forward


def test_nan_stops_at_once_and_names_the_last_good_checkpoint(base: Path, tmp_path: Path) -> None:
    model = make_model(base)
    trainer = make_trainer(base, tmp_path, model, max_steps=6, save_strategy="steps", save_steps=2)
    poison(model, after=3)
    with pytest.raises(TrainingError) as caught:
        trainer.train()
    assert "training step 4: the loss is nan" in str(caught.value)
    assert str(tmp_path / "checkpoint-2") in str(caught.value)
    assert latest_checkpoint(tmp_path) == tmp_path / "checkpoint-2"
    assert [entry.name for entry in tmp_path.glob("checkpoint-*")] == ["checkpoint-2"]


def test_nan_in_a_gradient_stops_before_the_step(base: Path, tmp_path: Path) -> None:
    model = make_model(base)
    trainer = make_trainer(base, tmp_path, model)
    parameter = next(p for n, p in model.named_parameters() if "neurolora_B" in n)
    parameter.register_hook(lambda gradient: gradient * float("inf"))
    before = parameter.detach().clone()
    with pytest.raises(TrainingError, match="training step 1: the gradient's norm is"):
        trainer.train()
    assert torch.equal(parameter, before)


def test_a_checkpoint_that_cannot_be_written(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make_trainer(base, tmp_path, max_steps=4, save_strategy="steps", save_steps=1)
    real = NeuroLoraTrainer._save_optimizer_and_scheduler

    def full(self: Any, output_dir: str) -> None:
        real(self, output_dir)
        if self.state.global_step == 3:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(NeuroLoraTrainer, "_save_optimizer_and_scheduler", full)
    with pytest.raises(OutputError) as caught:
        trainer.train()
    assert "No space left on device" in str(caught.value)
    assert f"The last good checkpoint is {tmp_path / 'checkpoint-2'}" in str(caught.value)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["checkpoint-1", "checkpoint-2"]


def test_load_balancing_moves_once_a_step(base: Path, tmp_path: Path) -> None:
    """Two micro-batches a step, one step: every bias is 0 or one rate away from it."""
    model = make_model(base, load_balance_rate=0.125)
    make_trainer(base, tmp_path, model, max_steps=1, gradient_accumulation_steps=2).train()
    biases = torch.stack([buffer for name, buffer in model.named_buffers() if "neurolora_bias" in name])
    assert set(biases.abs().flatten().tolist()) <= {0.0, 0.125}
    assert biases.abs().sum() > 0


def test_best_checkpoint_is_kept_and_found(base: Path, tmp_path: Path) -> None:
    trainer = make_trainer(
        base, tmp_path, max_steps=4, save_strategy="steps", save_steps=1, eval_strategy="steps", eval_steps=1,
        load_best_model_at_end=True, save_total_limit=1, learning_rate=0.3,
    )  # fmt: skip
    trainer.train()
    losses = {e["step"]: e["eval_loss"] for e in trainer.state.log_history if "eval_loss" in e}
    best = min(losses, key=lambda step: losses[step])
    assert trainer.state.best_model_checkpoint == str(tmp_path / f"checkpoint-{best}")
    assert trainer.evaluate()["eval_loss"] == pytest.approx(losses[best], rel=1e-6)
    state = json.loads((tmp_path / f"checkpoint-{best}" / "trainer_state.json").read_text())
    assert state["best_model_checkpoint"] == str(tmp_path / f"checkpoint-{best}")
    assert math.isfinite(losses[best])


class Onlooker:
    """An extra loss that looks at the task's own outputs, or not; it adds nothing."""

    name, weight = "onlooker", 1.0

    def __init__(self, reads_outputs: bool | None) -> None:
        if reads_outputs is not None:
            self.reads_outputs = reads_outputs

    def is_due(self, step: int) -> bool:
        return True

    def __call__(self, model: Any, moment: Any) -> torch.Tensor:
        return 0 * next(p for p in model.parameters() if p.requires_grad).sum()


@pytest.mark.parametrize(
    ("changes", "extra", "whole"),
    [
        ({}, [], False),
        ({}, [Onlooker(False)], False),
        ({}, [Onlooker(True)], True),
        ({}, [Onlooker(None)], True),  # one that does not say
        ({"label_smoothing_factor": 0.1}, [], True),
    ],
)
def test_logits_are_computed_where_something_looks_at_them(
    base: Path, tmp_path: Path, changes: dict[str, Any], extra: list[Any], whole: bool
) -> None:
    shapes: list[tuple[int, int]] = []
    row = {"input_ids": [*range(5, 25)], "labels": [-100] * 18 + [23, 24]}
    trainer = make_trainer(base, tmp_path, rows=[row] * 16, **changes)
    trainer.extra_losses = tuple(extra)

    def note(module: Any, args: Any, kwargs: dict[str, Any], out: Any) -> None:
        shapes.append((out.logits.shape[1], kwargs["input_ids"].shape[1]))

    trainer.model.register_forward_hook(note, with_kwargs=True)
    trainer.train()
    assert len(shapes) == 2
    assert set(shapes) == {(20 if whole else 3, 20)}


def test_fewer_logits_are_the_same_run(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = []
    for cut in (True, False):
        trainer = make_trainer(base, tmp_path / str(cut), max_steps=4)
        monkeypatch.setattr(trainer, "_takes_positions", cut)
        trainer.train()
        weights.append({name: p.detach() for name, p in trainer.model.named_parameters() if p.requires_grad})
    for name, value in weights[0].items():
        torch.testing.assert_close(value, weights[1][name], rtol=1e-3, atol=1e-5)
