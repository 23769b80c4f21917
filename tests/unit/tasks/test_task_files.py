"""Reading local files, and what is said about bad ones."""

import json
import re

import pytest

from neurolora.errors import DataError
from neurolora.tasks.files import item_lines, read_csv_cells, read_records

ROWS = [{"a": "one", "b": 1}, {"a": "zwei\nLinien, äöü", "b": 2}]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("x.jsonl", "\n".join(json.dumps(row) for row in ROWS) + "\n\n"),
        ("x.json", json.dumps(ROWS)),
        ("bom.json", "\ufeff" + json.dumps(ROWS, ensure_ascii=False)),
        ("crlf.jsonl", "\r\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS) + "\r\n"),
    ],
)
def test_json_files_give_their_rows_in_order(write, name, text):
    assert [dict(record.values) for record in read_records(write(name, text))] == ROWS


def test_csv_with_quotes_and_line_breaks_counts_lines_of_the_file(write):
    path = write("x.csv", 'a,b\none,1\n"zwei\nLinien, äöü",2\ndrei,3\n')
    records = read_records(path)
    assert [dict(r.values) for r in records] == [
        {"a": "one", "b": "1"},
        {"a": "zwei\nLinien, äöü", "b": "2"},
        {"a": "drei", "b": "3"},
    ]
    assert [r.where for r in records] == ["line 2", "line 3", "line 5"]


def test_a_unicode_line_separator_does_not_end_a_csv_row(write):
    path = write("x.csv", "a,b\none\u2028two,1\n")
    assert [dict(r.values) for r in read_records(path)] == [{"a": "one\u2028two", "b": "1"}]


def test_parquet_rows(tmp_path):
    from datasets import Dataset

    Dataset.from_list(ROWS).to_parquet(tmp_path / "x.parquet")
    records = read_records(tmp_path / "x.parquet")
    assert [dict(r.values) for r in records] == ROWS
    assert records[1].place.endswith("x.parquet, row 2")


def test_lines_of_items_in_a_pretty_printed_list(write):
    text = json.dumps([{"a": [1, 2]}, {"a": "]\n,["}, 3], indent=2)
    expected = [
        text[: text.index(part)].count("\n") + 1 for part in ('{\n    "a": [\n', '{\n    "a": "]', "3\n]")
    ]
    assert item_lines(text, 3) == expected
    rows = read_records(write("x.json", json.dumps(ROWS, indent=1)))
    assert [r.where for r in rows] == ["row 1 (line 2)", "row 2 (line 6)"]


def test_source_has_no_folders(write):
    record = read_records(write("deep/folder/x.jsonl", ROWS))[1]
    assert record.source == "x.jsonl, line 2"
    assert "deep" in record.place


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("empty.jsonl", "", "the file is empty"),
        ("blank.csv", " \n\n", "the file is empty"),
        ("header.csv", "a,b\n", "it has no rows"),
        ("none.json", "[]", "it has no rows"),
        ("cut.jsonl", '{"a": "one"}\n{"a": "tw', "line 2, column 7 is not JSON"),
        ("cut.json", '[{"a": "one"},\n {"a"', "line 2, column 6 is not JSON"),
        ("latin.jsonl", '{"a": "x"}\n{"a": "é"}\n'.encode("latin-1"), "line 2 is not UTF-8 (byte 0xe9"),
        ("latin.csv", "a,b\né,1\n".encode("latin-1"), "line 2 is not UTF-8"),
        ("number.jsonl", "3\n", "line 1: it is a whole number (3), not an object"),
        ("object.json", '{"a": 1}', "it holds an object, not a list of rows"),
        ("texts.json", '[{"a": 1}, "b"]', "row 2 (line 1): it is a text ('b'), not an object"),
        ("wide.csv", "a,b\n1,2\n1,2,3\n", "line 3 has 3 columns, the header has 2"),
        ("quote.csv", 'a,b\n1,"two\n3,4\n', "the row that begins on line 2 is not CSV"),
        ("cut.parquet", b"PAR1 and then nothing", "it cannot be read as Parquet"),
        ("deep.json", "[" * 100_000, "it is nested too deeply"),
        ("x.xlsx", "?", "unknown kind of file '.xlsx'"),
    ],
)
def test_a_bad_file_is_named_with_its_line(write, name, content, said):
    path = write(name, content)
    with pytest.raises(DataError, match=re.escape(said)) as caught:
        read_records(path)
    assert str(path) in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match="there is no such file"):
        read_records(tmp_path / "no.jsonl")


def test_csv_cells_keep_blank_cells_and_leave_out_blank_lines(write):
    assert list(read_csv_cells(write("x.csv", "a,,b\n\nc,d,\n"))) == [
        (1, ["a", "", "b"]),
        (3, ["c", "d", ""]),
    ]
