"""What each strategy adds to the loss and keeps, against small independent references."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.nn import functional

from neurolora import FlyLoraConfig, NeuroLoraConfig
from neurolora.continual.ewc import EwcKnobs, EwcLearner, EwcLoss, consolidate, fisher_diagonal
from neurolora.continual.frozen import OLoraKnobs, OLoraLearner, overlap
from neurolora.continual.learner import TaskData, trainable_parameters
from neurolora.continual.lwf import LwfKnobs, LwfLearner, distillation_loss, weights_of
from neurolora.continual.memory import Memory
from neurolora.continual.protect import ProtectKnobs, ProtectLearner, ProtectLoss
from neurolora.continual.replay import ReplayKnobs, ReplayLearner
from neurolora.core.orthogonality import orthogonality_loss, protection_loss
from neurolora.errors import DataError, OutputError
from neurolora.training.extra_loss import Moment


class Classifier(nn.Module):
    """Two layers over 6 features; batches are {"x", "labels"}."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Any:
        from types import SimpleNamespace

        logits = self.second(torch.tanh(self.first(x)))
        loss = None if labels is None else functional.cross_entropy(logits, labels)
        return SimpleNamespace(loss=loss, logits=logits)


def batch_loss(model: nn.Module, batch: dict[str, Any]) -> Tensor:
    loss: Tensor = model(**batch).loss
    return loss


def collate(rows: list[Any]) -> dict[str, Any]:
    return {
        "x": torch.tensor([row["x"] for row in rows]),
        "labels": torch.tensor([row["label"] for row in rows]),
    }


def rows_of(count: int, seed: int = 0) -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(seed)
    return [
        {"x": torch.randn(6, generator=generator).tolist(), "label": i % 3, "row": i} for i in range(count)
    ]


def moment(inputs: Any = None, outputs: Any = None, step: int = 0, seed: int = 0) -> Moment:
    return Moment(seed, step, 0, 0, inputs or {}, outputs, collate)


@pytest.fixture
def model() -> Classifier:
    torch.manual_seed(0)
    return Classifier()


# --- EWC --------------------------------------------------------------------------------------------------


def loop_fisher(model: nn.Module, rows: list[Any]) -> dict[str, list[float]]:
    """One row at a time, one parameter entry at a time, by central differences of log p(y | x)."""
    found = {}
    for name, value in model.named_parameters():
        flat = value.detach().view(-1)
        entries = []
        for i in range(len(flat)):
            total = 0.0
            for row in rows:
                ends = []
                for h in (1e-4, -1e-4):
                    flat[i] += h
                    logits = model(torch.tensor([row["x"]], dtype=torch.float64)).logits[0]
                    ends.append(float(torch.log_softmax(logits, 0)[row["label"]]))
                    flat[i] -= h
                total += ((ends[0] - ends[1]) / 2e-4) ** 2
            entries.append(total / len(rows))
        found[name] = entries
    return found


def test_the_fisher_information_equals_loops(model: Classifier) -> None:
    model.double()
    rows = rows_of(5)
    batches = [{k: v.double() if k == "x" else v for k, v in collate([row]).items()} for row in rows]
    found = fisher_diagonal(model, batches, batch_loss)
    with torch.no_grad():
        expected = loop_fisher(model, rows)
    for name, entries in expected.items():
        torch.testing.assert_close(
            found[name].view(-1).double(), torch.tensor(entries, dtype=torch.float64), rtol=1e-4, atol=1e-8
        )


def test_of_a_text_the_log_likelihood_is_the_sum_over_label_tokens() -> None:
    """Two label tokens of one row: the gradient of their sum, not of their mean."""
    weight = nn.Parameter(torch.tensor([2.0]))

    class One(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = weight

    def loss(model: nn.Module, batch: dict[str, Any]) -> Tensor:
        return model.weight.sum() * 3  # type: ignore[union-attr, operator]

    labels = torch.tensor([[-100, -100, 4, 5]])
    found = fisher_diagonal(One(), [{"labels": labels}], loss)
    assert float(found["weight"]) == (3.0 * 2) ** 2


def test_dropout_is_off_while_it_is_measured() -> None:
    model = nn.Sequential(nn.Dropout(0.5), nn.Linear(3, 2))
    model.train()
    batch = {"x": torch.ones(1, 3), "labels": torch.tensor([0])}

    def loss(model: nn.Module, batch: dict[str, Any]) -> Tensor:
        return functional.cross_entropy(model(batch["x"]), batch["labels"])

    first, second = (fisher_diagonal(model, [batch], loss)["1.weight"] for _ in range(2))
    assert torch.equal(first, second)
    assert model.training


def test_the_penalty_equals_a_loop(model: Classifier) -> None:
    torch.manual_seed(1)
    F = {name: torch.rand_like(value) for name, value in model.named_parameters()}
    anchor = {name: torch.randn_like(value) for name, value in model.named_parameters()}
    found = EwcLoss(F, anchor, 1.0)(model, moment())
    expected = 0.0
    for name, value in model.named_parameters():
        flat = (F[name].view(-1), value.detach().view(-1), anchor[name].view(-1))
        for f, p, a in zip(*(part.tolist() for part in flat), strict=True):
            expected += 0.5 * f * (p - a) ** 2
    assert float(found.detach()) == pytest.approx(expected, rel=1e-5)


def test_one_penalty_for_many_tasks_has_the_gradient_of_all(model: Classifier) -> None:
    """per_task: sum_t F_t (p - p_t) against what is kept, at other weights than any p_t."""
    torch.manual_seed(2)
    knobs = EwcKnobs(form="per_task")
    memory, told = Memory(), []
    for _ in range(3):
        F = {name: torch.rand_like(value) for name, value in model.named_parameters()}
        p = {name: torch.randn_like(value) for name, value in model.named_parameters()}
        F["first.bias"][0] = 0.0  # no task cares for this one
        memory = consolidate(memory, F, p, knobs)
        told.append((F, p))
    EwcLearner(knobs, memory).losses(model)[0](model, moment()).backward()
    for name, value in model.named_parameters():
        expected = sum(F[name] * (value.detach() - p[name]) for F, p in told)
        torch.testing.assert_close(value.grad, expected, rtol=1e-4, atol=1e-6)


def test_the_online_form_decays_and_pulls_to_the_newest(model: Classifier) -> None:
    knobs = EwcKnobs(form="online", decay=0.5)
    ones = {name: torch.ones_like(value) for name, value in model.named_parameters()}
    weights = [{name: torch.full_like(v, t) for name, v in ones.items()} for t in (1.0, 2.0)]
    memory = consolidate(consolidate(Memory(), ones, weights[0], knobs), ones, weights[1], knobs)
    assert float(memory.tensors["F.first.bias"][0]) == 1.5
    assert float(memory.tensors["a.first.bias"][0]) == 2.0


@pytest.mark.parametrize("form", ["online", "per_task"])
def test_in_one_process_the_anchor_stays_where_the_task_ended(model: Classifier, form: Any) -> None:
    """What is kept must be no view of the weights, which the next task goes on to change."""
    knobs = EwcKnobs(samples=4, form=form)
    learner = EwcLearner(knobs, Memory(), batch_loss)
    memory = learner.remember(model, TaskData(rows_of(6), collate, 0), 0)
    (penalty,) = EwcLearner(knobs, memory, batch_loss).losses(model)
    assert float(penalty(model, moment())) == 0.0
    with torch.no_grad():
        for value in model.parameters():
            value += 0.1
    expected = sum(
        0.5 * 0.01 * float(memory.tensors[f"F.{name}"].sum()) for name, _ in model.named_parameters()
    )
    assert expected > 0
    assert float(penalty(model, moment())) == pytest.approx(expected, rel=1e-3)


def test_ewc_keeps_the_same_room_for_many_tasks(model: Classifier) -> None:
    memory, sizes = Memory(), []
    for task in range(4):
        learner = EwcLearner(EwcKnobs(samples=4), memory, batch_loss)
        memory = learner.remember(model, TaskData(rows_of(6), collate, task), task)
        sizes.append(memory.nbytes)
    assert len(set(sizes)) == 1
    assert memory.values == {"tasks": 4}


# --- O-LoRA -----------------------------------------------------------------------------------------------


def test_the_overlap_equals_loops() -> None:
    torch.manual_seed(3)
    new, past = torch.randn(2, 7), torch.randn(5, 7)
    expected = 0.0
    for i in range(2):
        for j in range(5):
            expected += abs(sum(float(new[i, k]) * float(past[j, k]) for k in range(7)))
    assert float(overlap(new, past)) == pytest.approx(expected, rel=1e-5)


def test_olora_sums_over_modules_and_trains_the_new_one_alone() -> None:
    torch.manual_seed(4)
    config = {"target_modules": ["first", "second"], "init_lora_weights": False}
    model = get_peft_model(Classifier(), LoraConfig(r=2, **config))
    model.add_adapter("past", LoraConfig(r=4, **config))
    learner = OLoraLearner(OLoraKnobs(weight=0.5, norm_weight=0.1), Memory())
    found = weighted(learner, model)
    expected = torch.zeros(())
    for layer in (model.base_model.model.first, model.base_model.model.second):
        A, B, past = (
            layer.lora_A["default"].weight,
            layer.lora_B["default"].weight,
            layer.lora_A["past"].weight,
        )
        expected = expected + 0.5 * (past @ A.T).abs().sum() + 0.1 * (A.norm() + B.norm())
    torch.testing.assert_close(found, expected)
    found.backward()
    touched = {name for name, value in model.named_parameters() if value.grad is not None}
    assert touched
    assert not any("past" in name for name in touched)
    norms = weighted(OLoraLearner(OLoraKnobs(weight=0.0, norm_weight=0.1), Memory()), model)
    overlaps = weighted(OLoraLearner(OLoraKnobs(weight=0.5), Memory()), model)
    torch.testing.assert_close(norms + overlaps, expected)


def weighted(learner: OLoraLearner, model: nn.Module) -> Tensor:
    return torch.stack([loss.weight * loss(model, moment()) for loss in learner.losses(model)]).sum()


def test_olora_says_nothing_of_overlap_in_the_first_task() -> None:
    model = get_peft_model(Classifier(), LoraConfig(r=2, target_modules=["first"]))
    assert OLoraLearner(OLoraKnobs(), Memory()).losses(model) == []
    (norms,) = OLoraLearner(OLoraKnobs(norm_weight=0.1), Memory()).losses(model)
    assert float(norms(model, moment()).detach()) > 0.0  # B is 0, A is not


# --- LwF --------------------------------------------------------------------------------------------------


def test_distillation_equals_a_loop_and_is_zero_at_home() -> None:
    torch.manual_seed(5)
    student, teacher, T = torch.randn(4, 3), torch.randn(4, 3), 2.0
    expected = 0.0
    for i in range(4):
        p, q = torch.softmax(teacher[i] / T, 0), torch.softmax(student[i] / T, 0)
        expected += sum(float(p[k] * (p[k].log() - q[k].log())) for k in range(3))
    assert float(distillation_loss(student, teacher, T)) == pytest.approx(T * T * expected / 4, rel=1e-5)
    assert float(distillation_loss(teacher, teacher, T)) == pytest.approx(0.0, abs=1e-6)
    assert float(distillation_loss(student[:0], teacher[:0], T)) == 0.0


def test_the_old_weights_answer_and_the_new_ones_learn(model: Classifier) -> None:
    inputs = collate(rows_of(4))
    before = model(inputs["x"]).logits.detach()
    learner = LwfLearner(LwfKnobs(), LwfLearner(LwfKnobs(), Memory()).remember(model, None, 0))  # type: ignore[arg-type]
    loss = learner.losses(model)[0]
    with torch.no_grad():
        for value in model.parameters():
            value.add_(0.3)
    outputs = model(**inputs)
    found = loss(model, moment(inputs, outputs))
    torch.testing.assert_close(found, distillation_loss(outputs.logits, before, 2.0))
    found.backward()
    assert all(value.grad is not None for value in model.parameters())


def test_weights_change_places_and_come_back_to_the_bit(model: Classifier) -> None:
    now = {name: value.detach().clone() for name, value in trainable_parameters(model).items()}
    with weights_of(model, {"first.bias": torch.zeros(5)}):
        assert float(model.first.bias.abs().sum()) == 0.0
    with pytest.raises(RuntimeError), weights_of(model, {"first.bias": torch.zeros(5)}):
        raise RuntimeError
    assert all(torch.equal(now[name], value) for name, value in trainable_parameters(model).items())


# --- replay -----------------------------------------------------------------------------------------------


def test_replay_keeps_some_rows_of_each_task_and_hears_them_by_seed_and_place(model: Classifier) -> None:
    memory = Memory()
    for task in range(2):
        learner = ReplayLearner(ReplayKnobs(rows=3, batch_size=2), memory, batch_loss)
        memory = learner.remember(model, TaskData(rows_of(20, seed=task), collate, task), task)
    kept = memory.values["rows"]
    assert len(kept) == 6
    assert kept[:3] == TaskData(rows_of(20, seed=0), collate, 0).some(3)
    loss = ReplayLearner(ReplayKnobs(rows=3, batch_size=2), memory, batch_loss).losses(model)[0]
    heard = [float(loss(model, moment(step=step)).detach()) for step in range(20)]
    assert heard == [float(loss(model, moment(step=step)).detach()) for step in range(20)]
    assert len(set(heard)) > 5
    possible = {
        round(float(batch_loss(model, collate([a, b])).detach()), 5) for a in kept for b in kept if a is not b
    }
    assert {round(value, 5) for value in heard} <= possible


# --- protect ----------------------------------------------------------------------------------------------


def test_protection_equals_a_loop() -> None:
    torch.manual_seed(6)
    change, past = torch.randn(6, 4), torch.randn(6, 4)
    a, f = torch.rand(4), torch.rand(4)
    expected = 0.0
    for i in range(4):
        for j in range(4):
            along = float(change[:, i] @ past[:, j] / past[:, j].norm())
            expected += float(a[i] * f[j]) * along**2
    size = sum(float(f[j] * past[:, j].norm() ** 2) for j in range(4)) / float(f.sum())
    found = protection_loss(change, past, a, f)
    assert float(found) == pytest.approx(expected / (float(a.sum()) * size), rel=1e-5)
    assert float(protection_loss(3 * change, 3 * past, a, f)) == pytest.approx(float(found), rel=1e-5)
    assert float(protection_loss(3 * change, past, a, f)) == pytest.approx(9 * float(found), rel=1e-5)


def test_protection_is_eq_7_where_both_are_the_same() -> None:
    """With one rank active at a time, columns of length 1 and change = past: Eq. 7's sum over pairs, the
    diagonal apart."""
    torch.manual_seed(7)
    B, ones = torch.nn.functional.normalize(torch.randn(6, 4), dim=0), torch.ones(4)
    C = (torch.ones(4, 4) - torch.eye(4)) / 4
    pairs = float(orthogonality_loss(B, C, 1)) * 3 * 4
    assert float(protection_loss(B, B, ones, ones)) == pytest.approx((pairs + 4) / 4, rel=1e-5)


def test_protection_is_zero_before_anything_has_changed_and_for_what_is_orthogonal() -> None:
    past = torch.eye(6)[:, :2]
    zeros = torch.zeros(6, 2, requires_grad=True)
    loss = protection_loss(zeros, past, torch.ones(2), torch.ones(2))
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert bool((zeros.grad == 0).all())  # type: ignore[union-attr]
    near = (1e-6 * torch.ones(6, 2)).requires_grad_()
    protection_loss(near, past, torch.ones(2), torch.ones(2)).backward()
    assert float(near.grad.abs().max()) < 1e-4  # type: ignore[union-attr]
    assert float(protection_loss(torch.ones(6, 2), torch.zeros(6, 2), torch.ones(2), torch.ones(2))) == 0.0
    assert float(protection_loss(torch.eye(6)[:, 2:4], past, torch.ones(2), torch.ones(2))) == 0.0


def test_protect_counts_how_often_each_rank_is_active() -> None:
    torch.manual_seed(8)
    config = FlyLoraConfig(r=4, top_k=2, target_modules=["first"], init_weights="gaussian")
    model = get_peft_model(Classifier(), config)
    rows = rows_of(12)

    def only_x(chosen: list[Any]) -> dict[str, Any]:
        return {"x": collate(chosen)["x"]}

    knobs = ProtectKnobs(samples=12, batch_size=5)
    memory = ProtectLearner(knobs, Memory()).remember(model, TaskData(rows, only_x, 0), 0)
    ((name, found),) = memory.tensors.items()
    layer = model.base_model.model.first
    h = only_x(rows)["x"] @ layer.projection_matrix("default", torch.float32).T
    expected = torch.zeros(4)
    for row in h:
        expected[row.abs().topk(2).indices] += 1 / 12
    assert name == layer.name
    torch.testing.assert_close(found, expected)
    again = ProtectLearner(knobs, memory).remember(model, TaskData(rows, only_x, 0), 1)
    torch.testing.assert_close(again.tensors[name], expected)  # the mean of two equal tasks
    loss = ProtectLearner(knobs, memory).losses(model)[0]
    assert float(loss(model, moment()).detach()) == 0.0
    with torch.no_grad():
        layer.neurolora_B["default"].add_(torch.randn(5, 4))
    assert float(loss(model, moment()).detach()) > 0.0


@pytest.mark.parametrize("top_k", [2, 4])
def test_protect_weighs_by_how_often_a_rank_is_active_now(top_k: int) -> None:
    """top_k = r leaves no rank that is inactive beside another, and yet all are active."""
    torch.manual_seed(9)
    config = NeuroLoraConfig(r=4, top_k=top_k, gate="none", target_modules=["first"], init_weights="gaussian")
    model = get_peft_model(Classifier(), config)
    layer = model.base_model.model.first
    past, frequency = layer.neurolora_B["default"].detach().clone(), torch.rand(4)
    with torch.no_grad():
        layer.neurolora_B["default"].add_(torch.randn(5, 4))
    x = collate(rows_of(12))["x"]
    model.train()(x)
    found = ProtectLoss({"base_model.model.first": past}, {"base_model.model.first": frequency}, 1.0)(
        model, moment()
    )
    active = torch.zeros(4)
    for row in x @ layer.projection_matrix("default", torch.float32).T:
        active[row.abs().topk(top_k).indices] += 1 / 12
    change = layer.neurolora_B["default"].detach() - past
    expected = protection_loss(change, past, active, frequency)
    assert float(found.detach()) == pytest.approx(float(expected), rel=1e-5)


def test_memory_comes_back_from_its_folder(tmp_path: Any) -> None:
    memory = Memory({"a": torch.randn(3, 2)}, {"rows": [1, 2]})
    memory.save(tmp_path / "m")
    found = Memory.load(tmp_path / "m")
    assert torch.equal(found.tensors["a"], memory.tensors["a"])
    assert found.values == memory.values
    with pytest.raises(DataError, match="Remove the cell's folder"):
        Memory.load(tmp_path / "none")


def test_memory_that_does_not_fit_on_the_disk_leaves_the_one_before(tmp_path: Any) -> None:
    import resource

    Memory({"a": torch.zeros(2)}).save(tmp_path / "m")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))
    try:
        with pytest.raises(OutputError, match="Free some space"):
            Memory({"a": torch.zeros(10_000)}).save(tmp_path / "m")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert torch.equal(Memory.load(tmp_path / "m").tensors["a"], torch.zeros(2))
    assert [path.name for path in tmp_path.iterdir()] == ["m"]
