"""The one number of a task: rows that a model's window cannot hold are left out, and counted."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from neurolora.errors import DataError
from neurolora.evaluation import answer_token_loss
from neurolora.evaluation.task_scores import task_score
from neurolora.tasks import Example, TaskRequest

LONG = " apples" * 300  # longer than the tiny model's window of 256 tokens


def request_of(folder: Path, completions: list[str]) -> TaskRequest:
    rows = [{"prompt": "Tom has", "completion": text} for text in completions]
    text = "\n".join(json.dumps(row) for row in rows)
    for split in ("train", "test"):
        (folder / f"{split}.jsonl").write_text(text + "\n", encoding="utf-8")
    return TaskRequest("completion", str(folder))


def probability(model: Any, tokenizer: Any, request: TaskRequest) -> dict[str, Any]:
    loaded = SimpleNamespace(model=model, tokenizer=tokenizer)
    return task_score(loaded, request, metric="answer_probability", split="test", limit=None, batch_size=4)


def test_an_answer_beyond_the_window_is_left_out_and_counted(
    llama: Any, tokenizer: Any, tmp_path: Path
) -> None:
    found = probability(llama, tokenizer, request_of(tmp_path, [" 3 apples.", LONG, " 15."]))
    rest = [Example("Tom has", " 3 apples."), Example("Tom has", " 15.")]
    expected = 100 * math.exp(-float(answer_token_loss(llama, tokenizer, rest)))
    assert found["value"] == pytest.approx(expected, rel=1e-5)
    assert (found["n"], found["left_out"]) == (2, 1)


def test_where_all_fit_nothing_is_said(llama: Any, tokenizer: Any, tmp_path: Path) -> None:
    found = probability(llama, tokenizer, request_of(tmp_path, [" 3 apples.", " 15."]))
    assert found["n"] == 2
    assert "left_out" not in found


def test_no_answer_that_fits_is_an_error(llama: Any, tokenizer: Any, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no answer of its 2 rows fits into the model's window of 256"):
        probability(llama, tokenizer, request_of(tmp_path, [LONG, LONG]))
