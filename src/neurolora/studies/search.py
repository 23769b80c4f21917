"""Choosing a setting on validation rows, with seeds that no table counts: one rule for every method.

Room: studies; called by the kinds of studies. A learning rate starts from the scale's; its neighbours are
tried, then the next one for as long as the best lies at an end. Other settings start from the values that the
study gives, and go on in the same way; so does one value for several things, such as a rate for all tasks of
a stream. A value's score is the mean over the search's seeds. All that was tried stands in the result.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import mean
from typing import Any

from neurolora.studies.book import Book
from neurolora.studies.cells import Cell
from neurolora.studies.spec import Search

RATES_AT_FIRST = 3  # where a search of rates begins, and its two neighbours
Make = Callable[[float, int], Cell]  # the cell of a value and a seed


@dataclass
class Tried:
    """What was tried for one thing. scores: of each value, seed by seed. cells: what was run for them."""

    name: str
    scores: dict[float, list[float]] = field(default_factory=dict)
    cells: dict[float, list[Cell]] = field(default_factory=dict)

    @property
    def tried(self) -> dict[float, float]:
        """The mean score of each value."""
        return {value: mean(scores) for value, scores in self.scores.items()}

    @property
    def best(self) -> float:
        """The value with the best score, of equal ones the lowest.

        The first where all are equal, as nothing speaks for another; the one value where nothing was tried.
        """
        tried = self.tried
        if len(set(tried.values())) < 2:
            return next(iter(tried or self.cells))
        return min(tried, key=lambda value: (-tried[value], value))

    @property
    def at_an_end(self) -> bool:
        """Whether a better one may lie beyond what was tried."""
        return len(self.scores) > 1 and self.best in (min(self.scores), max(self.scores))

    def to_dict(self) -> dict[str, Any]:
        """As it stands in a result."""
        tried = [
            {"value": value, "score": score, "scores": self.scores[value]}
            for value, score in sorted(self.tried.items())
        ]
        return {"name": self.name, "tried": tried, "chosen": self.best, "at_an_end": self.at_an_end}


@dataclass
class Grid(Tried):
    """A search for one thing, which knows the cell of a value and a seed."""

    make: Make = field(kw_only=True)


@dataclass(frozen=True)
class Wanted:
    """A search that is asked for: its name, the cell of a value and a seed, and the values to begin with."""

    name: str
    make: Make
    values: Sequence[float]


Scoring = Callable[[dict[str, Any]], float]


def score_of(record: dict[str, Any]) -> float:
    """The mean of a record's scores."""
    values = [score["value"] for score in record["scores"].values()]
    return float(sum(values) / len(values))


def search_rates(book: Book, wanted: Sequence[Wanted], search: Search, what: str) -> list[Grid]:
    """A grid of learning rates for each, from its one value on, all searched side by side."""
    grids = [Grid(each.name, make=each.make) for each in wanted]
    if search.most == 1:  # nothing to choose: nothing is run
        for grid, each in zip(grids, wanted, strict=True):
            grid.cells[each.values[0]] = [each.make(each.values[0], seed) for seed in search.seeds]
        return grids
    _try(book, grids, [_first(each.values[0], search) for each in wanted], search, what)
    _past_ends(book, [[grid] for grid in grids], search, what, factor=search.factor)
    return grids


def search_values(
    book: Book, wanted: Sequence[Wanted], search: Search, what: str, score: Scoring = score_of
) -> list[Grid]:
    """A grid for each: the values that are given, and beyond an end as many as a search of rates may add."""
    grids = [Grid(each.name, make=each.make) for each in wanted]
    _try(book, grids, [list(each.values) for each in wanted], search, what, score)
    _past_ends(book, [[grid] for grid in grids], search, what, score)
    return grids


def search_together(
    book: Book, families: Mapping[str, Sequence[Grid]], search: Search, what: str
) -> list[Tried]:
    """For each family of grids of rates the one rate that is best on average.

    What was tried for one of a family is tried for all of it, and then what lies beyond an end, as for one.
    """
    if search.most > 1:
        grids = list(itertools.chain.from_iterable(families.values()))
        missing = [_missing(grid, family) for family in families.values() for grid in family]
        _try(book, grids, missing, search, what)
        _past_ends(book, list(families.values()), search, what, factor=search.factor)
    return [together(name, family) for name, family in families.items()]


def together(name: str, family: Sequence[Grid]) -> Tried:
    """The values that all of a family have, each with its seeds' mean scores."""
    first, *others = family
    scores = {
        value: [mean(of_seed) for of_seed in zip(*(grid.scores[value] for grid in family), strict=True)]
        for value in first.scores
        if all(value in grid.scores for grid in others)
    }
    cells = {
        value: [cell for grid in family for cell in grid.cells[value]]
        for value in first.cells
        if all(value in grid.cells for grid in others)
    }
    return Tried(name, scores, cells)


def _missing(grid: Grid, family: Sequence[Grid]) -> list[float]:
    """What was tried for others of the family and not for this one."""
    return sorted({value for other in family for value in other.scores} - set(grid.scores))


def _past_ends(
    book: Book,
    families: Sequence[Sequence[Grid]],
    search: Search,
    what: str,
    score: Scoring = score_of,
    factor: float | None = None,
) -> None:
    """While the best on average of a family lies at an end, one more value beyond it, up to `most`."""
    grids = list(itertools.chain.from_iterable(families))
    for _ in range(search.most - RATES_AT_FIRST):
        due = [_beyond(together("", family), factor) for family in families]
        if not any(due):
            break
        each = [values for family, values in zip(families, due, strict=True) for _ in family]
        _try(book, grids, each, search, what, score)


def _try(
    book: Book,
    grids: list[Grid],
    due: list[list[float]],
    search: Search,
    what: str,
    score: Scoring = score_of,
) -> None:
    """What is due of each grid, with every seed of the search, all side by side."""
    new = [(grid, value) for grid, values in zip(grids, due, strict=True) for value in values]
    for grid, value in new:
        grid.cells[value] = [grid.make(value, seed) for seed in search.seeds]
    found = book.run(list(itertools.chain.from_iterable(grid.cells[value] for grid, value in new)), what)
    for grid, value in new:
        grid.scores[value] = [score(found[cell.key]) for cell in grid.cells[value]]


def _first(start: float, search: Search) -> list[float]:
    around = (_rounded(rate) for rate in (start / search.factor, start * search.factor))
    return [start, *around][: search.most]


def _beyond(grid: Tried, factor: float | None) -> list[float]:
    """One more where the best lies at an end, none if it lies inside or a ratio leads nowhere from there (0).

    It is `factor` away; without one as far as the end's neighbour is, as a ratio.
    """
    if not grid.at_an_end:
        return []
    values = sorted(grid.scores)
    is_low = grid.best == values[0]
    end, neighbour = values[:2] if is_low else values[:-3:-1]
    if min(end, neighbour) <= 0:
        return []
    if factor is None:
        return [_rounded(end * end / neighbour)]
    return [_rounded(end / factor if is_low else end * factor)]


def _rounded(value: float) -> float:
    """Six digits, so that the same rate is the same number however it was reached."""
    digits = 5 - math.floor(math.log10(abs(value)))
    return round(value, digits)
