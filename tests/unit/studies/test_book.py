"""The book: what is done is not done again, what is stale is, and errors say whose they are."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from neurolora.errors import DataError, OutputError, TrainingError
from neurolora.studies import book as book_module
from neurolora.studies import work as work_module
from neurolora.studies.book import Book
from neurolora.studies.cells import Cell, Score
from neurolora.studies.code import code_fingerprint
from neurolora.studies.work import RECORD

WORLD = {"task": "world-sums"}


def cell(seed: int = 0, **changes: Any) -> Cell:
    work = {"model": {"model_name_or_path": "world"}, "data": WORLD, "train": {"seed": seed}, **changes}
    return Cell("score", f"cell {seed}", work, (Score("a", WORLD, "accuracy", "test", 10, 2),))


@pytest.fixture
def done(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the cells whose work is done, instead of doing it."""
    names: list[str] = []

    def work(cell: Cell, folder: Path, parents: list[Path], code: str) -> dict[str, Any]:
        if "fails" in cell.work:
            raise DataError("the data are gone")
        assert all((parent / RECORD).is_file() for parent in parents)
        names.append(cell.name)
        read = [json.loads((parent / RECORD).read_text()) for parent in parents]
        built_on = [{name: each[name] for name in ("key", "code")} for each in read]
        told = {"key": cell.key, "kind": cell.kind, "code": code, "built_on": built_on}
        record = {**told, "scores": {"a": {"value": 1.0}}}
        folder.mkdir(parents=True, exist_ok=True)
        (folder / RECORD).write_text(json.dumps(record))
        return record

    monkeypatch.setattr(book_module, "do_work", work)
    return names


def test_what_is_done_is_read(tmp_path: Path, done: list[str]) -> None:
    book = Book(tmp_path)
    assert book.run([cell(0), cell(1), cell(0)], "x").keys() == {cell(0).key, cell(1).key}
    assert done == ["cell 0", "cell 1"]
    Book(tmp_path).run([cell(1), cell(2)], "x")
    assert done == ["cell 0", "cell 1", "cell 2"]


def test_parents_come_first(tmp_path: Path, done: list[str]) -> None:
    child = Cell("merge", "child", {"method": "linear"}, cell().scores, (cell(0), cell(1)))
    Book(tmp_path).run([child], "x")
    assert done == ["cell 0", "cell 1", "child"]


def test_the_key_follows_everything_that_is_asked_for() -> None:
    keys = {
        cell(0).key,
        cell(1).key,
        cell(0, adapter={"method": "lora"}).key,
        cell(0, data={**WORLD, "max_length": 8}).key,
        Cell("train", "other name", cell(0).work, ()).key,
        Cell("score", "other name", cell(0).work, cell(0).scores, processes=2).key,
        Cell("merge", "x", {}, (), (cell(0),)).key,
        Cell("merge", "x", {}, (), (cell(1),)).key,
    }
    assert len(keys) == 8
    assert cell(0).key == Cell("score", "called otherwise", cell(0).work, cell(0).scores).key


def test_records_of_other_code_are_run_again_unless_they_are_accepted(
    tmp_path: Path, done: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Book(tmp_path).run([cell(0)], "x")
    for name in ("code_fingerprint", "code_on_disk"):
        monkeypatch.setattr(book_module, name, lambda kind: "changed")
    accepting = Book(tmp_path, accept_older=True)
    accepting.run([cell(0)], "x")
    assert (done, accepting.older) == (["cell 0"], {cell(0).key})
    Book(tmp_path).run([cell(0)], "x")
    assert done == ["cell 0", "cell 0"]
    assert json.loads((accepting.place(cell(0)) / RECORD).read_text())["code"] == "changed"


def test_what_builds_on_records_of_other_code_is_taken_only_where_that_was_asked_for(
    tmp_path: Path, done: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A score that was made anew of an adapter that was accepted as it was."""
    run = Cell("train", "run", {"model": {"model_name_or_path": "world"}, "data": WORLD})
    score = Cell("score", "score", {}, cell().scores, (run,))
    book = Book(tmp_path, accept_older=True)
    book.run([score], "x")
    path = book.place(score) / RECORD
    made = json.loads(path.read_text())
    now = code_fingerprint("train")
    for code, is_older in ((now, False), ("older", True)):
        path.write_text(json.dumps({**made, "built_on": [{"key": run.key, "code": code}]}))
        book.older.clear()
        assert book.read(score) is not None
        assert book.older == ({run.key} if is_older else set())
        assert (Book(tmp_path).read(score) is None) == is_older


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"key": 1}'])
def test_a_damaged_record_is_none(tmp_path: Path, done: list[str], damage: str) -> None:
    book = Book(tmp_path)
    book.run([cell(0)], "x")
    (book.place(cell(0)) / RECORD).write_text(damage)
    assert book.read(cell(0)) is None


def test_an_error_names_its_cell_and_keeps_its_kind(tmp_path: Path, done: list[str]) -> None:
    with pytest.raises(DataError, match="cell 7: the data are gone"):
        Book(tmp_path).run([cell(7, fails=True)], "x")


def test_an_error_of_pytorch_names_its_cell_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def work(*_: Any) -> Any:
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(book_module, "do_work", work)
    with pytest.raises(TrainingError, match="cell 7: out of memory"):
        Book(tmp_path).run([cell(7)], "x")


def test_progress_is_told_from_what_was_done_before(tmp_path: Path, done: list[str]) -> None:
    Book(tmp_path).run([cell(0)], "x")
    told: list[tuple[str, int, int]] = []
    Book(tmp_path, progress=lambda *what: told.append(what)).run([cell(0), cell(1), cell(2)], "rates")
    assert told == [("rates", 1, 3), ("rates", 2, 3), ("rates", 3, 3)]


def test_where_things_lie_does_not_count(tmp_path: Path) -> None:
    for place in ("one", "two"):
        folder = tmp_path / place
        folder.mkdir()
        (folder / "config.json").write_text("{}")
        (folder / "train.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
        (folder / "zero.json").write_text('{"stage": 2}')
    keys = {
        cell(
            0,
            model={"model_name_or_path": str(tmp_path / place)},
            train={"deepspeed": str(tmp_path / place / "zero.json")},
            output={"save_strategy": place},
        ).key
        for place in ("one", "two")
    }
    assert len(keys) == 1
    (tmp_path / "two" / "zero.json").write_text('{"stage": 3}')
    changed = cell(
        0,
        model={"model_name_or_path": str(tmp_path / "two")},
        train={"deepspeed": str(tmp_path / "two" / "zero.json")},
    )
    assert changed.key not in keys


def test_what_other_code_has_begun_is_thrown_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bool] = []

    def train(cell: Cell, folder: Path, parents: list[Path]) -> dict[str, Any]:
        seen.append((folder / "half").exists())
        (folder / "half").touch()
        if len(seen) < 3:
            raise DataError("stopped")
        return {"costs": {}, "size": {}}

    monkeypatch.setattr(work_module, "_train", train)
    run = Cell("train", "x", cell(0).work)
    for code in ("old", "old", "new"):
        with contextlib.suppress(DataError):
            work_module.do_work(run, tmp_path / "x", [], code)
    assert seen == [False, True, False]


def test_a_record_calls_the_code_changed_and_not_the_checkout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The result of the first study lies in the checkout while the cells of the second are run."""
    monkeypatch.setattr(work_module, "_train", lambda *_: {"costs": {}, "size": {}})
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr(work_module, "git_state", lambda *_, **how: asked.append(how) or {"dirty": False})
    record = work_module.do_work(Cell("train", "x", cell(0).work), tmp_path / "x", [], "code")
    assert asked == [{"only_folder": True}]
    assert record["environment"]["git"] == {"dirty": False}


def test_a_run_whose_weights_are_gone_is_run_again_for_those_who_need_them(
    tmp_path: Path, done: list[str]
) -> None:
    run = Cell("train", "run", {"model": {"model_name_or_path": "world"}, "data": WORLD})
    score = Cell("score", "score", {}, cell().scores, (run,))
    book = Book(tmp_path)
    book.run([score], "x")
    assert book.run([score], "x").keys() == {score.key}
    assert done == ["run", "score"]
    assert book.read(run) is None


def test_no_record_names_code_that_did_not_make_it(
    tmp_path: Path, done: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody works on the code while hours of cells are run."""
    before = book_module.code_on_disk("score")
    book = Book(tmp_path)
    seen: list[str] = []

    def on_disk(kind: str) -> str:
        seen.append(kind)
        return before if len(seen) < 4 else "changed"

    monkeypatch.setattr(book_module, "code_on_disk", on_disk)
    with pytest.raises(OutputError, match=r"cell 1: .*the code has changed"):
        book.run([cell(0), cell(1)], "x")
    assert book.read(cell(0)) is not None
    assert book.read(cell(1)) is None


@pytest.mark.parametrize(
    ("work", "is_same"),
    [({"eval": {"batch_size": 2}}, True), ({"eval": {"limit": 2}}, False), ({"eval": {}}, True)],
)
def test_how_many_rows_are_scored_at_once_does_not_count(work: dict[str, Any], is_same: bool) -> None:
    one = {**cell().work, "tasks": [{"name": "a", "data": WORLD}]}
    keys = [
        Cell("stream", "x", {**one, "eval": {"split": "test", **each}}).key
        for each in ({"batch_size": 8}, work["eval"])
    ]
    assert (keys[0] == keys[1]) == is_same
