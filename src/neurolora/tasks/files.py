"""Raw rows out of local files: JSON Lines, JSON, CSV, Parquet, each with the place it came from.

Room: tasks. Only `sources` and the task files call it; it reads the paths it is given, writes nothing.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from neurolora.errors import DataError, explain
from neurolora.tasks.records import Record, kind_of

SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")


def read_records(path: Path) -> list[Record]:
    """All rows of one file. Raises `DataError` for a file that is missing, empty, cut off or not UTF-8."""
    suffix = path.suffix.lower()
    if suffix in (".jsonl", ".ndjson"):
        records = list(_json_lines(path))
    elif suffix == ".json":
        records = list(_json_list(path))
    elif suffix in (".csv", ".tsv"):
        records = list(_csv_rows(path))
    elif suffix == ".parquet":
        records = read_parquet(path)
    else:
        raise DataError(
            explain(
                f"reading {path}", f"unknown kind of file {suffix!r}", f"Use one of {', '.join(SUFFIXES)}"
            )
        )
    if not records:
        raise DataError(explain(f"reading {path}", "it has no rows", "Give a file with at least one row"))
    return records


def read_utf8(path: Path) -> str:
    """The file's text, without a byte-order mark and with newlines as they are."""
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise DataError(explain(f"reading {path}", "there is no such file", "Check the path")) from error
    except OSError as error:
        reason = error.strerror or str(error)
        raise DataError(explain(f"reading {path}", reason, "Check the path and its permissions")) from error
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        found = f"line {line} is not UTF-8 (byte 0x{data[error.start]:02x} at offset {error.start})"
        raise DataError(explain(f"reading {path}", found, "Save the file as UTF-8")) from error
    if not text.strip():
        raise DataError(explain(f"reading {path}", "the file is empty", "Give a file with at least one row"))
    return text


def read_json(path: Path) -> Any:
    """The file as one JSON value. Raises `DataError` with line and column."""
    try:
        return json.loads(read_utf8(path))
    except json.JSONDecodeError as error:
        raise _not_json(path, error.lineno, error) from error
    except RecursionError as error:
        raise DataError(explain(f"reading {path}", "it is nested too deeply", "Check the file")) from error


def read_csv_cells(path: Path, delimiter: str = ",") -> Iterator[tuple[int, list[str]]]:
    """(line where the row begins, its cells); blank lines are left out."""
    reader = csv.reader(io.StringIO(read_utf8(path), newline=""), delimiter=delimiter, strict=True)
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            found = f"the row that begins on line {line} is not CSV ({error})"
            raise DataError(
                explain(f"reading {path}", found, "Check its quotes; the file may be cut off")
            ) from error
        if cells:
            yield line, cells


def read_parquet(path: Path) -> list[Record]:
    """Rows of a Parquet file; images stay as they are stored, nothing is decoded."""
    import pyarrow  # type: ignore[import-untyped]
    from pyarrow import parquet

    try:
        table = parquet.read_table(path)
    except (pyarrow.ArrowException, OSError) as error:
        found = f"it cannot be read as Parquet ({_first_line(error)})"
        raise DataError(explain(f"reading {path}", found, "Download it again; it may be cut off")) from error
    return [Record(values, str(path), f"row {n}") for n, values in enumerate(table.to_pylist(), 1)]


def parquet_labels(path: Path, column: str) -> tuple[str, ...] | None:
    """Names of a class-label column, which `datasets` writes into the file's own metadata."""
    import datasets
    from pyarrow import parquet

    features = datasets.Features.from_arrow_schema(parquet.read_schema(path))
    names = getattr(features.get(column), "names", None)
    return tuple(names) if names else None


def _json_lines(path: Path) -> Iterator[Record]:
    for number, line in enumerate(read_utf8(path).split("\n"), 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except json.JSONDecodeError as error:
            raise _not_json(path, number, error) from error
        yield Record(_object(value, path, f"line {number}"), str(path), f"line {number}")


def _json_list(path: Path) -> Iterator[Record]:
    rows = read_json(path)
    if not isinstance(rows, list):
        found = f"it holds {kind_of(rows)}, not a list of rows"
        raise DataError(explain(f"reading {path}", found, "Write a JSON list of objects, or JSON Lines"))
    lines = item_lines(read_utf8(path), len(rows))
    for number, value in enumerate(rows, 1):
        where = f"row {number} (line {lines[number - 1]})"
        yield Record(_object(value, path, where), str(path), where)


def item_lines(text: str, count: int) -> list[int]:
    """The line on which each of `count` items of the JSON list `text` begins."""
    decoder = json.JSONDecoder()
    position, line, seen, lines = text.index("[") + 1, 1, 0, []
    for _ in range(count):
        while text[position] in " \t\r\n,":
            position += 1
        line += text.count("\n", seen, position)
        seen = position
        lines.append(line)
        _, position = decoder.raw_decode(text, position)
    return lines


def _csv_rows(path: Path) -> Iterator[Record]:
    rows = read_csv_cells(path, "\t" if path.suffix.lower() == ".tsv" else ",")
    _, header = next(rows)
    for line, cells in rows:
        if len(cells) != len(header):
            found = f"line {line} has {len(cells)} columns, the header has {len(header)}: {', '.join(header)}"
            raise DataError(explain(f"reading {path}", found, "Quote texts that hold commas or newlines"))
        yield Record(dict(zip(header, cells, strict=True)), str(path), f"line {line}")


def _object(value: Any, path: Path, where: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        found = f"it is {kind_of(value)}, not an object"
        raise DataError(explain(f"reading {path}, {where}", found, 'Write each row as {"field": value, ...}'))
    return value


def _not_json(path: Path, line: int, error: json.JSONDecodeError) -> DataError:
    found = f"line {line}, column {error.colno} is not JSON ({error.msg})"
    return DataError(explain(f"reading {path}", found, "Correct that line; the file may be cut off"))


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
