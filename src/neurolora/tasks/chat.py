"""Chat: conversations whose last turn, the assistant's, is learned; the turns before it are the prompt.

Room: tasks. `registry` collects `TASK`; it touches nothing.
The tokenizer's own chat template makes the prompt, so `prompt_template` cannot be set.
"""

from __future__ import annotations

from typing import Any

from neurolora.tasks.naming import listed, nearest
from neurolora.tasks.records import Record, Row, kind_of, value_of
from neurolora.tasks.task import Task
from neurolora.tasks.template import Message, PromptTemplate

SAMPLE: Row = {
    "messages": [
        {"role": "user", "content": "What is the capital of Norway?"},
        {"role": "assistant", "content": "Oslo."},
    ]
}
ROLES = ("system", "developer", "user", "assistant", "tool")


def read_row(record: Record, labels: tuple[str, ...] = ()) -> Row:
    """`{"messages": [{"role", "content"}, ...]}` -> the same, checked to end with the assistant's turn."""
    column, turns = value_of(record, "messages")
    if not isinstance(turns, list) or not turns:
        found = "it is empty" if turns == [] else f"it is {kind_of(turns)}"
        raise record.fail(column, found, 'Write a list of {"role", "content"}')
    messages = [_turn(record, f"{column}[{position}]", turn) for position, turn in enumerate(turns)]
    if all(message["role"] != "assistant" for message in messages):
        raise record.fail(column, "there is no assistant turn to learn", "End it with the assistant's answer")
    if messages[-1]["role"] != "assistant":
        found = f"it ends with the {messages[-1]['role']}'s turn"
        raise record.fail(column, found, "End it with the assistant's answer, which is what is learned")
    if not messages[-1]["content"].strip():
        raise record.fail(f"{column}[{len(messages) - 1}].content", "the answer is empty", "Fill it in")
    if len(messages) == 1:
        raise record.fail(column, "there is only the answer", "Begin with a system or user turn")
    return {"messages": messages, "source": record.source}


def _turn(record: Record, place: str, turn: Any) -> Message:
    if not isinstance(turn, dict):
        raise record.fail(place, f"it is {kind_of(turn)}, not an object", 'Write {"role", "content"}')
    for key in ("role", "content"):
        if not isinstance(turn.get(key), str):
            found = f"it is {kind_of(turn[key])}, not a text" if key in turn else "it is missing"
            raise record.fail(f"{place}.{key}", found, "Write a text")
    if turn["role"] not in ROLES:
        do = f"{nearest(turn['role'], ROLES)}Use one of {listed(ROLES)}"
        raise record.fail(f"{place}.role", f"unknown role {turn['role']!r}", do)
    return {"role": turn["role"], "content": turn["content"]}


TASK = Task(
    name="chat",
    kind="chat",
    reader=read_row,
    template=PromptTemplate(prompt="", completion="{{ messages[-1]['content'] }}"),
    sample=SAMPLE,
    fields=("messages",),
    source="the user's data",
    license="the user's data",
)
