"""Trainers that make their loss of log-likelihoods, as TRL's do, and those that leave the term out."""

from __future__ import annotations

import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from peft import get_peft_model
from torch import Tensor

from neurolora import get_auxiliary_loss

LEFT_OUT = "lowers the likelihood of some labels"
UNTAKEN = "the caller did not add it either"


def adapted(tiny: ModuleType, weight: float = 0.5) -> Any:
    """A wrapped model with TRL's head, which is put on before PEFT as its trainers do."""
    trl = pytest.importorskip("trl.trainer.utils")
    if not hasattr(trl, "add_fused_lm_head"):
        pytest.skip("this TRL takes the model's own loss")
    torch.manual_seed(0)
    base = tiny.make("llama")
    trl.add_fused_lm_head(base)
    config = tiny.make_config("llama", init_weights=False, orthogonality_weight=weight)
    return get_peft_model(base, config).train()


def gradients(model: Any) -> dict[str, Tensor]:
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


def assert_close(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert found.keys() == wanted.keys()
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-6)


def likelihoods(model: Any, batch: dict[str, Tensor]) -> Tensor:
    return model(**batch, fused_lm_head=True).log_probs


def differ(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return any(not torch.allclose(one[name], other[name], rtol=1e-2) for name in one if "neurolora_B" in name)


@pytest.mark.parametrize("parts", [1, 2, 4])
@pytest.mark.parametrize("scaled", [1.0, 1024.0])  # as for float16
def test_a_likelihood_loss_has_the_gradient_of_the_model_s_own(
    tiny: ModuleType, parts: int, scaled: float
) -> None:
    model, batch = adapted(tiny), tiny.labelled("llama", rows=1, length=6)
    whole = {key: value.expand(4, -1) for key, value in batch.items()}
    model(**whole).loss.backward()
    wanted = gradients(model)
    part = {key: value.expand(4 // parts, -1) for key, value in batch.items()}
    labels = int((whole["labels"][:, 1:] != -100).sum())
    for _ in range(parts):
        (scaled * -likelihoods(model, part).sum() / labels).backward()
    assert_close({name: gradient / scaled for name, gradient in gradients(model).items()}, wanted)
    plain = adapted(tiny, weight=0.0)
    plain(**whole).loss.backward()
    assert differ(wanted, gradients(plain))


def test_a_preference_loss_goes_without_the_term_and_says_so_once(tiny: ModuleType) -> None:
    def lowers(model: Any) -> dict[str, Tensor]:
        log_probs = likelihoods(model, tiny.labelled("llama", rows=2))
        (log_probs[1] - log_probs[0]).sum().backward()
        return gradients(model)

    model = adapted(tiny)
    with pytest.warns(UserWarning, match=LEFT_OUT):
        found = lowers(model)
    assert_close(found, lowers(adapted(tiny, weight=0.0)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_close(lowers(model), found)
        (-likelihoods(model, tiny.labelled("llama"))).sum().backward()
    found = gradients(model)  # a batch that by chance raises all of them has no term either
    plain = adapted(tiny, weight=0.0)
    (-likelihoods(plain, tiny.labelled("llama"))).sum().backward()
    assert_close(found, gradients(plain))


def test_nothing_is_attached_in_evaluation(tiny: ModuleType) -> None:
    model, batch = adapted(tiny), tiny.labelled("llama")
    model.eval()
    (-likelihoods(model, batch).mean()).backward()
    found = gradients(model)
    plain = adapted(tiny, weight=0.0).eval()
    (-likelihoods(plain, batch).mean()).backward()
    assert_close(found, gradients(plain))


def steps(model: Any, forward: Any, number: int = 3) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(number):
            forward(model)
    return [str(one.message) for one in caught if UNTAKEN in str(one.message)]


def test_who_makes_a_loss_of_logits_without_the_term_is_told_once(tiny: ModuleType) -> None:
    assert len(steps(adapted(tiny), lambda model: model(**tiny.inputs("llama")).logits.sum().backward())) == 1


def test_who_takes_it_or_needs_none_is_not_told(tiny: ModuleType) -> None:
    def without_labels(model: Any) -> None:
        model(**tiny.inputs("llama"))

    def taken(model: Any) -> None:
        (model(**tiny.inputs("llama")).logits.mean() + get_auxiliary_loss(model)).backward()

    def without_gradient(model: Any) -> None:
        with torch.no_grad():
            model(**tiny.inputs("llama"))

    def disabled(model: Any) -> None:
        with model.disable_adapter():
            model(**tiny.inputs("llama"))

    assert not steps(adapted(tiny), lambda model: model(**tiny.labelled("llama")).loss.backward())
    assert not steps(adapted(tiny), taken)
    assert not steps(adapted(tiny), without_gradient)
    assert not steps(adapted(tiny), disabled)
    assert not steps(adapted(tiny, weight=0.0), without_labels)
    assert not steps(adapted(tiny).eval(), without_labels)


def weights_after_a_step(tiny: ModuleType, folder: Path, weight: float) -> dict[str, Tensor]:
    """B after one step of plain descent by TRL's SFTTrainer."""
    from datasets import Dataset
    from transformers import AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    from neurolora.world import bundled_model_path

    row = {key: value[0].tolist() for key, value in tiny.labelled("llama", rows=1, length=6).items()}
    torch.manual_seed(0)
    trainer = SFTTrainer(
        model=tiny.make("llama"),
        args=SFTConfig(
            output_dir=str(folder),
            max_steps=1,
            per_device_train_batch_size=2,
            gradient_accumulation_steps=2,
            learning_rate=0.1,
            lr_scheduler_type="constant",
            optim="sgd",
            max_grad_norm=0.0,
            save_strategy="no",
            report_to="none",
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            dataset_kwargs={"skip_prepare_dataset": True},
        ),
        train_dataset=Dataset.from_list([row] * 4),
        processing_class=AutoTokenizer.from_pretrained(bundled_model_path()),
        peft_config=tiny.make_config("llama", init_weights=False, orthogonality_weight=weight),
    )
    trainer.train()
    found = trainer.model.named_parameters()
    return {name: p.detach().clone() for name, p in found if "neurolora_B" in name}


def test_sft_of_trl_trains_with_the_orthogonality_loss(tiny: ModuleType, tmp_path: Path) -> None:
    """Its steps differ by the gradient of lambda L_orth, times the learning rate."""
    with_term, without = (weights_after_a_step(tiny, tmp_path, weight) for weight in (0.5, 0.0))
    model = adapted(tiny)
    model(**tiny.inputs("llama", rows=1, length=6))
    get_auxiliary_loss(model).backward()
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(with_term[name] - without[name], -0.1 * gradient, rtol=2e-2, atol=1e-5)
