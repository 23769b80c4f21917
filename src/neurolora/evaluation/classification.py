"""Accuracy of sequence classifiers: encoders with a head, adapters unmerged.

Room: evaluation. Called by the harness, for models that are classifiers, and by studies. It runs the model
as it is and puts its training mode back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

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
    window = max_length or model_window(model, tokenizer)
    order = sorted(range(len(rows)), key=lambda index: -len(rows[index]["sentence"]))
    predictions, losses = [0] * len(rows), [0.0] * len(rows)
    with torch.no_grad(), in_eval_mode(model):
        for start in range(0, len(order), batch_size):
            batch = order[start : start + batch_size]
            for index, (label, loss) in zip(
                batch, _classify(model, tokenizer, [rows[index] for index in batch], window), strict=True
            ):
                predictions[index], losses[index] = label, loss
            if advance is not None:
                advance(len(batch))
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


def _classify(
    model: Any, tokenizer: Any, rows: list[dict[str, Any]], window: int | None
) -> list[tuple[int, float]]:
    """(likeliest label, loss of the right one) for each row of one batch."""
    encoded = tokenizer(
        [row["sentence"] for row in rows],
        padding=True,
        truncation=window is not None,
        max_length=window,
        return_tensors="pt",
    )
    inputs = {name: value.to(model.device) for name, value in encoded.items()}
    logits = model(**inputs).logits.float()
    targets = torch.tensor([row["label"] for row in rows], device=logits.device)
    losses = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
    return list(zip(logits.argmax(dim=-1).tolist(), losses.tolist(), strict=True))


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
