"""A user's text as an adapter was trained to see it: wrapped in the template of its task.

Room: evaluation. The command `generate` calls it; it touches nothing.
"""

from __future__ import annotations

import json
from typing import Any

from neurolora.errors import ConfigError, DataError, explain
from neurolora.tasks import LETTERS, TASKS, SavedTask
from neurolora.tasks.template import Message, render, split_trailing_space

#: Kind of task -> the field of its row that a plain text is.
MAIN_FIELDS = {
    "generation": "question",
    "multiple_choice": "question",
    "labelled_text": "sentence",
    "completion": "prompt",
}


def render_prompts(texts: list[str], task: SavedTask) -> list[str | list[Message]]:
    """Each text as a prompt of the saved task: rendered by its template, or as a chat's user turn.

    A text that is a JSON object is taken for the whole row, which multiple choice needs for its choices.
    Raises `DataError` for broken JSON, `ConfigError` for a row that lacks what the template names.
    """
    kind = TASKS[task.request.task].kind
    if kind == "chat":
        return [_turns(text) for text in texts]
    return [_render(row_of(text, kind, task), kind, task) for text in texts]


def row_of(text: str, kind: str, task: SavedTask) -> dict[str, Any]:
    """The canonical row that a text, or a JSON object, stands for."""
    row = _object(text) or {MAIN_FIELDS[kind]: text}
    if kind == "labelled_text" and task.request.labels is not None:
        row.setdefault("labels", list(task.request.labels))
    if kind == "multiple_choice":
        row.setdefault("context", "")
    return row


def _render(row: dict[str, Any], kind: str, task: SavedTask) -> str:
    if kind == "multiple_choice" and not isinstance(row.get("choices"), list):
        do = 'Give the prompt as JSON: {"question": "...", "choices": ["...", "..."]}'
        raise ConfigError(explain(f"a prompt for {task.request.task}", "it has no choices", do))
    candidates = row.get("choices", row.get("labels", []))
    names = {**row, "letters": list(LETTERS[: len(candidates)])}
    return split_trailing_space(render("prompt_template", task.template.prompt, names))[0]


def _turns(text: str) -> list[Message]:
    messages = (_object(text) or {}).get("messages")
    return messages if isinstance(messages, list) else [{"role": "user", "content": text}]


def _object(text: str) -> dict[str, Any] | None:
    if not text.lstrip().startswith("{"):
        return None
    try:
        value = json.loads(text)
    except ValueError as error:
        raise DataError(explain(f"the prompt {text[:40]!r}", f"{error}", "Correct the JSON")) from error
    return value if isinstance(value, dict) else None
