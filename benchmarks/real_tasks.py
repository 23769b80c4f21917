"""Three real classification tasks on a small encoder: what the benchmarks of merging and of streams share.

The model is an encoder, mean-pooled under a linear head; DATA holds QQP, amazon and dbpedia, each a folder
with `[{"sentence", "label"}]` in train.json and test.json (one file alone is split). A task keeps its own
head. A seed sets the order of the rows, dropout and all starts; the rows are the same for all.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

TASKS = ("QQP", "amazon", "dbpedia")
TARGETS = ("query", "key", "value", "attention.output.dense")
RANK, ALPHA = 32, 16
TRAIN_ROWS, TEST_ROWS = 1280, 500
EPOCHS, BATCH, WINDOW = 2, 32, 48
WARMUP, WEIGHT_DECAY, MOST_NORM = 0.03, 0.01, 1.0
GATE_SHARE = 0.25  # the gate's rate, as a part of B's

Extra = Callable[[int], Tensor]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What every benchmark on these tasks is told."""
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data", help="folder with QQP/, amazon/ and dbpedia/")
    parser.add_argument("--model", help="folder of the encoder, with model.safetensors")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--rows", type=int, default=TEST_ROWS, help="test rows of each task")


# --- data -------------------------------------------------------------------------------------------------


class Rows(NamedTuple):
    """Token ids of texts, cut to the window, and their labels."""

    tokens: list[list[int]]
    labels: list[int]


@lru_cache(maxsize=2 * len(TASKS))
def load(data: str, model: str, task: str, split: str, limit: int) -> tuple[Rows, int]:
    """The first rows of a split, encoded, and the number of labels."""
    rows = raw_rows(data, task, split, limit)
    return encode(model, rows), len(rows[0]["labels"])


def raw_rows(data: str, task: str, split: str, limit: int) -> list[dict[str, Any]]:
    """The first rows of a split; a task in one file is tested on its last rows.

    The split `validation` is the rows of training after those that are learned."""
    from neurolora.tasks import TaskRequest, load_rows

    request = TaskRequest(task="text", dataset_name=str(Path(data) / task))
    alone = not (Path(data) / task / "train.json").is_file()
    found = load_rows(request, "test" if alone else "train" if split == "validation" else split)
    if alone and len(found) < TRAIN_ROWS + limit and split == "test":
        raise SystemExit(f"{task} has {len(found)} rows: too few to train and test on")
    if split == "validation":
        return found[TRAIN_ROWS : TRAIN_ROWS + limit]
    return found[-limit:] if alone and split == "test" else found[:limit]


def encode(model: str, rows: list[dict[str, Any]]) -> Rows:
    """Token ids, cut to the window, and labels."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    texts = [row["sentence"] for row in rows]
    tokens = tokenizer(texts, truncation=True, max_length=WINDOW)["input_ids"]
    return Rows(tokens, [row["label"] for row in rows])


def unlabelled(data: str, model: str, names: tuple[str, ...], limit: int) -> list[list[int]]:
    """Token ids of the first texts of each named set, cut to the window; labels are not looked at."""
    from transformers import AutoTokenizer

    texts = []
    for name in names:
        train, test = (Path(data) / name / f"{split}.json" for split in ("train", "test"))
        rows = json.loads((train if train.is_file() else test).read_text(encoding="utf-8"))
        texts += [row["sentence"] for row in rows[:limit]]
    tokenizer = AutoTokenizer.from_pretrained(model)
    found: list[list[int]] = tokenizer(texts, truncation=True, max_length=WINDOW)["input_ids"]
    return found


def padded(tokens: list[list[int]], pad: int) -> dict[str, Tensor]:
    """input_ids and attention_mask (rows, length), padded right."""
    longest = max(map(len, tokens))
    ids = torch.full((len(tokens), longest), pad)
    mask = torch.zeros_like(ids)
    for row, own in enumerate(tokens):
        ids[row, : len(own)] = torch.tensor(own)
        mask[row, : len(own)] = 1
    return {"input_ids": ids, "attention_mask": mask}


def batch_of(rows: Rows, places: list[int], pad: int) -> tuple[dict[str, Tensor], Tensor]:
    """The inputs, and labels (rows,)."""
    inputs = padded([rows.tokens[place] for place in places], pad)
    return inputs, torch.tensor([rows.labels[place] for place in places])


# --- model ------------------------------------------------------------------------------------------------


class Classifier(nn.Module):
    """An encoder, the mean of its outputs over a text's tokens, a linear head."""

    def __init__(self, body: nn.Module, width: int, labels: int) -> None:
        super().__init__()
        self.body, self.head = body, nn.Linear(width, labels)

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        logits: Tensor = self.head(pooled(self.body, inputs))
        return logits


def pooled(body: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    """Mean over the text's tokens (rows, width)."""
    mask = inputs["attention_mask"].unsqueeze(-1)
    states = body(**inputs).last_hidden_state
    return (states * mask).sum(dim=1) / mask.sum(dim=1)


def base(model: str) -> Any:
    from transformers import AutoModel

    return AutoModel.from_pretrained(model, add_pooling_layer=False)


# --- train and score ----------------------------------------------------------------------------------------


def fit(model: Classifier, rows: Rows, rate: float, seed: int, extra: Extra | None = None) -> list[float]:
    """AdamW with a cosine; the task's losses of all steps. extra: a weighted loss more, from the step."""
    from transformers import get_cosine_schedule_with_warmup

    from neurolora.training import create_optimizer_groups
    from neurolora.tuner import get_auxiliary_loss

    groups = create_optimizer_groups(model, rate, rate * GATE_SHARE, WEIGHT_DECAY)
    optimizer = torch.optim.AdamW(groups)
    order = batches(len(rows.labels), seed)
    schedule = get_cosine_schedule_with_warmup(optimizer, math.ceil(WARMUP * len(order)), len(order))
    losses = []
    for step, places in enumerate(order):
        inputs, labels = batch_of(rows, places, pad_of(model.body))
        model.train()
        if not any(p.requires_grad for p in model.body.parameters()):
            model.body.eval()  # no dropout where only the head learns
        loss = functional.cross_entropy(model(inputs), labels)
        losses.append(float(loss.detach()))
        (loss + get_auxiliary_loss(model)).backward()
        if extra is not None:
            extra(step).backward()
        nn.utils.clip_grad_norm_(model.parameters(), MOST_NORM)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    return losses


def batches(count: int, seed: int) -> list[list[int]]:
    """Places of the rows of each step, shuffled anew in each epoch."""
    generator = torch.Generator().manual_seed(seed)
    epochs = (torch.randperm(count, generator=generator).tolist() for _ in range(EPOCHS))
    return [order[start : start + BATCH] for order in epochs for start in range(0, count, BATCH)]


def pad_of(body: nn.Module) -> int:
    return int(body.config.pad_token_id or 0)


def trainable(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


@torch.no_grad()
def accuracy(model: Classifier, rows: Rows) -> float:
    """Percent of rows that a model gets right."""
    order = sorted(range(len(rows.labels)), key=lambda place: len(rows.tokens[place]))
    right = 0
    model.eval()
    for start in range(0, len(order), BATCH):
        inputs, labels = batch_of(rows, order[start : start + BATCH], pad_of(model.body))
        right += int((model(inputs).argmax(dim=-1) == labels).sum())
    return 100 * right / len(order)
