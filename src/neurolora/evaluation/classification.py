"""Accuracy of sequence classifiers: encoders with a head, adapters unmerged.

Room: evaluation. Called by the harness, for models that are classifiers, and by studies. It runs the model
as it is and puts its training mode back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from neurolora.errors import ConfigError, DataError, explain
from neurolora.evaluation.likelihood import model_window
from neurolora.evaluation.samples import Outcome
from neurolora.evaluation.scores import in_eval_mode
from neurolora.evaluation.settings import EvaluationSettings, limited_rows
from neurolora.evaluation.statistics import mean, mean_stderr
from neurolora.provenance import fingerprint_rows
from neurolora.tasks import TASKS, TaskRequest

AUTO_BATCH = 32


@dataclass(frozen=True)
class ClassificationAccuracy:
    """Part of texts whose largest logit is the right label's. `float(accuracy)` is `value`."""

    value: float
    stderr: float
    loss: float
    loss_stderr: float
    predictions: list[int] = field(repr=False)

    def __float__(self) -> float:
        return self.value


def classification_accuracy(
    model: Any,
    tokenizer: Any,
    rows: Sequence[dict[str, Any]],
    batch_size: int = 32,
    max_length: int | None = None,
    advance: Callable[[int], object] | None = None,
) -> ClassificationAccuracy:
    """Accuracy and cross-entropy over labelled-text rows (`sentence`, `label`).

    Texts of like length share a batch; one longer than `max_length` (or the model's window) is cut at its
    end, as in training. Raises `DataError` without rows, or for a label that the head does not have.
    """
    if not rows:
        raise DataError(explain("classification_accuracy", "no rows", "Give at least one"))
    _check_labels(rows, int(model.config.num_labels))
    logits = classifier_logits(model, tokenizer, rows, batch_size, max_length, advance)
    targets = torch.tensor([row["label"] for row in rows])
    losses = torch.nn.functional.cross_entropy(logits, targets, reduction="none").tolist()
    predictions = logits.argmax(dim=-1).tolist()
    right = [float(found == row["label"]) for found, row in zip(predictions, rows, strict=True)]
    return ClassificationAccuracy(
        mean(right), mean_stderr(right), mean(losses), mean_stderr(losses), predictions
    )


def _check_labels(rows: Sequence[dict[str, Any]], count: int) -> None:
    for row in rows:
        if not 0 <= row["label"] < count:
            found = f"label {row['label']}, and the model's head has {count} labels"
            do = "Evaluate on the data that the head was trained for"
            raise DataError(explain(f"the row of {row.get('source', 'unknown place')}", found, do))


def classifier_logits(
    model: Any,
    tokenizer: Any,
    rows: Sequence[dict[str, Any]],
    batch_size: int = 32,
    max_length: int | None = None,
    advance: Callable[[int], object] | None = None,
) -> Tensor:
    """The head's logits (N, labels), float32 on the CPU, in the order of the rows (`sentence`)."""
    window = max_length or model_window(model, tokenizer)
    order = sorted(range(len(rows)), key=lambda index: -len(rows[index]["sentence"]))
    parts = []
    with torch.no_grad(), in_eval_mode(model):
        for start in range(0, len(order), batch_size):
            batch = order[start : start + batch_size]
            parts.append(_run(model, tokenizer, [rows[index]["sentence"] for index in batch], window))
            if advance is not None:
                advance(len(batch))
    return torch.cat(parts)[torch.tensor(order).argsort()]


def _run(model: Any, tokenizer: Any, texts: list[str], window: int | None) -> Tensor:
    encoded = tokenizer(
        texts, padding=True, truncation=window is not None, max_length=window, return_tensors="pt"
    )
    inputs = {name: value.to(model.device) for name, value in encoded.items()}
    logits: Tensor = model(**inputs).logits.float().cpu()
    return logits


def is_classifier(model: Any) -> bool:
    """Whether the model, seen through PEFT's wrapper, has a sequence-classification head."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    return type(inner).__name__.endswith("ForSequenceClassification")


def run_classifier(model: Any, tokenizer: Any, request: TaskRequest, settings: EvaluationSettings) -> Outcome:
    """One labelled-text task of an evaluation. Raises `ConfigError` for a task of another kind."""
    kind = TASKS[request.task].kind
    if kind != "labelled_text":
        found = f"{request.task} is a {kind} task, and the model a sequence classifier"
        raise ConfigError(explain("evaluating", found, "Use task text"))
    rows = limited_rows(request, settings)
    size = AUTO_BATCH if isinstance(settings.batch_size, str) else settings.batch_size
    accuracy = classification_accuracy(model, tokenizer, rows, size)
    scores = {
        "acc": accuracy.value,
        "acc_stderr": accuracy.stderr,
        "loss": accuracy.loss,
        "loss_stderr": accuracy.loss_stderr,
    }
    samples = [
        {"index": index, "prediction": prediction, "acc": float(prediction == row["label"]), **row}
        for index, (row, prediction) in enumerate(zip(rows, accuracy.predictions, strict=True))
    ]
    details = {
        "kind": kind,
        "split": settings.split,
        "request": request.to_dict(),
        "data_fingerprint": fingerprint_rows(rows),
    }
    return Outcome(scores, samples, details)
