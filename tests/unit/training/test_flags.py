"""Words of the command line as overrides."""

from __future__ import annotations

import shlex
from typing import Any

import pytest

from neurolora.errors import ConfigError
from neurolora.training.flags import parse_flags


@pytest.mark.parametrize(
    ("words", "file", "overrides"),
    [
        ("run.yaml --learning-rate 1e-4", "run.yaml", {"learning_rate": "1e-4"}),
        ("--learning_rate=0.1 run.yaml", "run.yaml", {"learning_rate": 0.1}),
        ("--bf16 run.yaml", "run.yaml", {"bf16": True}),
        ("--bf16 false run.yaml", "run.yaml", {"bf16": False}),
        ("--no-bf16", None, {"bf16": False}),
        ("--adapter.r 16", None, {"adapter.r": 16}),
        ("--target-modules q_proj v_proj run.yaml", "run.yaml", {"target_modules": ["q_proj", "v_proj"]}),
        ("--target-modules q_proj,v_proj", None, {"target_modules": ["q_proj", "v_proj"]}),
        ("--target-modules '[q_proj, v_proj]'", None, {"target_modules": ["q_proj", "v_proj"]}),
        ("--target-modules '.*(q|v){1,2}_proj'", None, {"target_modules": ".*(q|v){1,2}_proj"}),
        ("--target-modules all-linear", None, {"target_modules": "all-linear"}),
        ("--max-steps -1", None, {"max_steps": -1}),
        ("--task 5", None, {"task": "5"}),
        ("--prompt-template '{{question}}: '", None, {"prompt_template": "{{question}}: "}),
        ("--columns '{sentence: text}'", None, {"columns": {"sentence": "text"}}),
        ("--gate none --init-weights gaussian", None, {"gate": "none", "init_weights": "gaussian"}),
        ("--init-weights false", None, {"init_weights": False}),
        ("--save-projection --seed 3", None, {"save_projection": True, "seed": 3}),
        ("--unknown 3 run.yaml", "run.yaml", {"unknown": 3}),
        ("", None, {}),
    ],
)
def test_flags(words: str, file: str | None, overrides: dict[str, Any]) -> None:
    assert parse_flags(shlex.split(words)) == (file, overrides)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--learning-rate", "--learning-rate: it has no value"),
        ("--seed --bf16", "--seed: it has no value"),
        ("a.yaml b.yaml", "a.yaml and then b.yaml"),
    ],
)
def test_words_that_make_no_setting(words: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_flags(shlex.split(words))
