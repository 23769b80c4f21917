"""Choosing a value: where a search begins, where it goes on, when it ends."""

from __future__ import annotations

from typing import Any

import pytest

from neurolora.studies.search import Wanted, search_rates, search_values
from neurolora.studies.spec import Search
from neurolora.studies.streams import common_grid


class Fake:
    """A book whose cells score by a rule."""

    def __init__(self, rule: Any) -> None:
        self.rule, self.runs = rule, []  # type: ignore[var-annotated]

    def run(self, cells: list[Any], what: str) -> dict[str, Any]:
        self.runs.append(len(cells))
        return {cell.key: {"scores": {"a": {"value": self.rule(*cell.asked)}}} for cell in cells}


class Named:
    def __init__(self, value: float, seed: int) -> None:
        self.key = f"{value!r}, {seed}"
        self.asked = (value,) if seed == 100 else (value, seed)


def search(rule: Any, **changes: Any) -> Any:
    book = Fake(rule)
    wanted = [Wanted("x", Named, [1e-2])]  # type: ignore[arg-type]
    grids = search_rates(book, wanted, Search(**{"factor": 10.0, "most": 5, **changes}), "x")  # type: ignore[arg-type]
    return book, grids[0]


def test_a_best_in_the_middle_ends_the_search() -> None:
    book, grid = search(lambda rate: -abs(rate - 1e-2))
    assert sorted(grid.tried) == [1e-3, 1e-2, 1e-1]
    assert (grid.best, grid.at_an_end, book.runs) == (1e-2, False, [3])


def test_it_goes_on_past_an_end_until_the_best_lies_inside() -> None:
    book, grid = search(lambda rate: -abs(rate - 1e0))
    assert sorted(grid.tried) == [1e-3, 1e-2, 1e-1, 1.0, 10.0]
    assert (grid.best, grid.at_an_end, book.runs) == (1.0, False, [3, 1, 1])


def test_it_ends_at_the_most_and_says_that_it_stands_at_an_end() -> None:
    _, grid = search(lambda rate: -rate, most=4)
    assert sorted(grid.tried) == [1e-4, 1e-3, 1e-2, 1e-1]
    assert (grid.best, grid.at_an_end) == (1e-4, True)
    assert grid.to_dict()["at_an_end"] is True


def test_of_equal_values_the_lowest_is_taken() -> None:
    _, grid = search(lambda rate: 1.0, most=3)
    assert grid.best == 1e-3


def test_with_one_value_nothing_is_run() -> None:
    book, grid = search(lambda rate: 1.0, most=1)
    assert (book.runs, grid.best, grid.to_dict()["tried"]) == ([], 1e-2, [])


def test_with_several_seeds_the_best_mean_is_taken_not_the_luckiest() -> None:
    """A rate that is best with one seed and fails with another loses to one that does well with both."""

    def rule(rate: float, seed: int = 100) -> float:
        return {1e-3: 50.0, 1e-2: 80.0, 1e-1: 90.0 if seed == 100 else 40.0}[rate]

    book, grid = search(rule, seeds=[100, 7], most=3)
    assert (book.runs, grid.best, grid.tried[1e-1], grid.scores[1e-1]) == ([6], 1e-2, 65.0, [90.0, 40.0])
    assert grid.to_dict()["tried"][-1] == {"value": 1e-1, "score": 65.0, "scores": [90.0, 40.0]}
    assert [cell.key for cell in grid.cells[1e-2]] == ["0.01, 100", "0.01, 7"]
    assert search(rule, seeds=[100], most=3)[1].best == 1e-1


def test_values_that_are_given_are_all_tried() -> None:
    book = Fake(lambda value: -value)
    wanted = [Wanted("x", Named, [0.5, 1.0, 2.0])]  # type: ignore[arg-type]
    grid = search_values(book, wanted, Search(most=3), "x")[0]  # type: ignore[arg-type, call-arg]
    assert (sorted(grid.tried), grid.best) == ([0.5, 1.0, 2.0], 0.5)


@pytest.mark.parametrize(
    ("best", "tried"),
    [
        (1.0, [0.5, 1.0, 4.0]),
        (0.2, [0.125, 0.25, 0.5, 1.0, 4.0]),
        (1e9, [0.5, 1.0, 4.0, 16.0, 64.0]),
    ],
)
def test_past_an_end_values_go_on_as_rates_do(best: float, tried: list[float]) -> None:
    book = Fake(lambda value: -abs(value - best))
    wanted = [Wanted("x", Named, [0.5, 1.0, 4.0])]  # type: ignore[arg-type]
    grid = search_values(book, wanted, Search(most=5), "x")[0]  # type: ignore[arg-type, call-arg]
    assert sorted(grid.tried) == tried
    assert grid.at_an_end == (best == 1e9)


@pytest.mark.parametrize("values", [[0.0, 1.0, 4.0], [0.0, 1.0]])
@pytest.mark.parametrize("best", [0.0, 1e9])
def test_nothing_lies_beyond_zero_by_a_ratio(values: list[float], best: float) -> None:
    book = Fake(lambda value: -abs(value - best))
    wanted = [Wanted("x", Named, values)]  # type: ignore[arg-type]
    grid = search_values(book, wanted, Search(most=4), "x")[0]  # type: ignore[arg-type, call-arg]
    assert sorted(grid.tried) == values + ([16.0] if best and len(values) == 3 else [])


def test_the_common_rate_is_the_best_mean_among_rates_tried_everywhere() -> None:
    first = search(lambda rate: -abs(rate - 1e-2))[1]
    second = search(lambda rate: -2 * abs(rate - 1e0))[1]
    grid = common_grid("x", {"a": first, "b": second})
    assert (sorted(grid.tried), grid.best, grid.at_an_end) == ([1e-3, 1e-2, 1e-1], 1e-1, True)
    assert common_grid("x", {"a": search(lambda rate: 0.0, most=1)[1]}).best == 1e-2


def test_rates_are_the_same_numbers_however_they_are_reached() -> None:
    _, grid = search(lambda rate: rate, factor=3.0)
    assert pytest.approx(max(grid.tried)) == 0.27
    assert 0.27 in grid.tried
