"""`neurolora_task.json`: the task and its prompt, saved beside the adapter that was trained with them.

Room: tasks. Training writes it, evaluation and generation read it, so that all use one prompt.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from neurolora.errors import AdapterError, ConfigError, DataError, explain
from neurolora.files import write_json
from neurolora.tasks.files import read_json
from neurolora.tasks.registry import task_named, template_of
from neurolora.tasks.request import TaskRequest
from neurolora.tasks.template import PromptTemplate

TASK_FILE = "neurolora_task.json"
FORMAT = 1


@dataclass(frozen=True)
class SavedTask:
    """What an adapter was trained on. `request` carries the template too, so it can be used as it is."""

    request: TaskRequest
    template: PromptTemplate


def save_task(folder: Path | str, request: TaskRequest, template: PromptTemplate | None = None) -> Path:
    """Write the task file into an adapter's folder. `template` defaults to the request's."""
    template = template_of(request) if template is None else template
    target = Path(folder) / TASK_FILE
    write_json(target, {"format": FORMAT, "request": request.to_dict(), "template": template.to_dict()})
    return target


def read_task(folder: Path | str) -> SavedTask:
    """Read it back. Raises `AdapterError` when it is missing or damaged."""
    path = Path(folder) / TASK_FILE
    asked = f"reading {path}"
    if not path.is_file():
        do = "Name the task and its templates yourself, or use an adapter trained with `neurolora train`"
        raise AdapterError(explain(asked, "the adapter does not say what it was trained on", do))
    try:
        values = read_json(path)
        if not isinstance(values, dict) or values.get("format") != FORMAT:
            raise ConfigError(
                explain("its format", "it is not one that this version knows", "Upgrade neurolora")
            )
        template = PromptTemplate.from_dict(values.get("template"))
        request = TaskRequest.from_dict(values.get("request"))
        task_named(request.task)
    except (ConfigError, DataError) as error:
        raise AdapterError(explain(asked, str(error), "Restore the file, or train again")) from error
    return SavedTask(_with_template(request, template), template)


def _with_template(request: TaskRequest, template: PromptTemplate) -> TaskRequest:
    """The request with the saved texts as overrides: new defaults must not change an old adapter."""
    chat = task_named(request.task).kind == "chat"
    values = request.to_dict() | {
        "prompt_template": None if chat else template.prompt,
        "completion_template": template.completion,
        "choice_template": template.choice,
    }
    return TaskRequest.from_dict(values)
