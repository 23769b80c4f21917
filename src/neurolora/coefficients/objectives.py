"""What a merge is judged by while its weights are searched, as rows of data.

Room: coefficients. Every objective looks at the model on each task's rows, gives one number a task, and says
how that stands to the number of the task's parent alone: the lower, the better.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from neurolora.estimation.energy import energy_spread
from neurolora.evaluation import answer_token_loss, energies, entropies, example_scores
from neurolora.tasks import Example

Measure = Callable[[Any, Any, Sequence[Example], int], float]


def ratio(value: float, alone: float) -> float:
    """value / alone, for what is better the lower it is."""
    return value / max(alone, 1e-8)


def lost(value: float, alone: float) -> float:
    """1 - value / alone, for what is better the higher it is: the share that is gone."""
    return 1.0 - ratio(value, alone)


def distance(value: float, alone: float) -> float:
    """|value - alone|, for what is best as the parent alone has it."""
    return abs(value - alone)


@dataclass(frozen=True)
class Objective:
    """One way to judge. needs_labels: whether it reads the rows' answers.

    measure: of a model on a task's rows. beside(value, value of the parent alone): what is minimised.
    column: what that is, as the head of a column.
    """

    name: str
    about: str
    measure: Measure
    needs_labels: bool
    beside: Callable[[float, float], float]
    column: str


def answer_probability(model: Any, tokenizer: Any, examples: Sequence[Example], batch_size: int) -> float:
    """Mean over rows of the probability that an answer's token has, exp of its mean log-probability.

    Not the loss: it has no upper bound, so the task that a merge loses most would decide alone, and the
    others would pay for right answers that are still far from being given.
    """
    losses = answer_token_loss(model, tokenizer, examples, batch_size).per_example
    return math.fsum(math.exp(-loss) for loss in losses) / len(losses)


def prompt_entropy(model: Any, tokenizer: Any, examples: Sequence[Example], batch_size: int) -> float:
    """Mean entropy of the first answer token after each prompt, as a part of log V; answers are not read.

    H = -sum_v p_v log p_v over the vocabulary. Source: AdaMerging, arXiv 2310.02575, whose class
    probabilities are here those of the first token.
    """
    prompts = [dataclasses.replace(example, choices=()) for example in examples]

    def share(logits: Any) -> Any:
        return entropies(logits) / math.log(logits.shape[1])

    return float(example_scores(model, tokenizer, prompts, share, batch_size).mean())


def answer_energy(model: Any, tokenizer: Any, examples: Sequence[Example], batch_size: int) -> float:
    """Meta-Distribution Energy of the choices (or first answer tokens), less log N; answers are not read.

    It is least, 0, when all rows have one energy, as with a model that says nothing of any. So it is not
    minimised: what is minimised is how far the merge's is from the parent's. Source: arXiv 2401.12689, which
    says nothing of merges.
    """
    found = example_scores(model, tokenizer, examples, energies, batch_size)
    return float(energy_spread(found)) - math.log(len(found))


OBJECTIVES = {
    row.name: row
    for row in (
        Objective(
            "validation",
            "probability of the right answers of labelled validation rows",
            answer_probability,
            needs_labels=True,
            beside=lost,
            column="answers lost",
        ),
        Objective(
            "entropy",
            "entropy of the first answer token after unlabelled prompts",
            prompt_entropy,
            needs_labels=False,
            beside=ratio,
            column="entropy / alone",
        ),
        Objective(
            "mde",
            "how far the Meta-Distribution Energy of the answers is from the parent's",
            answer_energy,
            needs_labels=False,
            beside=distance,
            column="|mde - alone|",
        ),
    )
}
