"""A plain text or a JSON row becomes the prompt that training rendered."""

from __future__ import annotations

import json

import pytest

from neurolora.errors import ConfigError, DataError
from neurolora.evaluation import render_prompts
from neurolora.tasks import SavedTask, TaskRequest, make_example, template_of


def saved(task: str, **options: object) -> SavedTask:
    request = TaskRequest(task=task, **options)  # type: ignore[arg-type]
    return SavedTask(request, template_of(request))


ROWS = {
    "gsm8k": {"question": "Tom has 3?", "answer": "#### 3"},
    "completion": {"prompt": "Once", "completion": " more"},
    "mmlu": {"question": "Who?", "context": "", "choices": ["Anna", "Bert"], "answer": 1},
    "scienceqa": {"question": "Who?", "context": "A passage.", "choices": ["Anna", "Bert"], "answer": 1},
    "text": {"sentence": "Good film.", "label": 0, "labels": ["yes", "no"]},
}


@pytest.mark.parametrize("task", ROWS)
def test_a_json_row_gives_trainings_prompt(task: str) -> None:
    one = saved(task, labels=("yes", "no")) if task == "text" else saved(task)
    answerless = {
        key: value for key, value in ROWS[task].items() if key not in ("answer", "label", "completion")
    }
    expected = make_example(one.template, ROWS[task]).prompt
    assert render_prompts([json.dumps(answerless)], one) == [expected]


def test_a_plain_text_is_the_main_field() -> None:
    assert render_prompts(["Tom has 3?"], saved("gsm8k")) == ["Question: Tom has 3?\nAnswer:"]
    assert render_prompts(["Good film."], saved("text", labels=("yes", "no"))) == [
        "Good film.\nOptions: yes, no\nAnswer:"
    ]
    assert render_prompts(["Hello"], saved("chat")) == [[{"role": "user", "content": "Hello"}]]


def test_a_saved_template_is_used_in_place_of_the_default() -> None:
    assert render_prompts(["A?"], saved("gsm8k", prompt_template="Q {{ question }} A ")) == ["Q A? A"]


def test_missing_choices_and_broken_json_are_clear_errors() -> None:
    with pytest.raises(ConfigError, match="no choices"):
        render_prompts(["Who?"], saved("mmlu"))
    with pytest.raises(DataError, match="JSON"):
        render_prompts(['{"question": '], saved("gsm8k"))
    with pytest.raises(ConfigError, match="question"):
        render_prompts(['{"quest": "x"}'], saved("gsm8k"))
