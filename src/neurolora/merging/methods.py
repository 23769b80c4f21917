"""The ways of merging and the numbers they take, as rows; and whether a request fits its row.

Room: merging. A row has a way for routed adapters and one for plain LoRA; a way's `assemble` makes the whole
adapter out of its opened parents, and its `checks` name what these must have in common. Most routed ones go
tensor by tensor (`by_tensor.py`, with a function of `arithmetic.py`); `concat` puts adapters side by side.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from neurolora.adapter_file import LORA
from neurolora.errors import ConfigError, did_you_mean, itemised
from neurolora.merging import arithmetic
from neurolora.merging.by_tensor import Assembled, assemble_by_tensor
from neurolora.merging.checks import HEADS
from neurolora.merging.concat import assemble_side_by_side
from neurolora.merging.gates import GATES
from neurolora.merging.knobs import KNOBS
from neurolora.merging.lora import assemble_lora
from neurolora.merging.request import MergeRequest

if TYPE_CHECKING:
    from neurolora.adapter_reader import AdapterReader
    from neurolora.merging.by_tensor import Job

DTYPES = ("float32", "bfloat16", "float16")


_OF_ALL = ("method", "complete", "modules", "base", "tokenizer", HEADS)
_OF_ROUTED = (*_OF_ALL, "gate", "top_k", "routing")


@dataclass(frozen=True)
class Way:
    """How a method makes the merged tensors and config of a job; the checks that the parents must pass."""

    assemble: Callable[[Job], Assembled]
    checks: tuple[str, ...]


class Ways(NamedTuple):
    """A method's way for either family of adapters."""

    routed: Way
    lora: Way


@dataclass(frozen=True)
class Method:
    """One way of merging.

    normalize: the default of that knob. least, most: how many adapters it takes.
    """

    name: str
    about: str
    source: str
    knobs: tuple[str, ...]
    ways: Ways
    normalize: bool = False
    least: int = 1
    most: int | None = None

    def way(self, sources: Sequence[AdapterReader]) -> Way:
        """The way for opened parents, by the first of them."""
        return self.ways.lora if sources[0].config["peft_type"] == LORA else self.ways.routed


def _ways(combine: Callable[..., Any], *, is_weighted_sum: bool = False) -> Ways:
    """Entry by entry: of B where A is shared, of the true deltas of LoRA."""
    of_lora = partial(assemble_lora, combine, is_weighted_sum=is_weighted_sum)
    checks = (*_OF_ROUTED, "ranks", "shapes", "A")
    return Ways(Way(partial(assemble_by_tensor, combine), checks), Way(of_lora, _OF_ALL))


_ROWS = (
    Method(
        "linear",
        "the weighted mean",
        "model soups, arXiv 2203.05482; mergekit `linear`",
        ("weight", "normalize"),
        _ways(arithmetic.linear, is_weighted_sum=True),
        normalize=True,
    ),
    Method(
        "task_arithmetic",
        "the weighted sum, times lambda",
        "arXiv 2212.04089; PEFT and mergekit `task_arithmetic`",
        ("weight", "lambda", "normalize"),
        _ways(arithmetic.task_arithmetic, is_weighted_sum=True),
    ),
    Method(
        "ties",
        "largest entries; a vote on the sign; the mean of those that agree",
        "arXiv 2306.01708; PEFT `ties`, with normalize mergekit's",
        ("weight", "density", "lambda", "normalize"),
        _ways(arithmetic.ties),
    ),
    Method(
        "dare_linear",
        "a random part of each, rescaled; the weighted sum",
        "arXiv 2311.03099; PEFT and mergekit `dare_linear`",
        ("weight", "density", "lambda", "normalize", "seed"),
        _ways(arithmetic.dare_linear),
    ),
    Method(
        "dare_ties",
        "a random part of each, rescaled; a vote on the sign; the mean of those that agree",
        "arXiv 2311.03099; PEFT `dare_ties`, with normalize mergekit's",
        ("weight", "density", "lambda", "normalize", "seed"),
        _ways(arithmetic.dare_ties),
    ),
    Method(
        "magnitude_prune",
        "the largest entries of each; the weighted sum",
        "PEFT `magnitude_prune`",
        ("weight", "density", "lambda", "normalize"),
        _ways(arithmetic.magnitude_prune),
    ),
    Method(
        "slerp",
        "a place on the arc between two adapters",
        "mergekit `slerp`",
        ("t",),
        _ways(arithmetic.slerp),
        least=2,
        most=2,
    ),
    Method(
        "concat",
        "side by side: the exact weighted sum of outputs, whatever the A of each",
        "docs/method.md, blocks; PEFT `cat` for LoRA",
        ("weight", "lambda", "normalize"),
        Ways(
            Way(assemble_side_by_side, (*_OF_ROUTED, "block_ranks")),
            _ways(arithmetic.task_arithmetic, is_weighted_sum=True).lora,
        ),
    ),
)
METHODS = {row.name: row for row in _ROWS}


@dataclass(frozen=True)
class Problem:
    """What is wrong with a request, and its place in mergekit's layout (`parameters.lambda`)."""

    place: str
    text: str

    def __str__(self) -> str:
        return f"{self.place}: {self.text}"


def require_sound(request: MergeRequest) -> Method:
    """The request's row. Raises ConfigError with everything that is wrong with the request."""
    problems = find_problems(request)
    if problems:
        raise ConfigError(message("merging adapters", [str(problem) for problem in problems]))
    return METHODS[request.method]


def remarks(request: MergeRequest) -> tuple[str, ...]:
    """What somebody who comes from mergekit should know of a sound request."""
    weights = {1.0 if parent.weight is None else parent.weight for parent in request.parents}
    if request.method != "ties" or request.normalize is not None or weights == {1.0}:
        return ()
    return (
        "ties: the weights scale the result, as in PEFT; mergekit divides by the sum of those that agree, as "
        "`normalize: true` does here",
    )


def message(asked: str, problems: Sequence[str]) -> str:
    """One message for all problems."""
    return f"{asked}: {itemised(problems)}\nCorrect each of them."


def find_problems(request: MergeRequest) -> list[Problem]:
    """Everything that is wrong with a request before any file is read; empty if nothing is."""
    row = METHODS.get(request.method)
    if row is None:
        known = f"known are {', '.join(METHODS)}"
        text = f"there is no {request.method!r}{did_you_mean(request.method, METHODS)}; {known}"
        return [Problem("merge_method", text)]
    return [*_wrong_count(row, request), *_wrong_numbers(row, request), *_wrong_words(row, request)]


def _wrong_count(row: Method, request: MergeRequest) -> list[Problem]:
    count = len(request.parents)
    if count >= row.least and (row.most is None or count <= row.most):
        return []
    wanted = f"{row.least}" if row.least == row.most else f"at least {row.least}"
    return [Problem("models", f"{row.name} takes {wanted}, found {count}")]


def _wrong_numbers(row: Method, request: MergeRequest) -> list[Problem]:
    return [
        Problem(place, text)
        for place, name, value in _given_numbers(request)
        if (text := _wrong_number(row, name, value)) is not None
    ]


def _wrong_number(row: Method, name: str, value: Any) -> str | None:
    if name not in row.knobs:
        return f"{row.name} takes no {name}, only {', '.join(row.knobs)}"
    return KNOBS[name].problem(value)


def _given_numbers(request: MergeRequest) -> list[tuple[str, str, Any]]:
    """(place, name, value) of every number that was given."""
    given = [
        ("parameters", "lambda", request.lambda_),
        ("parameters", "normalize", request.normalize),
        ("parameters", "seed", request.seed),
        ("parameters", "t", request.t),
    ]
    for index, parent in enumerate(request.parents):
        place = f"models.{index}.parameters"
        given += [(place, "weight", parent.weight), (place, "density", parent.density)]
    return [(f"{place}.{name}", name, value) for place, name, value in given if value is not None]


def _wrong_words(row: Method, request: MergeRequest) -> list[Problem]:
    problems = []
    if request.dtype not in (None, *DTYPES):
        problems.append(Problem("dtype", f"must be one of {', '.join(DTYPES)}, found {request.dtype!r}"))
    if request.gates not in GATES:
        text = f"must be one of {', '.join(GATES)}, found {request.gates!r}"
        problems.append(Problem("parameters.gates", text))
    elif request.gates != "average" and row.name == "concat":
        problems.append(Problem("parameters.gates", "concat keeps every gate as it is"))
    return problems
