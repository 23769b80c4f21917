"""One number for a task, in percent, larger is better: what streams and studies compare.

Room: evaluation; called by `continual` and `studies`.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from neurolora.errors import DataError, explain
from neurolora.evaluation.harness import evaluate
from neurolora.evaluation.likelihood import model_window
from neurolora.evaluation.results import LOWER_IS_BETTER
from neurolora.evaluation.scores import answer_token_loss
from neurolora.tasks import TaskRequest, completion_fits, load_examples

#: What each metric of a task measures.
METRICS = {
    "accuracy": "the task's own score: accuracy or exact match",
    "answer_probability": "100 exp(-loss) of an answer's token, for models too small to answer",
}


def task_score(
    loaded: Any, request: TaskRequest, *, metric: str, split: str, limit: int | None, batch_size: int
) -> dict[str, Any]:
    """`{"metric", "value", "stderr", "n"}` of a loaded model on at most `limit` rows of a split.

    metric: a name of `METRICS`. value, stderr: in percent; stderr is None where one row says nothing of it.
    `left_out` is there too where rows cannot be scored, and says how many.
    Raises DataError for a task whose own score is a loss, and what evaluation raises.
    """
    measure = {"accuracy": _own_score, "answer_probability": _answer_probability}[metric]
    return measure(loaded, request, split, limit, batch_size)


def _own_score(
    loaded: Any, request: TaskRequest, split: str, limit: int | None, batch: int
) -> dict[str, Any]:
    found = evaluate(
        loaded.model,
        loaded.tokenizer,
        [request],
        batch_size=batch,
        limit=limit,
        log_samples=False,
        split=split,
        progress=False,
    )
    task = next(iter(found.results))
    metric, value, stderr = found.headline(task)
    if metric in LOWER_IS_BETTER:
        do = "Set `metric: answer_probability` for this task"
        raise DataError(explain(f"scoring {request.task}", f"its own score is a {metric}", do))
    return _score(metric, 100 * value, 100 * stderr, found.n_samples[task])


def _answer_probability(
    loaded: Any, request: TaskRequest, split: str, limit: int | None, batch: int
) -> dict[str, Any]:
    """100 exp(-mean loss of the answer's tokens), and its standard error by the delta method.

    A row whose answer is longer than the model's window cannot be scored: `left_out` counts such rows.
    """
    examples = load_examples(dataclasses.replace(request, limit=limit), split)
    window = model_window(loaded.model, loaded.tokenizer)
    fitting = [one for one in examples if window is None or completion_fits(one, loaded.tokenizer, window)]
    if not fitting:
        long = f"no answer of its {len(examples)} rows fits into the model's window of {window} tokens"
        raise DataError(explain(f"scoring {request.task}", long, "Use a model with a longer window"))
    loss = answer_token_loss(loaded.model, loaded.tokenizer, fitting, batch)
    value = 100 * math.exp(-loss.value)
    found = _score("answer_probability", value, value * loss.stderr, len(fitting))
    left_out = len(examples) - len(fitting)
    return {**found, "left_out": left_out} if left_out else found


def _score(metric: str, value: float, stderr: float, n: int) -> dict[str, Any]:
    shown = None if math.isnan(stderr) else round(stderr, 6)
    return {"metric": metric, "value": round(value, 6), "stderr": shown, "n": n}
