"""The cells of all studies on disk: what is done is read, what is missing is run, in several processes.

Room: studies. Whoever reproduces opens one book in a folder, and the kinds of studies ask it for results. A
cell is done if its record is there, whole, and made by the code of now; others count only where that was
asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from neurolora.errors import NeuroLoraError, OutputError, TrainingError, explain
from neurolora.studies.cells import Cell
from neurolora.studies.code import ROOMS, code_fingerprint, code_on_disk
from neurolora.studies.work import DIVERGED, RECORD, do_work, has_weights, read_record
from neurolora.studies.workers import workers

Record = dict[str, Any]
#: Told what is being done, how much of it is done, and of how much.
Progress = Callable[[str, int, int], None]


def _untold(what: str, done: int, of: int) -> None:
    """Nobody listens."""


@dataclass
class Book:
    """The cells in a folder. jobs: processes at once. accept_older: take records of other code as they are.

    older: the keys of such records that were taken, those included that a score or merge was built on. used:
    the records of all cells that were asked for, whether run or read.
    """

    folder: Path
    jobs: int = 1
    accept_older: bool = False
    progress: Progress = _untold
    older: set[str] = field(default_factory=set)
    used: dict[str, Record] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for kind in ROOMS:  # now, and not hours later, when the first cell of a kind is asked for
            code_fingerprint(kind)

    def place(self, cell: Cell) -> Path:
        """The folder of a cell."""
        return self.folder / cell.key

    def read(self, cell: Cell) -> Record | None:
        """The record of a cell that is done; a training run whose weights are gone is not."""
        record = read_record(self.place(cell))
        if record is None:
            return None
        if cell.kind == "train" and DIVERGED not in record and not has_weights(self.place(cell)):
            return None
        if older := _of_other_code(record, cell):
            if not self.accept_older:
                return None
            self.older |= older
        return record

    def run(self, cells: Sequence[Cell], what: str) -> dict[str, Record]:
        """The records of all cells by key; what is missing is run first, parents before those who need them.

        Raises the first error of a cell, with its name, after the others that run have ended.
        """
        found = {cell.key: (cell, self.read(cell)) for cell in cells}
        done = {key: record for key, (_, record) in found.items() if record is not None}
        missing = {key: cell for key, (cell, record) in found.items() if record is None}
        parents = [parent for cell in missing.values() for parent in cell.parents]
        if parents:
            self.run(parents, f"{what}, training" if parents[0].kind == "train" else what)
        self.progress(what, len(done), len(found))
        for key, record in self._do(missing):
            done[key] = record
            self.progress(what, len(done), len(found))
        self.used |= done
        return done

    def _do(self, cells: dict[str, Cell]) -> Iterator[tuple[str, Record]]:
        """Run cells, as many at once as there are jobs; yields each record as it is there."""
        jobs = {key: (cell, self.folder / key, self._parents(cell), code_fingerprint(cell.kind))
                for key, cell in cells.items()}  # fmt: skip
        if min(self.jobs, len(jobs)) <= 1:
            for key, job in jobs.items():
                yield key, _work(*job)
            return
        with workers(self.jobs) as pool:
            running = {pool.submit(_work, *job): key for key, job in jobs.items()}
            waiting = set(running)
            while waiting:
                ended, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                for future in ended:
                    yield running[future], _result(future)

    def _parents(self, cell: Cell) -> list[Path]:
        return [self.place(parent) for parent in cell.parents]


def _of_other_code(record: Record, cell: Cell) -> set[str]:
    """The keys of the cell and of those it builds on, where other code than that of now has made them."""
    made = {told.get("key"): told.get("code") for told in (*record.get("built_on", []), record)}
    return {each.key for each in (cell, *cell.parents) if made.get(each.key) != code_fingerprint(each.kind)}


def _work(cell: Cell, folder: Path, parents: list[Path], code: str) -> Record:
    """`do_work` with the cell's name in front of whatever it says; by the code that the record names.

    Workers read the code as they start, hours after the command. Raises OutputError where it has changed.
    """
    try:
        _require_same_code(cell.kind, code)
        record = do_work(cell, folder, parents, code)
        _require_same_code(cell.kind, code, folder / RECORD)
    except NeuroLoraError as error:
        raise type(error)(f"{cell.name}: {error}") from error
    except RuntimeError as error:  # PyTorch's, as when a GPU's memory runs out
        raise TrainingError(f"{cell.name}: {error}") from error
    return record


def _require_same_code(kind: str, code: str, record: Path | None = None) -> None:
    """The files are still those of the fingerprint; else the record goes, as nobody knows what made it."""
    if code_on_disk(kind) == code:
        return
    if record is not None:
        record.unlink(missing_ok=True)
    found = "the code has changed since the command was given"
    do = "Give the command again: what is done and not touched by the change is kept"
    raise OutputError(explain("running a cell", found, do))


def _result(future: Future[Record]) -> Record:
    try:
        return future.result()
    except BrokenProcessPool as error:
        found = "the system ended one of the processes, as it does when memory runs out"
        do = "Give the command again with fewer --jobs: what is done is kept"
        raise TrainingError(explain("running cells", found, do)) from error
