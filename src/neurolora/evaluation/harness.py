"""`evaluate`: tasks in, scores with standard errors out, by lm-eval on the model as it is.

Room: evaluation, its main door. Training, the command line and studies call it. It runs the model with
its adapters unmerged, puts its training mode back, and touches no network for tasks whose data are local.

Multiple choice, labelled text and generation go through lm-eval's own evaluator with this room's model and
task classes; completions and chats are scored by `answer_token_loss`, since lm-eval has no loss per token.
Names that are not ours are handed to lm-eval's task manager and run under lm-eval's own rules.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from neurolora.errors import ConfigError, explain
from neurolora.evaluation.classification import is_classifier, run_classifier
from neurolora.evaluation.loading import describe_model
from neurolora.evaluation.results import EvaluationResult
from neurolora.evaluation.samples import (
    Outcome,
    completion_samples,
    group_scores,
    merge_filters,
    task_scores,
)
from neurolora.evaluation.scores import answer_token_loss, in_eval_mode
from neurolora.evaluation.settings import EvaluationSettings, limited_rows
from neurolora.evaluation.statistics import mean, mean_stderr
from neurolora.provenance import environment, fingerprint_rows
from neurolora.tasks import (
    TASKS,
    Example,
    TaskRequest,
    load_examples,
    make_example,
    prepare_tokenizer,
    template_of,
)

BOOTSTRAP = 1000  # draws, for the few metrics of lm-eval's own tasks that have no closed form
COMPLETIONS = ("completion", "chat")
MOST_NEW_TOKENS = 256  # lm-eval's default


def evaluate(
    model: Any,
    tokenizer: Any,
    requests: Sequence[TaskRequest | str],
    *,
    batch_size: int | str = 8,
    limit: int | float | None = None,
    num_fewshot: int | None = None,
    log_samples: bool = True,
    apply_chat_template: bool = False,
    split: str = "test",
    seed: int = 0,
    include_path: Path | str | None = None,
    max_new_tokens: int | None = None,
    progress: bool = True,
) -> EvaluationResult:
    """Evaluate a model, with its active adapters if it has any, on one task or more.

    Causal models take every task, sequence classifiers labelled text alone (`acc` and `loss` of the head).

    - `requests`: our tasks as requests or by name, and names that lm-eval knows (from `include_path` or
      its registry).
    - `batch_size`: rows a forward pass, or "auto". Scores do not depend on it beyond rounding.
    - `limit`: at most so many rows a task, drawn by the request's seed; below 1, the first part of them.
    - `num_fewshot`: worked examples in the prompt, drawn from the train split by `seed`; None = none for
      our tasks, lm-eval's number for its own.
    - `split`: of our tasks. `max_new_tokens`: of generation tasks; None = half as much again as the
      longest right answer, within lm-eval's 256 where that is enough.

    Raises `ConfigError` for settings or names that cannot work, `DataError` for data that cannot be used.
    """
    settings = EvaluationSettings(
        batch_size, limit, num_fewshot, log_samples, apply_chat_template, split, seed, include_path,
        max_new_tokens, progress,
    )  # fmt: skip
    _require_template(tokenizer, settings)
    ours, foreign = _sort_out(requests, settings.include_path)
    if foreign and is_classifier(model):
        found = "the model is a sequence classifier, which lm-eval cannot score"
        raise ConfigError(explain(f"tasks {', '.join(foreign)}", found, "Use task text"))
    prepare_tokenizer(tokenizer, model.config)
    outcomes: dict[str, Outcome] = {}
    with in_eval_mode(model), _quiet():
        for name, request in ours.items():
            outcomes[name] = _run_timed(model, tokenizer, name, request, settings)
        if foreign:
            outcomes.update(_run_foreign(model, tokenizer, foreign, settings))
    return _collect(model, outcomes, settings)


def _require_template(tokenizer: Any, settings: EvaluationSettings) -> None:
    if settings.apply_chat_template and not getattr(tokenizer, "chat_template", None):
        do = "Leave it out, or use a tokenizer that has one"
        raise ConfigError(explain("apply_chat_template", "the tokenizer has no chat template", do))


def _sort_out(
    requests: Sequence[TaskRequest | str], include_path: Path | str | None
) -> tuple[dict[str, TaskRequest], list[str]]:
    """Our tasks under names that are unique, and the names that are left to lm-eval.

    A task of the user's folder goes before ours of its name.
    """
    if not requests:
        raise ConfigError(explain("tasks", "none given", "Name at least one task"))
    ours: dict[str, TaskRequest] = {}
    foreign: list[str] = []
    have_ours = any(isinstance(one, str) and one in TASKS for one in requests)
    theirs = _names_in(include_path) if have_ours else frozenset()  # else nothing could be in its way
    for one in requests:
        if isinstance(one, str) and (one in theirs or one not in TASKS):
            foreign.append(one)
            continue
        request = TaskRequest(task=one) if isinstance(one, str) else one
        name = request.task
        if name in ours:
            name = next(
                f"{name}-{count}" for count in range(2, len(requests) + 2) if f"{name}-{count}" not in ours
            )
        ours[name] = request
    return ours, list(dict.fromkeys(foreign))


def _names_in(include_path: Path | str | None) -> frozenset[str]:
    if include_path is None:
        return frozenset()
    from neurolora.evaluation.foreign import names_in

    return names_in(include_path)


def _run_timed(
    model: Any, tokenizer: Any, name: str, request: TaskRequest, settings: EvaluationSettings
) -> Outcome:
    start = time.perf_counter()
    if is_classifier(model):
        outcome = run_classifier(model, tokenizer, request, settings)
        return dataclasses.replace(outcome, seconds=time.perf_counter() - start)
    template = template_of(request)
    examples = [make_example(template, row) for row in limited_rows(request, settings)]
    kind = TASKS[request.task].kind
    details = {
        "kind": kind,
        "split": settings.split,
        "request": request.to_dict(),
        "template": template.to_dict(),
        "data_fingerprint": fingerprint_rows(dataclasses.asdict(example) for example in examples),
    }
    if kind in COMPLETIONS:
        outcome = _run_completions(model, tokenizer, examples, settings)
    else:
        outcome = _run_ours(model, tokenizer, name, request, examples, settings)
    seconds = time.perf_counter() - start
    return dataclasses.replace(outcome, seconds=seconds, details={**details, **outcome.details})


def _run_ours(
    model: Any,
    tokenizer: Any,
    name: str,
    request: TaskRequest,
    examples: list[Example],
    settings: EvaluationSettings,
) -> Outcome:
    from lm_eval import evaluator

    from neurolora.evaluation.harness_model import AdaptedLM
    from neurolora.evaluation.harness_tasks import HarnessTask, build_task

    shots = _shots(request, settings)
    kind = TASKS[request.task].kind
    stop = stop_texts(template_of(request).prompt, examples, bool(shots)) if kind == "generation" else ()
    most = settings.max_new_tokens or (default_new_tokens(examples, tokenizer) if kind == "generation" else 1)
    task = HarnessTask(
        name, kind, examples, shots, settings.num_fewshot or 0, settings.seed, most, stop,
        settings.apply_chat_template,
    )  # fmt: skip
    lm = AdaptedLM(
        model,
        tokenizer,
        settings.batch_size,
        as_trained=not settings.apply_chat_template,
        progress=settings.progress,
    )
    found = evaluator.evaluate(
        lm=lm,
        task_dict={name: build_task(task)},
        bootstrap_iters=1,
        log_samples=True,
        apply_chat_template=settings.apply_chat_template,
    )
    details = {"generation": {"max_new_tokens": most, "stop": list(stop)}} if kind == "generation" else {}
    samples = merge_filters(found["samples"][name], kind)
    return Outcome(task_scores(found["results"][name]), samples, details, shortened=lm.shortened)


def _shots(request: TaskRequest, settings: EvaluationSettings) -> list[Example]:
    if not settings.num_fewshot:
        return []
    shots = load_examples(dataclasses.replace(request, limit=None), "train")
    if len(shots) < settings.num_fewshot:
        found = f"the train split has {len(shots)} rows"
        raise ConfigError(explain(f"num_fewshot {settings.num_fewshot}", found, "Ask for fewer"))
    return shots


def stop_texts(prompt_template: str, examples: Sequence[Example], few_shot: bool) -> tuple[str, ...]:
    """Texts that show that the model has gone on to a next question: how each prompt starts, and (with
    worked examples) the blank line between them. One that stands in a right answer is left out."""
    literal = prompt_template.replace("{%", "{{").split("{{", 1)[0].strip()
    candidates = [literal] if literal else []
    if few_shot:
        candidates.append("\n\n")
    return tuple(text for text in candidates if not any(text in example.completion for example in examples))


def default_new_tokens(examples: Sequence[Example], tokenizer: Any) -> int:
    """Room for half as much again as the longest right answer, at most 256 unless that answer needs more."""
    longest = max(len(tokenizer.encode(example.completion)) for example in examples)
    return min(math.ceil(1.5 * longest), max(MOST_NEW_TOKENS, longest + 1))


def _run_completions(
    model: Any, tokenizer: Any, examples: list[Example], settings: EvaluationSettings
) -> Outcome:
    size = 16 if isinstance(settings.batch_size, str) else settings.batch_size
    loss = answer_token_loss(model, tokenizer, examples, size)
    exact = [float(found) for found in loss.greedy]
    scores = {
        "loss": loss.value,
        "loss_stderr": loss.stderr,
        "perplexity": loss.perplexity,
        "perplexity_stderr": loss.perplexity * loss.stderr,
        "acc": mean(exact),
        "acc_stderr": mean_stderr(exact),
    }
    return Outcome(scores, completion_samples(examples, loss), {})


def _run_foreign(
    model: Any, tokenizer: Any, names: list[str], settings: EvaluationSettings
) -> dict[str, Outcome]:
    """Tasks of lm-eval itself or of `include_path`, under lm-eval's own encoding and rules."""
    from lm_eval import evaluator

    from neurolora.evaluation.foreign import load_foreign
    from neurolora.evaluation.harness_model import AdaptedLM

    start = time.perf_counter()
    loaded = load_foreign(names, settings.include_path, settings.num_fewshot, settings.seed)
    lm = AdaptedLM(model, tokenizer, settings.batch_size, as_trained=False, progress=settings.progress)
    found = evaluator.evaluate(
        lm=lm,
        task_dict=loaded,
        limit=settings.limit,
        bootstrap_iters=BOOTSTRAP,
        log_samples=True,
        apply_chat_template=settings.apply_chat_template,
    )
    seconds = time.perf_counter() - start
    return {
        name: Outcome(
            task_scores(scores),
            _rows_of(name, found),
            {"kind": "lm-eval", "n_shot": found["n-shot"].get(name), "version": found["versions"].get(name)},
            seconds,
            lm.shortened,
        )
        for name, scores in found["results"].items()
    }


def _rows_of(name: str, found: dict[str, Any]) -> list[Any]:
    """The samples of a task, or of all members of a group."""
    if name in found["samples"]:
        return list(found["samples"][name])
    return [
        row for member in found.get("group_subtasks", {}).get(name, []) for row in _rows_of(member, found)
    ]


def _collect(model: Any, outcomes: dict[str, Outcome], settings: EvaluationSettings) -> EvaluationResult:
    warnings = [
        f"{name}: {one.shortened} prompts were longer than the model's window and lost tokens on their left"
        for name, one in outcomes.items()
        if one.shortened
    ]
    groups = {name: group_scores(one.samples, one.scores) for name, one in outcomes.items()}
    return EvaluationResult(
        results={name: one.scores for name, one in outcomes.items()},
        n_samples={
            name: len({row.get("index", row.get("doc_id")) for row in one.samples})
            for name, one in outcomes.items()
        },
        groups={name: found for name, found in groups.items() if found},
        samples={name: one.samples for name, one in outcomes.items()} if settings.log_samples else {},
        config={
            **settings.to_dict(),
            "model": describe_model(model),
            "tasks": {name: one.details for name, one in outcomes.items()},
        },
        environment={**environment(), "device": str(model.device), "dtype": str(model.dtype)},
        seconds={name: one.seconds for name, one in outcomes.items()},
        warnings=warnings,
    )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """lm-eval's log only from errors on, and what it prints to stdout on stderr, where messages belong."""
    logger = logging.getLogger("lm_eval")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        logger.setLevel(before)
