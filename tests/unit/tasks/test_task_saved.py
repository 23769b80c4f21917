"""The task file beside an adapter."""

import json
import re

import pytest

from neurolora.errors import AdapterError, ConfigError
from neurolora.tasks import (
    TASK_FILE,
    TASKS,
    PromptTemplate,
    TaskRequest,
    read_task,
    save_task,
    template_of,
)

FULL = TaskRequest(
    "text",
    "data/x.csv",
    dataset_config="c",
    prompt_template="{{ sentence }} äöü\n",
    limit=5,
    seed=3,
    columns={"sentence": "text"},
    labels=("no", "yes"),
    validation_fraction=0.1,
    test_fraction=0.2,
)


def test_what_is_saved_is_what_is_read(tmp_path):
    save_task(tmp_path / "adapter", FULL)
    saved = read_task(tmp_path / "adapter")
    assert saved.template == template_of(FULL)
    assert template_of(saved.request) == saved.template
    kept = {key: value for key, value in FULL.to_dict().items() if not key.endswith("_template")}
    assert {key: saved.request.to_dict()[key] for key in kept} == kept


@pytest.mark.parametrize("name", TASKS)
def test_every_task_can_be_saved(tmp_path, name):
    save_task(tmp_path, TaskRequest(name))
    assert template_of(read_task(tmp_path).request) == TASKS[name].template


def test_a_saved_prompt_outlives_a_change_of_the_tasks_own(tmp_path):
    save_task(tmp_path, TaskRequest("gsm8k"), PromptTemplate("old {{ question }}", "{{ answer }}"))
    saved = read_task(tmp_path)
    assert (
        saved.template == template_of(saved.request) == PromptTemplate("old {{ question }}", "{{ answer }}")
    )


TEMPLATE = {"prompt": "p", "completion": "c"}


def content(request, template=TEMPLATE):
    return json.dumps({"format": 1, "template": template, "request": request})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "is not JSON"),
        ("[]", "not one that this version knows"),
        ('{"format": 99}', "not one that this version knows"),
        (content({"taks": "x"}), "unknown key 'taks'. Did you mean 'task'"),
        (content({"task": "gsm"}), "unknown task"),
        (content({"task": "gsm8k"}, {"prompt": "p"}), "must be texts"),
        (content({}), "missing 1 required"),
        (content([1]), "a task request: it is a list"),
        (content({"task": "gsm8k"}, [1]), "a prompt template: it is a list"),
        (content({"task": "gsm8k", "limit": "x"}), "a task request"),
        (content({"task": 3}), "unknown task 3"),
        (content({"task": "gsm8k", "columns": None}), "columns: it is null"),
    ],
)
def test_a_damaged_file_is_an_adapter_error(tmp_path, text, said):
    (tmp_path / TASK_FILE).write_text(text)
    with pytest.raises(AdapterError, match=re.escape(said)) as caught:
        read_task(tmp_path)
    assert str(tmp_path / TASK_FILE) in str(caught.value)


def test_a_missing_file_says_what_to_do(tmp_path):
    with pytest.raises(AdapterError, match="does not say what it was trained on"):
        read_task(tmp_path)


def test_requests_to_and_from_dict():
    assert TaskRequest.from_dict(json.loads(json.dumps(FULL.to_dict()))) == FULL
    with pytest.raises(ConfigError, match=r"unknown key 'sed'\. Did you mean 'seed'"):
        TaskRequest.from_dict({"task": "gsm8k", "sed": 1})
