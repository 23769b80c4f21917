"""Learning without forgetting: on the new task's inputs the model is to answer as it did before it
(Li and Hoiem, 2016, arXiv 1606.09282).

Room: continual.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from neurolora.continual.learner import Knobs, Learner, TaskData, trainable_parameters
from neurolora.continual.memory import Memory
from neurolora.evaluation.scores import in_eval_mode
from neurolora.training.extra_loss import EveryStep, ExtraLoss, Moment


class LwfKnobs(Knobs):
    """The paper's values."""

    weight: float = Field(1.0, gt=0, description="lambda_o, of the distillation loss")
    temperature: float = Field(2.0, gt=0, description="T, softens both distributions")


def distillation_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T^2 mean over rows of KL(softmax(teacher / T) || softmax(student / T)).

    student, teacher (N, classes) floating -> a float32 scalar with gradient to the student alone; zero for no
    rows. The paper's cross-entropy differs by the teacher's entropy, a constant; T^2 keeps the gradient's
    scale (Hinton et al., 2015, arXiv 1503.02531).
    """
    if not len(student):
        return student.float().sum()
    p = functional.log_softmax(teacher.detach().float() / temperature, dim=-1)
    q = functional.log_softmax(student.float() / temperature, dim=-1)
    return temperature**2 * functional.kl_div(q, p, log_target=True, reduction="batchmean")


@contextlib.contextmanager
def weights_of(model: nn.Module, values: dict[str, Tensor]) -> Iterator[None]:
    """Inside, the named parameters of `model` have these values; outside their own again, to the bit.

    What autograd has saved of them is not touched: the values change places, nothing is written over.
    """
    parameters = trainable_parameters(model)
    own = {name: parameters[name].data for name in values}
    for name, value in values.items():
        parameters[name].data = value
    try:
        yield
    finally:
        for name, value in own.items():
            parameters[name].data = value


@dataclass(frozen=True)
class LwfLoss(EveryStep):
    """The distillation loss over what the task's own loss looks at: label tokens, or each row's classes."""

    teacher: dict[str, Tensor]
    weight: float
    temperature: float
    name: str = "lwf"
    reads_outputs: ClassVar[bool] = True

    def __call__(self, model: nn.Module, moment: Moment) -> Tensor:
        """One forward with the old weights, without gradient; the new weights' logits are there already."""
        inputs = {name: value for name, value in moment.inputs.items() if name != "labels"}
        with in_eval_mode(model), torch.no_grad(), weights_of(model, self.teacher):
            before = model(**inputs).logits
        labels = moment.inputs["labels"]
        return distillation_loss(
            _asked(moment.outputs.logits, labels), _asked(before, labels), self.temperature
        )


def _asked(logits: Tensor, labels: Tensor) -> Tensor:
    """Of a language model the logits that predict label tokens (N, vocabulary); of a classifier all rows."""
    if logits.dim() == 2:
        return logits
    return logits[:, :-1][labels[:, 1:].ne(-100)]


class LwfLearner(Learner):
    """Learning without forgetting (Li and Hoiem, 2016, arXiv 1606.09282).

    Keeps nothing but that there was a task; while one is learned, a copy of the weights that it started from.
    """

    def losses(self, model: nn.Module) -> list[ExtraLoss]:
        """None for the first task, which has no before."""
        if not self.memory.values:
            return []
        values: dict[str, Any] = {
            name: value.detach().clone() for name, value in trainable_parameters(model).items()
        }
        return [LwfLoss(values, self.knobs.weight, self.knobs.temperature)]

    def remember(self, model: nn.Module, data: TaskData, task: int) -> Memory:
        """That there was a task."""
        return Memory({}, {"tasks": task + 1})
