"""The bridge's data side: our examples as lm-eval tasks.

Room: evaluation. Only `harness.py` imports this file, and only when something is evaluated, since it
imports lm-eval.

Prompts and answers are rendered by the task's own `PromptTemplate` before lm-eval sees them, so a task's
config names fields where others hold templates: what is scored is what was trained, character for character.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from datasets import Dataset
from lm_eval.api.task import ConfigurableTask

from neurolora.tasks import Example

VERSION = 1.0

# Metrics, filters and their patterns have the names and values of lm-eval's gsm8k (0.4.13), so that numbers
# can be compared: strict-match wants `#### 42`, flexible-extract takes the last number written.
GENERATION: dict[str, Any] = {
    "output_type": "generate_until",
    "doc_to_target": "completion",
    "metric_list": [
        {
            "metric": "exact_match",
            "aggregation": "mean",
            "higher_is_better": True,
            "ignore_case": True,
            "ignore_punctuation": False,
            "regexes_to_ignore": [",", "\\$", "(?s).*#### ", "\\.$"],
        }
    ],
    "filter_list": [
        {
            "name": "strict-match",
            "filter": [
                {"function": "regex", "regex_pattern": "#### (\\-?[0-9\\.\\,]+)"},
                {"function": "take_first"},
            ],
        },
        {
            "name": "flexible-extract",
            "filter": [
                {
                    "function": "regex",
                    "group_select": -1,
                    "regex_pattern": "(-?[$0-9.,]{2,})|(-?[0-9]+)",
                },
                {"function": "take_first"},
            ],
        },
    ],
}

MULTIPLE_CHOICE: dict[str, Any] = {
    "output_type": "multiple_choice",
    "doc_to_target": "answer",
    "doc_to_choice": "choices",
    "metric_list": [
        {"metric": "acc", "aggregation": "mean", "higher_is_better": True},
        {"metric": "acc_norm", "aggregation": "mean", "higher_is_better": True},
    ],
}

#: Kind of task -> what its lm-eval config adds to the fields that all have.
CONFIGS: dict[str, dict[str, Any]] = {
    "generation": GENERATION,
    "multiple_choice": MULTIPLE_CHOICE,
    "labelled_text": MULTIPLE_CHOICE,
}


@dataclass(frozen=True)
class HarnessTask:
    """What one of our tasks becomes: its name, kind, examples, and those that few-shot prompts draw from."""

    name: str
    kind: str
    examples: Sequence[Example]
    shots: Sequence[Example]
    num_fewshot: int
    seed: int
    max_new_tokens: int
    stop: tuple[str, ...]
    apply_chat_template: bool = False

    @property
    def delimiter(self) -> str:
        """What stands between a prompt and each choice: lm-eval's `acc_norm` does not count it."""
        choices = [choice for example in (*self.examples, *self.shots) for choice in example.choices]
        return " " if choices and all(choice.startswith(" ") for choice in choices) else ""


def build_task(task: HarnessTask) -> ConfigurableTask:
    """An lm-eval task that holds its documents in memory; nothing is downloaded, written or cached."""
    trim = task.apply_chat_template
    documents = [_document(one, task.delimiter, trim=trim) for one in task.examples]
    built = _InMemoryTask(_config(task), documents)
    built.set_fewshot_seed(task.seed)
    return built


def _config(task: HarnessTask) -> dict[str, Any]:
    config: dict[str, Any] = {
        "task": task.name,
        "test_split": "test",
        "doc_to_text": "prompt",
        "target_delimiter": task.delimiter,
        "fewshot_delimiter": "\n\n",
        "num_fewshot": task.num_fewshot,
        "metadata": {"version": VERSION},
        **CONFIGS[task.kind],
    }
    if task.num_fewshot:
        config["fewshot_config"] = {
            "sampler": "default",
            "samples": [_document(one, task.delimiter) for one in task.shots],
        }
    if task.kind == "generation":
        config["generation_kwargs"] = {
            "until": list(task.stop),
            "do_sample": False,
            "max_gen_toks": task.max_new_tokens,
        }
    return config


def _document(example: Example, delimiter: str, *, trim: bool = False) -> dict[str, Any]:
    """A row for lm-eval, its choices without the delimiter, which lm-eval puts before them.

    trim: a chat template puts its own white space between prompt and answer, but not in worked examples.
    """
    without = str.lstrip if trim else str
    return {
        "prompt": example.prompt,
        "completion": without(example.completion),
        "choices": [without(choice.removeprefix(delimiter)) for choice in example.choices],
        "answer": example.answer,
        "group": example.group,
        "source": example.source,
    }


class _InMemoryTask(ConfigurableTask):
    def __init__(self, config: dict[str, Any], documents: list[dict[str, Any]]) -> None:
        self._documents = documents
        super().__init__(config=config)

    def download(self, dataset_kwargs: dict[str, Any] | None = None, **_: Any) -> None:
        """Put the documents where lm-eval looks for a downloaded dataset."""
        self.dataset = {"test": Dataset.from_list(self._documents)}

    def build_all_requests(self, **options: Any) -> None:
        """lm-eval's own, without its progress bar: this takes milliseconds."""
        with contextlib.redirect_stderr(io.StringIO()):
            super().build_all_requests(**options)
