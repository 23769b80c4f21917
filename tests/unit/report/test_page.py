import math

import pytest

from neurolora.errors import OutputError
from neurolora.report.page import ABSENT, environment, flatten, number, spell, write_page


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (10485760, "10,485,760"),
        (0.123456, "0.1235"),
        (1234567.8, "1,234,568"),
        (2.0, "2"),
        (math.nan, "nan"),
        (None, ABSENT),
        (True, "True"),
        ("text", "text"),
    ],
)
def test_numbers_are_spelled_for_people(value, expected):
    assert number(value) == expected


def test_values_are_spelled_in_one_line():
    assert spell([1, None, True]) == f"1, {ABSENT}, true"
    assert spell({"a": False}) == "a: false"
    assert spell([]) == ABSENT


def test_flatten_keeps_order_and_joins_names():
    rows = flatten({"b": {"y": {"z": 1}, "x": {}}, "a": None})
    assert rows == [("b.y.z", "1"), ("b.x", ABSENT), ("a", ABSENT)]


def test_everything_in_a_template_is_escaped():
    text = environment().from_string("{{ value }}").render(value="<script>\"'&")
    assert text == "&lt;script&gt;&#34;&#39;&amp;"


def test_a_page_that_cannot_be_written_is_an_output_error(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(OutputError, match="file"):
        write_page("base.html.j2", blocked / "page.html", {"title": "t", "subtitle": "s", "problems": []})
