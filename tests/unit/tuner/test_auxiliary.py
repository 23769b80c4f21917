"""The auxiliary loss: there once, with the right weight, whoever trains and however a step is divided."""

from __future__ import annotations

import math
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from peft import get_peft_model
from torch import Tensor, nn

from neurolora import get_auxiliary_loss, step_load_balance
from neurolora.tuner import adapter_layers
from neurolora.tuner.auxiliary import context_of


def adapted(tiny: ModuleType, kind: str = "llama", **fields: Any) -> Any:
    torch.manual_seed(0)
    fields = {"init_weights": False, "orthogonality_weight": 0.5, **fields}
    return get_peft_model(tiny.make(kind), tiny.make_config(kind, **fields)).train()


def by_hand(model: nn.Module, weight: float) -> float:
    """lambda * mean over modules of Eq. 7, by loops over ranks, from the recorded routing."""
    values = []
    for _, layer in adapter_layers(model):
        settings, record = layer.settings["default"], layer.records["default"]
        B = layer.neurolora_B["default"].detach().double()
        total = 0.0
        for i in range(settings.r):
            for j in range(settings.r):
                cosine = float(B[:, i] @ B[:, j] / (B[:, i].norm() * B[:, j].norm()))
                total += float(record.coactivation[i, j]) / int(record.tokens) * cosine**2
        values.append(total / (settings.top_k * (settings.r - settings.top_k)))
    return weight * sum(values) / len(values)


def task_and_total(model: Any, batch: dict[str, Tensor], **extra: Any) -> tuple[float, float]:
    total = float(model(**batch, **extra).loss.detach())
    return float(context_of(model).task_loss), total


@pytest.mark.parametrize("kind", ["llama", "gpt2", "bert", "t5"])
def test_the_loss_of_a_wrapped_model_is_the_task_s_and_the_auxiliary(tiny: ModuleType, kind: str) -> None:
    model, batch = adapted(tiny, kind), tiny.labelled(kind)
    task, total = task_and_total(model, batch)
    with model.disable_adapter():
        pass
    assert total - task == pytest.approx(by_hand(model, 0.5), rel=1e-4)
    assert float(get_auxiliary_loss(model)) == pytest.approx(by_hand(model, 0.5), rel=1e-5)
    assert total - task > 1e-3


def test_without_a_task_type_the_loss_is_added_too(tiny: ModuleType) -> None:
    """PEFT's plain wrapper calls the base model and not the tuner's forward."""
    model = adapted(tiny, task_type=None)
    task, total = task_and_total(model, tiny.labelled("llama"))
    assert total - task == pytest.approx(by_hand(model, 0.5), rel=1e-4)


def test_as_a_tuple_and_with_positional_arguments_it_is_added_once(tiny: ModuleType) -> None:
    model, batch = adapted(tiny), tiny.labelled("llama")
    task, total = task_and_total(model, batch)
    loss = model(batch["input_ids"], batch["attention_mask"], labels=batch["labels"], return_dict=False)[0]
    assert float(loss) == pytest.approx(total, rel=1e-6)
    assert total > task


def test_in_evaluation_without_labels_or_disabled_nothing_is_added(tiny: ModuleType) -> None:
    model, batch = adapted(tiny), tiny.labelled("llama")
    model.eval()
    task, total = task_and_total(model, batch)
    assert total == task
    model.train()
    assert model(**tiny.inputs("llama")).loss is None
    with model.disable_adapter():
        bare = float(model(**batch).loss)
    assert bare == pytest.approx(float(tiny.make("llama").train()(**batch).loss), rel=1e-6)


def test_without_labels_get_auxiliary_loss_has_it_with_gradient_to_b_alone(tiny: ModuleType) -> None:
    model = adapted(tiny)
    model(**tiny.inputs("llama"))
    get_auxiliary_loss(model).backward()
    with_gradient = {name for name, p in model.named_parameters() if p.grad is not None}
    assert with_gradient
    assert all(".neurolora_B." in name for name in with_gradient)


def test_under_add_adapter_of_transformers_it_is_not_added_but_can_be_had(tiny: ModuleType) -> None:
    base = tiny.make("llama")
    base.add_adapter(tiny.make_config("llama", init_weights=False, orthogonality_weight=0.5, task_type=None))
    base.train()
    batch = tiny.labelled("llama")
    loss = float(base(**batch).loss)
    auxiliary = float(get_auxiliary_loss(base))
    wrapped = adapted(tiny)
    task, total = task_and_total(wrapped, batch)
    assert loss == pytest.approx(task, rel=1e-6)
    assert loss + auxiliary == pytest.approx(total, rel=1e-6)


def test_before_any_forward_and_without_adapters_it_is_zero(tiny: ModuleType) -> None:
    assert float(get_auxiliary_loss(tiny.make("llama"))) == 0.0
    assert float(get_auxiliary_loss(adapted(tiny))) == 0.0


def test_an_evaluation_forward_leaves_no_stale_loss(tiny: ModuleType) -> None:
    model = adapted(tiny)
    model(**tiny.labelled("llama"))
    model.eval()
    model(**tiny.labelled("llama"))
    assert float(get_auxiliary_loss(model)) == 0.0


def test_auxiliary_scale_multiplies_the_added_term(tiny: ModuleType) -> None:
    for task_type in ("CAUSAL_LM", None):
        model, batch = adapted(tiny, task_type=task_type), tiny.labelled("llama")
        task, total = task_and_total(model, batch)
        assert task_and_total(model, batch, auxiliary_scale=0.25)[1] == pytest.approx(
            task + (total - task) / 4
        )


def gradients(model: nn.Module) -> dict[str, Tensor]:
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


def same_batch_in_parts(tiny: ModuleType, parts: int) -> list[dict[str, Tensor]]:
    """One batch of eight equal rows: whatever the division, each part routes alike."""
    row = tiny.labelled("llama", rows=1, length=6)
    return [{key: value.expand(8 // parts, -1) for key, value in row.items()} for _ in range(parts)]


@pytest.mark.parametrize("parts", [1, 2, 4, 8])
def test_accumulation_with_num_items_in_batch_changes_nothing(tiny: ModuleType, parts: int) -> None:
    """Trainer sums the parts' losses then; the loss added must have weight one in the whole step."""
    model = adapted(tiny)
    (whole,) = same_batch_in_parts(tiny, 1)
    model(**whole).loss.backward()
    expected = gradients(model)
    items = whole["labels"][:, 1:].numel()
    for part in same_batch_in_parts(tiny, parts):
        model(**part, num_items_in_batch=torch.tensor(items)).loss.backward()
    found = gradients(model)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-7, msg=name)


@pytest.mark.parametrize("parts", [1, 2, 4, 8])
def test_accumulation_by_dividing_the_loss_changes_nothing(tiny: ModuleType, parts: int) -> None:
    model = adapted(tiny)
    (whole,) = same_batch_in_parts(tiny, 1)
    model(**whole).loss.backward()
    expected = gradients(model)
    for part in same_batch_in_parts(tiny, parts):
        (model(**part).loss / parts).backward()
    found = gradients(model)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-7, msg=name)


@pytest.mark.parametrize("steps", [1, 4])
def test_a_trainer_s_first_step_does_not_depend_on_its_accumulation(
    tiny: ModuleType, steps: int, tmp_path: Path
) -> None:
    """A plain `Trainer` of transformers over the same eight rows; the gradient norm it logs is the same."""
    from transformers import Trainer, TrainingArguments

    row = {key: value[0] for key, value in tiny.labelled("llama", rows=1, length=6).items()}
    row["labels"][0] = -100  # never learned, but counted by older versions of transformers
    arguments = TrainingArguments(
        output_dir=str(tmp_path), per_device_train_batch_size=8 // steps, gradient_accumulation_steps=steps,
        max_steps=1, logging_steps=1, report_to=[], use_cpu=True, save_strategy="no", disable_tqdm=True,
        max_grad_norm=1e9,
    )  # fmt: skip
    model = adapted(tiny)
    (whole,) = same_batch_in_parts(tiny, 1)
    model(**whole).loss.backward()
    expected = math.sqrt(sum(float(g.square().sum()) for g in gradients(model).values()))
    trainer = Trainer(model=model, args=arguments, train_dataset=[row] * 8)
    trainer.train()
    assert trainer.state.log_history[0]["grad_norm"] == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("reentrant", [True, False])
def test_activation_checkpointing_changes_neither_gradients_nor_the_record(
    tiny: ModuleType, reentrant: bool
) -> None:
    batch = tiny.labelled("llama")
    plain = adapted(tiny)
    plain.enable_input_require_grads()
    plain(**batch).loss.backward()
    records = [layer.records["default"].coactivation.clone() for _, layer in adapter_layers(plain)]
    expected = gradients(plain)
    model = adapted(tiny)
    model.enable_input_require_grads()
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    model(**batch).loss.backward()
    for (_, layer), record in zip(adapter_layers(model), records, strict=True):
        assert layer.records["default"].coactivation.equal(record)
    found = gradients(model)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-5, atol=1e-7, msg=name)


def test_several_active_adapters_each_add_their_own_term(tiny: ModuleType) -> None:
    model = adapted(tiny)
    model.add_adapter(
        "other", tiny.make_config("llama", init_weights=False, init_seed=1, orthogonality_weight=0.2)
    )
    model.base_model.set_adapter(["default", "other"])
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(".neurolora_" in name)
    model(**tiny.inputs("llama"))
    both = float(get_auxiliary_loss(model))
    for _, layer in adapter_layers(model):
        layer.records.pop("other")
    first = float(get_auxiliary_loss(model))
    assert both > first > 0
    model.delete_adapter("other")
    assert float(get_auxiliary_loss(model)) == pytest.approx(first)


def biases(model: nn.Module) -> Tensor:
    return torch.stack([layer.neurolora_bias["default"] for _, layer in adapter_layers(model)])


def test_load_balancing_moves_once_a_step_over_all_its_forwards_without_padding(tiny: ModuleType) -> None:
    model, batch = adapted(tiny, load_balance_rate=0.125), tiny.labelled("llama", rows=2)
    batch["attention_mask"][1, 3:] = 0
    counts: dict[str, Tensor] = {}
    for _ in range(2):
        model(**batch)
        for name, layer in adapter_layers(model):
            assert int(layer.records["default"].tokens) == 8
            counts[name] = counts.get(name, 0) + layer.records["default"].counts
    assert not biases(model).any()
    step_load_balance(model)
    for name, layer in adapter_layers(model):
        expected = [0.125 * (6 * int(c) < 2 * 16) - 0.125 * (6 * int(c) > 2 * 16) for c in counts[name]]
        assert layer.neurolora_bias["default"].tolist() == expected
    moved = biases(model).clone()
    step_load_balance(model)
    assert biases(model).equal(moved)


def test_load_balancing_does_not_move_in_evaluation_and_is_no_parameter(tiny: ModuleType) -> None:
    model = adapted(tiny, load_balance_rate=0.125).eval()
    model(**tiny.labelled("llama"))
    step_load_balance(model)
    assert not biases(model).any()
    assert not [name for name, _ in model.named_parameters() if "neurolora_bias" in name]
