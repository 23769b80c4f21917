"""What has changed from one document to another."""

from __future__ import annotations

from typing import Any

import pytest

from neurolora.checks import changes


@pytest.mark.parametrize(
    ("before", "now", "told"),
    [
        ({"a": 1}, {"a": 1}, []),
        ({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3}}, ["x.a.c was 2, is 3"]),
        ({"a": 1}, {"b": 1}, ["x.a was 1, is None", "x.b was None, is 1"]),
        ([1, {"w": 1.0}], [1, {"w": 2.0}], ["x[1].w was 1.0, is 2.0"]),
        ([1, 2], [1], ["x was [1, 2], is [1]"]),
        (None, {"a": 1}, ["x was None, is {'a': 1}"]),
    ],
)
def test_only_what_differs_is_told(before: Any, now: Any, told: list[str]) -> None:
    assert changes(before, now, "x") == told
