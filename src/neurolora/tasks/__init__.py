"""Files in, examples out: data, prompts and tokens of every task.

Room: tasks. Training, evaluation and the commands call it. It reads data files, the hub by name, and the
embedded world; it writes one file, `neurolora_task.json`, into the folder it is told.
"""

from neurolora.tasks.collator import CompletionCollator
from neurolora.tasks.encoding import (
    IGNORED,
    EncodedPair,
    EncodingReport,
    completion_fits,
    encode,
    encode_all,
    encode_example,
    encode_pair,
    encode_prompt,
    prompt_text,
)
from neurolora.tasks.records import LETTERS, Row
from neurolora.tasks.registry import (
    TASKS,
    load_examples,
    load_rows,
    pin_labels,
    task_named,
    template_of,
)
from neurolora.tasks.request import SPLITS, TaskRequest
from neurolora.tasks.saved import TASK_FILE, SavedTask, read_task, save_task
from neurolora.tasks.task import Task
from neurolora.tasks.template import Example, PromptTemplate, make_example
from neurolora.tasks.tokens import encode_text, prepare_tokenizer
from neurolora.tasks.unlabelled import load_unlabelled

__all__ = [
    "IGNORED",
    "LETTERS",
    "SPLITS",
    "TASKS",
    "TASK_FILE",
    "CompletionCollator",
    "EncodedPair",
    "EncodingReport",
    "Example",
    "PromptTemplate",
    "Row",
    "SavedTask",
    "Task",
    "TaskRequest",
    "completion_fits",
    "encode",
    "encode_all",
    "encode_example",
    "encode_pair",
    "encode_prompt",
    "encode_text",
    "load_examples",
    "load_rows",
    "load_unlabelled",
    "make_example",
    "pin_labels",
    "prepare_tokenizer",
    "prompt_text",
    "read_task",
    "save_task",
    "task_named",
    "template_of",
]
