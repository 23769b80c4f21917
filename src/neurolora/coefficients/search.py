"""The search itself: which weights make a merge best, by a library's optimiser and within a budget.

Room: coefficients, its door. Never on a test split: what is chosen by rows cannot be judged by them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import minimize

from neurolora.coefficients.candidates import Candidates
from neurolora.coefficients.objectives import OBJECTIVES, Objective
from neurolora.errors import ConfigError, explain
from neurolora.merging import METHODS, MergeRequest
from neurolora.tasks import Example, load_examples, read_task

ROWS, BUDGET = 200, 30
LOW, HIGH = 0.0, 1.0  # above 1 a merge is sure of itself rather than right, and entropy likes that


@dataclass(frozen=True)
class Judged:
    """One set of weights, and what each objective says of its merge: mean over tasks, beside alone."""

    name: str
    weights: tuple[float, ...]
    scores: dict[str, float]


@dataclass(frozen=True)
class SearchResult:
    """The weights that were found, beside equal ones and (if asked for) those that labels would choose.

    objective: what was searched by. rows: of each task. evaluations: merges that were tried. trace: their
    weights and values, in order. compared: equal, found, and the oracle.
    """

    objective: str
    weights: tuple[float, ...]
    value: float
    evaluations: int
    rows: dict[str, int]
    split: str
    compared: tuple[Judged, ...]
    trace: tuple[tuple[tuple[float, ...], float], ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class _Rows:
    task: str
    examples: list[Example]


def search_weights(
    request: MergeRequest,
    objective: str = "validation",
    *,
    rows: int = ROWS,
    budget: int = BUDGET,
    split: str = "validation",
    batch_size: int = 32,
    oracle: bool = False,
    force: Iterable[str] = (),
    load: dict[str, Any] | None = None,
    progress: Callable[[int, float], None] = lambda done, best: None,
) -> SearchResult:
    """Weights in [0, 1], one for each parent, for which the merge is best on the parents' own tasks.

    Minimises the mean over tasks of the objective, each task's beside that of its parent alone (for
    "validation" the share of the right answers' probability that is lost, for "entropy" the ratio, for "mde"
    the distance), by SciPy's Nelder-Mead from equal weights, with at most `budget` merges. rows: of each
    task's `split`, at most.
    oracle: search by labels as well, to show what an objective without labels misses.

    Raises ConfigError for the test split, an unknown objective, a method without weights, or a budget that is
    too small; AdapterError and DataError from the parents and their data.
    """
    chosen = _require(request, objective, split, budget)
    tasks = _rows_of(request, split, rows)
    judge = _Judge(Candidates(request, force, load), tasks, batch_size)
    equal = (1.0 / len(tasks) if not METHODS[request.method].normalize else 1.0,) * len(tasks)
    found, trace = _minimise(judge, chosen, equal, budget, progress)
    named = {"equal": equal, "found": found}
    if oracle and chosen.needs_labels is False:
        named["oracle"], _ = _minimise(judge, OBJECTIVES["validation"], equal, budget, progress)
    compared = tuple(Judged(name, weights, judge.all_scores(weights)) for name, weights in named.items())
    return SearchResult(
        objective=objective,
        weights=found,
        value=min(value for _, value in trace),
        evaluations=len(trace),
        rows={row.task: len(row.examples) for row in tasks},
        split=split,
        compared=compared,
        trace=tuple(trace),
    )


def _require(request: MergeRequest, objective: str, split: str, budget: int) -> Objective:
    asked = "searching the weights of a merge"
    if split == "test":
        found, do = "the split is test", "Search on validation rows: test rows are for the final score alone"
        raise ConfigError(explain(asked, found, do))
    if objective not in OBJECTIVES:
        do = f"Use one of {', '.join(OBJECTIVES)}"
        raise ConfigError(explain(asked, f"there is no objective {objective!r}", do))
    method = METHODS.get(request.method)
    if method is None or "weight" not in method.knobs:
        do = f"Use one of {', '.join(name for name, row in METHODS.items() if 'weight' in row.knobs)}"
        raise ConfigError(explain(asked, f"the method {request.method} takes no weights", do))
    least = len(request.parents) + 2
    if budget < least:
        found = f"the budget is {budget} merges for {len(request.parents)} adapters"
        raise ConfigError(explain(asked, found, f"Give at least {least}"))
    return OBJECTIVES[objective]


def _rows_of(request: MergeRequest, split: str, rows: int) -> list[_Rows]:
    """Each parent's own task, on rows of the split."""
    found = []
    for parent in request.parents:
        saved = read_task(parent.path).request
        examples = load_examples(dataclasses.replace(saved, limit=rows), split)
        found.append(_Rows(saved.task, examples))
    return found


class _Judge:
    """Objectives of candidates; what each parent scores alone is measured once."""

    def __init__(self, candidates: Candidates, tasks: Sequence[_Rows], batch_size: int) -> None:
        self.candidates, self.tasks, self.batch_size = candidates, tasks, batch_size
        self._alone: dict[str, list[float]] = {}

    def __call__(self, weights: Sequence[float], *objectives: Objective) -> list[float]:
        """For each objective, the mean over tasks of its value beside that for the parent alone."""
        alone = [self.alone(objective) for objective in objectives]
        self.candidates.take(weights)
        return [self._beside(objective, own) for objective, own in zip(objectives, alone, strict=True)]

    def _beside(self, objective: Objective, alone: Sequence[float]) -> float:
        values = [self._measure(objective, row) for row in self.tasks]
        return float(np.mean([objective.beside(*pair) for pair in zip(values, alone, strict=True)]))

    def alone(self, objective: Objective) -> list[float]:
        """The objective of each parent alone on its own task: weight 1 for it and 0 for the others."""
        if objective.name not in self._alone:
            values = []
            for place, row in enumerate(self.tasks):
                self.candidates.take([float(place == other) for other in range(len(self.tasks))])
                values.append(self._measure(objective, row))
            self._alone[objective.name] = values
        return self._alone[objective.name]

    def all_scores(self, weights: Sequence[float]) -> dict[str, float]:
        """Every objective's value of one candidate."""
        return dict(zip(OBJECTIVES, self(weights, *OBJECTIVES.values()), strict=True))

    def _measure(self, objective: Objective, row: _Rows) -> float:
        model, tokenizer = self.candidates.model, self.candidates.tokenizer
        return objective.measure(model, tokenizer, row.examples, self.batch_size)


def _minimise(
    judge: _Judge,
    objective: Objective,
    start: tuple[float, ...],
    budget: int,
    progress: Callable[[int, float], None],
) -> tuple[tuple[float, ...], list[tuple[tuple[float, ...], float]]]:
    """The best weights that were tried, and all of them; ties go to the earlier."""
    trace: list[tuple[tuple[float, ...], float]] = []

    def value(weights: Any) -> float:
        point = tuple(float(weight) for weight in weights)
        trace.append((point, judge(point, objective)[0]))
        progress(len(trace), min(found for _, found in trace))
        return trace[-1][1]

    away = -0.3 if max(start) + 0.3 > HIGH else 0.3
    steps = np.vstack([start, *(np.array(start) + away * axis for axis in np.eye(len(start)))])
    minimize(
        value,
        np.array(start),
        method="Nelder-Mead",
        bounds=[(LOW, HIGH)] * len(start),
        options={"maxfev": budget, "initial_simplex": steps, "xatol": 1e-3, "fatol": 1e-4},
    )
    best = min(range(len(trace)), key=lambda place: (trace[place][1], place))
    return trace[best][0], trace
