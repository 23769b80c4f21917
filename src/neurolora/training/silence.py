"""Off-task silence in training: which rows are listened to at which step, and their loss.

Room: training; used by `trainer`. The rows of a step follow from the seed and the step alone, so that a run
that was killed and resumed hears the same ones, and nothing has to be saved.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from neurolora.errors import ConfigError, DataError, explain
from neurolora.tasks.files import read_records, read_utf8
from neurolora.tasks.records import text_of
from neurolora.training.extra_loss import Moment
from neurolora.tuner import listening, take_silence_loss
from neurolora.world import MODEL_ALIAS, generate_text


@dataclass(frozen=True)
class Silence:
    """How an adapter is kept quiet off its task.

    weight: of the loss (`core/silence.py: loudness`, mean over modules). rows: what the trainer's collator
    takes, of text that belongs to no task. batch_size: rows for each micro-batch; half of a batch keeps the
    cost below half a step. every: optimizer steps from one listening to the next.
    """

    weight: float
    rows: Sequence[Any]
    batch_size: int
    every: int = 1
    name: str = "silence"
    reads_outputs: ClassVar[bool] = False

    def __post_init__(self) -> None:
        problems = [
            f"{name} is {value}"
            for name, value in (
                ("weight", self.weight),
                ("batch_size", self.batch_size),
                ("every", self.every),
            )
            if not 0 < value < float("inf")
        ]
        if problems:
            do = "Each must be above 0; leave `silence` out to train without it"
            raise ConfigError(explain("training with silence", "; ".join(problems), do))
        if not self.rows:
            raise DataError(
                explain("training with silence", "there are no rows to listen to", "Give some text")
            )

    def is_due(self, step: int) -> bool:
        """Whether optimizer step `step` (from 0) listens."""
        return step % self.every == 0

    def batch(self, collate: Callable[[list[Any]], Any], seed: int, *place: int) -> Any:
        """The rows of one micro-batch; place: step, micro-batch, process."""
        generator = torch.Generator().manual_seed(mixed_seed(seed, *place))
        chosen = torch.randint(len(self.rows), (min(self.batch_size, len(self.rows)),), generator=generator)
        return collate([self.rows[i] for i in chosen.tolist()])

    def __call__(self, model: nn.Module, moment: Moment) -> Tensor:
        """How loud the adapters are on the rows of this moment; they go past any wrapper for distribution."""
        return silence_loss(model, self.batch(moment.collate, moment.seed, *moment.place))


def silence_loss(model: nn.Module, batch: dict[str, Any]) -> Tensor:
    """How loud the adapters of `model` are on a batch: a scalar with gradient; labels are not looked at."""
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    with listening(model):
        model(**inputs)
        return take_silence_loss(model)


def silence_of(weight: float, data: str, batch_size: int, every: int, tokenizer: Any, length: int) -> Silence:
    """`Silence` from a training config's values; data: see `silence_texts`."""
    return Silence(weight, text_rows(silence_texts(data), tokenizer, length), batch_size, every)


def silence_texts(data: str) -> list[str]:
    """The texts of a .txt file (one a line), of `text` in a file of records, or `world`: the bundled model's.

    Raises DataError.
    """
    if data == MODEL_ALIAS:
        return list(generate_text(0, passes=1))
    path = Path(data).expanduser()
    if path.suffix.lower() == ".txt":
        return [line for line in read_utf8(path).splitlines() if line.strip()]
    return [text_of(record, "text", "sentence") for record in read_records(path)]


def text_rows(texts: Sequence[str], tokenizer: Any, length: int) -> list[dict[str, list[int]]]:
    """Texts as rows of at most `length` tokens, for the collator; a longer text gives several.

    Raises DataError if no text has a token.
    """
    rows = []
    for text in texts:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        for start in range(0, len(ids), length):
            part = ids[start : start + length]
            rows.append({"input_ids": part, "labels": [-100] * len(part)})
    if not rows:
        raise DataError(explain("training with silence", "the texts hold no token", "Give some text"))
    return rows


def mixed_seed(*parts: int | str) -> int:
    """One seed from several numbers and names."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "little") >> 1
