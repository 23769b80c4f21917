"""What a merge is judged by while its weights are searched, as rows of data: lower is better.

Room: coefficients. Every objective looks at the model on each task's rows and gives one number a task.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from neurolora.evaluation import answer_token_loss, entropies, example_logits, meta_distribution_energy
from neurolora.tasks import Example

Measure = Callable[[Any, Any, Sequence[Example], int], float]


@dataclass(frozen=True)
class Objective:
    """One way to judge. needs_labels: whether it reads the rows' answers."""

    name: str
    about: str
    measure: Measure
    needs_labels: bool


def answer_loss(model: Any, tokenizer: Any, examples: Sequence[Example], batch_size: int) -> float:
    """Mean loss of an answer's token, in nats."""
    return answer_token_loss(model, tokenizer, examples, batch_size).value


def prompt_entropy(model: Any, tokenizer: Any, examples: Sequence[Example], batch_size: int) -> float:
    """Mean entropy of the first answer token after each prompt, as a part of log V; answers are not read.

    H = -sum_v p_v log p_v over the vocabulary. Source: AdaMerging, arXiv 2310.02575, whose class
    probabilities are here those of the first token.
    """
    prompts = [dataclasses.replace(example, choices=()) for example in examples]
    logits = example_logits(model, tokenizer, prompts, batch_size)
    return float(entropies(logits).mean()) / math.log(logits.shape[1])


def answer_energy(model: Any, tokenizer: Any, examples: Sequence[Example], batch_size: int) -> float:
    """Meta-Distribution Energy of the choices (or first answer tokens), less log N; answers are not read.

    Source: arXiv 2401.12689, where it falls with the loss; whether it does for a merge is to be measured.
    """
    return meta_distribution_energy(example_logits(model, tokenizer, examples, batch_size))


OBJECTIVES = {
    row.name: row
    for row in (
        Objective("validation", "loss of the answers of labelled validation rows", answer_loss, True),
        Objective(
            "entropy", "entropy of the first answer token after unlabelled prompts", prompt_entropy, False
        ),
        Objective("mde", "Meta-Distribution Energy of the answers to choose from", answer_energy, False),
    )
}
