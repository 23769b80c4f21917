"""What a merge is judged by while its weights are searched, as rows of data: lower is better.

Room: coefficients. Every objective looks at the model on each task's rows and gives one number a task.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from neurolora.evaluation import answer_token_loss
from neurolora.evaluation.encoding import encode_answer
from neurolora.evaluation.likelihood import model_window, next_token_logits
from neurolora.evaluation.scores import in_eval_mode
from neurolora.tasks import Example

NO_ANSWER = " ?"  # in the place of every answer: none is read
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
    window = model_window(model, tokenizer)
    unlabelled = [dataclasses.replace(example, completion=NO_ANSWER) for example in examples]
    prompts = [encode_answer(example, tokenizer, window).context for example in unlabelled]
    total = 0.0
    with in_eval_mode(model), torch.no_grad():
        for start in range(0, len(prompts), batch_size):
            total += entropies(model, prompts[start : start + batch_size])
    return total / len(prompts)


def entropies(model: Any, prompts: Sequence[Sequence[int]]) -> float:
    """Sum over the prompts of the next token's entropy, as a part of log V."""
    log_p = next_token_logits(model, prompts).log_softmax(-1)
    entropy = -(log_p.exp() * log_p).sum(-1)
    return float(entropy.sum()) / math.log(log_p.shape[-1])


OBJECTIVES = {
    row.name: row
    for row in (
        Objective("validation", "loss of the answers of labelled validation rows", answer_loss, True),
        Objective(
            "entropy", "entropy of the first answer token after unlabelled prompts", prompt_entropy, False
        ),
    )
}
