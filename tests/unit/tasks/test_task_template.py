"""Templates: what they render, and what a wrong one says."""

import re

import pytest

from neurolora.errors import ConfigError, DataError
from neurolora.tasks import Example, PromptTemplate, TaskRequest, load_examples, make_example, template_of
from neurolora.tasks.template import MULTIPLE_CHOICE

ROW = {
    "question": "Who?",
    "context": "Mira came.",
    "choices": ["Jon", "Mira"],
    "answer": 1,
    "group": "g",
    "source": "a.jsonl, line 7",
}
FOR = "for a.jsonl, line 7: "


def test_the_default_multiple_choice_prompt():
    assert make_example(MULTIPLE_CHOICE, ROW) == Example(
        prompt="Mira came.\n\nWho?\nA. Jon\nB. Mira\nAnswer:",
        completion=" B",
        choices=(" A", " B"),
        answer=1,
        group="g",
        source="a.jsonl, line 7",
    )
    bare = make_example(MULTIPLE_CHOICE, {**ROW, "context": ""})
    assert bare.prompt == "Who?\nA. Jon\nB. Mira\nAnswer:"


def test_white_space_at_the_prompts_end_moves_to_the_completions():
    template = PromptTemplate("{{ question }} \n", "{{ choices[answer] }}", "{{ choices[index] }}")
    example = make_example(template, ROW)
    assert (example.prompt, example.completion, example.choices) == ("Who?", " \nMira", (" \nJon", " \nMira"))


def test_texts_are_not_escaped_and_not_rendered_twice():
    row = {**ROW, "question": "{{ answer }} <b> & 'x'"}
    assert make_example(PromptTemplate("{{ question }}", "y"), row).prompt == "{{ answer }} <b> & 'x'"


def test_overrides_replace_only_what_they_name(write):
    path = write("train.jsonl", [{"question": "q", "answer": "#### 1"}])
    request = TaskRequest("gsm8k", str(path), prompt_template="Q {{ question }} A", limit=1)
    (example,) = load_examples(request, "train")
    assert (example.prompt, example.completion) == ("Q q A", " #### 1")
    assert template_of(TaskRequest("mmlu")) == MULTIPLE_CHOICE


@pytest.mark.parametrize(
    ("field", "text", "said"),
    [
        ("prompt", "{{ questoin }}", f"rendering prompt_template {FOR}'questoin' is undefined. Did you mean"),
        ("prompt", "{{ questoin }}", "Did you mean 'question'? A row has 'question', 'context'"),
        ("completion", "{{ answer }}{{ nothing }}", f"completion_template {FOR}'nothing' is undefined"),
        ("choice", "{{ choices[9] }}", f"rendering choice_template {FOR}"),
        ("prompt", "{% if question %}x", "prompt_template: line 1: Unexpected end of template"),
        ("completion", "{{ }", "completion_template: line 1"),
        ("prompt", "{{ question.__class__.__mro__ }}", "rendering prompt_template"),
        ("prompt", "{{ choices.append('x') }}", "rendering prompt_template"),
        ("prompt", "{{ answer / 0 }}", "ZeroDivisionError"),
        ("prompt", "{{ question + 1 }}", "TypeError"),
    ],
)  # fmt: skip
def test_a_wrong_template_is_named(field, text, said):
    template = PromptTemplate(**{**MULTIPLE_CHOICE.to_dict(), field: text})
    with pytest.raises(ConfigError, match=re.escape(said)):
        make_example(template, ROW)


@pytest.mark.parametrize("field", ["completion", "choice"])
def test_a_completion_that_renders_empty_is_refused(field):
    template = PromptTemplate(**{**MULTIPLE_CHOICE.to_dict(), field: " "})
    with pytest.raises(DataError, match=r"rendering a\.jsonl, line 7: the completion is empty"):
        make_example(template, ROW)


def test_templates_that_have_no_use_are_refused():
    with pytest.raises(ConfigError, match="a chat prompt is made by the tokenizer"):
        template_of(TaskRequest("chat", "x", prompt_template="{{ messages }}"))
    with pytest.raises(ConfigError, match="task gsm8k has no choices"):
        template_of(TaskRequest("gsm8k", choice_template="x"))


def test_template_to_and_from_dict():
    template = PromptTemplate("p", "c", "i")
    assert PromptTemplate.from_dict(template.to_dict()) == template
    assert PromptTemplate.from_dict({"prompt": "p", "completion": "c"}).choice is None
    with pytest.raises(ConfigError, match="unknown keys 'promt'"):
        PromptTemplate.from_dict({"promt": "p", "completion": "c"})
    with pytest.raises(ConfigError, match="must be texts"):
        PromptTemplate.from_dict({"prompt": 3, "completion": "c"})
