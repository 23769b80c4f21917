"""Choosing a value: where a search begins, where it goes on, when it ends."""

from __future__ import annotations

import math
from typing import Any

import pytest

from neurolora.studies.search import Wanted, search_rates, search_together, search_values
from neurolora.studies.spec import Search


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
    _, grid = search(lambda rate: min(rate, 1e-2), most=3)
    assert (sorted(grid.tried), grid.best) == ([1e-3, 1e-2, 1e-1], 1e-2)


def test_where_all_are_equal_the_search_stays_where_it_began() -> None:
    """Nothing was learned at any of them, say: no reason to go down."""
    book, grid = search(lambda rate: 0.0)
    assert (book.runs, grid.best, grid.at_an_end) == ([3], 1e-2, False)


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


class Task:
    """The cells of one of two tasks."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, value: float, seed: int) -> Any:
        cell = Named(value, seed)
        cell.key, cell.asked = f"{self.name}, {cell.key}", (self.name, value)  # type: ignore[assignment]
        return cell


def common(rule: Any, most: int = 5) -> Any:
    """The rate that two tasks have in common, after a search for each; and what each run had to do."""
    book, asked = Fake(rule), Search(factor=10.0, most=most)  # type: ignore[call-arg]
    wanted = [Wanted(name, Task(name), [1e-2]) for name in ("a", "b")]
    family = search_rates(book, wanted, asked, "x")  # type: ignore[arg-type]
    return book, family, search_together(book, {"both": family}, asked, "x")[0]  # type: ignore[arg-type]


def test_for_the_common_rate_what_one_task_tried_is_tried_for_all() -> None:
    peaks = {"a": 1e-2, "b": 1e-1}
    book, family, grid = common(lambda task, rate: -abs(math.log10(rate / peaks[task])))
    assert sorted(family[1].tried) == [1e-3, 1e-2, 1e-1, 1.0]  # on past an end by itself
    assert sorted(family[0].tried) == [1e-3, 1e-2, 1e-1, 1.0]  # 1.0 for the sake of the other
    assert (book.runs, grid.best, grid.name) == ([6, 1, 1], 1e-2, "both")
    assert grid.tried[1e-1] == pytest.approx(-0.5)
    assert [cell.key for cell in grid.cells[1e-1]] == ["a, 0.1, 100", "b, 0.1, 100"]


def test_the_common_rate_goes_on_past_an_end_that_no_task_alone_had() -> None:
    scores = {
        "a": {1e-5: 0.0, 1e-4: 50.0, 1e-3: 0.0, 1e-2: 1.0, 1e-1: 0.0},
        "b": {1e-5: 0.0, 1e-4: 0.0, 1e-3: 5.0, 1e-2: 4.0, 1e-1: 0.0},
    }
    book, family, grid = common(lambda task, rate: scores[task][rate])
    assert (book.runs, grid.best, grid.at_an_end) == ([6, 1, 1, 2], 1e-4, False)
    assert [sorted(one.tried) for one in family] == [sorted(scores["a"]), sorted(scores["b"])]


def test_with_one_rate_the_common_one_is_that_and_nothing_is_run() -> None:
    book, _, grid = common(lambda task, rate: 0.0, most=1)
    assert (book.runs, grid.best, grid.tried) == ([], 1e-2, {})


def test_rates_are_the_same_numbers_however_they_are_reached() -> None:
    _, grid = search(lambda rate: rate, factor=3.0)
    assert pytest.approx(max(grid.tried)) == 0.27
    assert 0.27 in grid.tried
