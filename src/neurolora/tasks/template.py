"""Canonical row -> prompt, completion and candidate completions, by jinja2 templates from the config.

Room: tasks. The task files hold templates, `registry` renders them; it touches nothing.
Templates run in jinja2's sandbox, and a name that the row does not have is an error, never an empty text.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import jinja2
import jinja2.sandbox

from neurolora.errors import ConfigError, DataError, explain
from neurolora.tasks.naming import listed, nearest
from neurolora.tasks.records import LETTERS, Row, kind_of

Message = dict[str, str]


@dataclass(frozen=True)
class PromptTemplate:
    """Three jinja2 templates over a canonical row.

    Every field of the row is a name; `letters` holds the letters of the choices, one each.
    - `prompt`: what the model is given. Empty for chat: the tokenizer's chat template makes it.
    - `completion`: what it learns to write after it, usually beginning with a space.
    - `choice`: one candidate completion, given `index`; None when there are no candidates.
    """

    prompt: str
    completion: str
    choice: str | None = None

    def to_dict(self) -> dict[str, str | None]:
        """Plain JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Any) -> PromptTemplate:
        """The inverse of `to_dict`. Raises `ConfigError` for wrong keys or values."""
        if not isinstance(values, Mapping):
            raise ConfigError(explain("a prompt template", f"it is {kind_of(values)}", "Write an object"))
        wrong = [key for key in values if key not in ("prompt", "completion", "choice")]
        texts = [values.get("prompt"), values.get("completion"), values.get("choice") or ""]
        if wrong or not all(isinstance(text, str) for text in texts):
            found = f"unknown keys {listed(wrong)}" if wrong else "prompt and completion must be texts"
            raise ConfigError(explain("a prompt template", found, "Its keys are prompt, completion, choice"))
        return cls(values["prompt"], values["completion"], values.get("choice"))


@dataclass(frozen=True)
class Example:
    """What is trained on and scored: all texts rendered.

    `prompt` is a text without spaces at its end (they stand at the start of `completion` and `choices`, where
    tokenizers and lm-eval want them), or for chat the messages before the last. `choices` are the candidate
    completions and `answer` the right one's index; () and None where there are none.
    """

    prompt: str | list[Message]
    completion: str
    choices: tuple[str, ...] = ()
    answer: int | None = None
    group: str = ""
    source: str = ""


# Whole answers instead of letters: a model as small as the bundled one cannot tie a letter to its line.
ANSWER_TEXT = PromptTemplate(
    prompt="{% if context %}{{ context }}\n{% endif %}{{ question }}\nAnswer:",
    completion=" {{ choices[answer] }}",
    choice=" {{ choices[index] }}",
)

MULTIPLE_CHOICE = PromptTemplate(
    prompt=(
        "{% if context %}{{ context }}\n\n{% endif %}{{ question }}\n"
        "{% for choice in choices %}{{ letters[loop.index0] }}. {{ choice }}\n{% endfor %}Answer:"
    ),
    completion=" {{ letters[answer] }}",
    choice=" {{ letters[index] }}",
)
REASONING = PromptTemplate(prompt="Question: {{ question }}\nAnswer:", completion=" {{ answer }}")


def make_example(template: PromptTemplate, row: Row) -> Example:
    """Render one row. Raises `ConfigError` for a template that fails, `DataError` for an empty completion."""
    names = dict(row)
    candidates = names.get("choices", names.get("labels", []))
    names["letters"] = list(LETTERS[: len(candidates)])
    source = str(row.get("source", ""))
    completion = render("completion_template", template.completion, names)
    choices = _render_choices(template.choice, names, len(candidates))
    prompt: str | list[Message] = render("prompt_template", template.prompt, names)
    if "messages" in row:
        prompt = [dict(turn) for turn in row["messages"][:-1]]
    if isinstance(prompt, str):
        text, spaces = split_trailing_space(prompt)
        prompt, completion, choices = text, spaces + completion, tuple(spaces + one for one in choices)
    for text in (completion, *choices):
        if not text.strip():
            raise DataError(explain(f"rendering {source}", "the completion is empty", "Fill in the answer"))
    answer = row.get("answer", row.get("label")) if choices else None
    return Example(prompt, completion, choices, answer, str(row.get("group", "")), source)


def split_trailing_space(prompt: str) -> tuple[str, str]:
    """(prompt without the white space at its end, that white space)."""
    text = prompt.rstrip()
    return text, prompt[len(text) :]


def _render_choices(choice: str | None, names: Row, count: int) -> tuple[str, ...]:
    if choice is None:
        return ()
    return tuple(render("choice_template", choice, {**names, "index": index}) for index in range(count))


def render(name: str, source: str, names: Mapping[str, Any]) -> str:
    """Render one template. Raises `ConfigError` that names the template and what it lacks."""
    asked = f"rendering {name} for {names.get('source') or 'a row'}"
    try:
        return _compiled(name, source)(names)
    except jinja2.UndefinedError as error:
        there = [key for key in names if key != "source"]
        hint = nearest(str(error).split("'")[1] if "'" in str(error) else "", there)
        raise ConfigError(explain(asked, str(error), f"{hint}A row has {listed(there)}")) from error
    except jinja2.TemplateError as error:  # the sandbox's refusals are among them
        raise ConfigError(explain(asked, str(error), f"Correct {name}")) from error
    except (TypeError, ValueError, ArithmeticError, LookupError, AttributeError) as error:
        found = f"{type(error).__name__}: {error}"
        raise ConfigError(explain(asked, found, f"Correct {name}")) from error


@lru_cache(maxsize=256)
def _compiled(name: str, source: str) -> Callable[[Mapping[str, Any]], str]:
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        undefined=jinja2.StrictUndefined, keep_trailing_newline=True, autoescape=False
    )
    try:
        return environment.from_string(source).render
    except jinja2.TemplateSyntaxError as error:
        found = f"line {error.lineno}: {error.message}"
        raise ConfigError(explain(name, found, "Correct the template; it is jinja2")) from error
