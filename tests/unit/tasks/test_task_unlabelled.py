"""Files without answers: the fields that ask are read as ever, and no answer can leak."""

import json

import pytest

from neurolora.errors import ConfigError, DataError
from neurolora.tasks import TaskRequest, load_unlabelled


def written(tmp_path, rows, name="rows.jsonl"):
    path = tmp_path / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize(
    ("task", "row", "expected"),
    [
        (
            "world-recall",
            {"question": "q?", "choices": ["a", "b", "c"]},
            {"choices": ["a", "b", "c"], "answer": 0},
        ),
        ("scienceqa", {"question": "q?", "choices": ["a", "b"]}, {"choices": ["a", "b"], "answer": 0}),
        ("gsm8k", {"question": "q?"}, {"question": "q?"}),
        ("completion", {"prompt": "p"}, {"prompt": "p"}),
    ],
)
def test_rows_without_answers_become_rows(tmp_path, task, row, expected):
    (found,) = load_unlabelled(TaskRequest(task=task), written(tmp_path, [row]))
    assert {key: found[key] for key in expected} == expected


def test_an_answer_that_is_there_is_overwritten(tmp_path):
    path = written(tmp_path, [{"question": "q?", "choices": ["a", "b"], "answer": 1}])
    assert load_unlabelled(TaskRequest(task="world-recall"), path)[0]["answer"] == 0


def test_texts_keep_the_requests_labels_and_columns(tmp_path):
    path = written(tmp_path, [{"review": "good", "stars": "nonsense"}, {"review": "bad"}])
    request = TaskRequest(
        task="text", labels=("neg", "pos"), columns={"sentence": "review", "label": "stars"}, limit=1
    )
    (row,) = load_unlabelled(request, path)
    assert (row["sentence"], row["label"], row["labels"]) == ("good", 0, ["neg", "pos"])


def test_what_cannot_be_read_is_told(tmp_path):
    path = written(tmp_path, [{"choices": ["a", "b"]}])
    with pytest.raises(DataError, match=r"'question' of .*rows.jsonl, line 1"):
        load_unlabelled(TaskRequest(task="world-recall"), path)
    with pytest.raises(DataError, match="no such file"):
        load_unlabelled(TaskRequest(task="world-recall"), tmp_path / "nothing.jsonl")
    with pytest.raises(ConfigError, match="labels are not known"):
        load_unlabelled(TaskRequest(task="text"), path)
    with pytest.raises(ConfigError, match="chat"):
        load_unlabelled(TaskRequest(task="chat"), path)
