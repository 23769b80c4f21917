"""Perturbed versions of a known set, as rows: what calibrates an accuracy estimator on text.

Room: estimation. Studies and the commands call `perturb_rows`. Each perturbation is a function of the text, a
strength in [0, 1] and a seed, and of nothing else: not of other rows, their order, or the process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Any, Literal

from neurolora.errors import ConfigError, DataError, did_you_mean, explain
from neurolora.estimation import text_noise

# Written here because no library that was found serves: nlpaug and textattack bring in far more than this
# needs, augmenty is built on spaCy, augtxt draws from a global state, typo makes one slip a call; and none
# moves a gold index with its choice.

#: Fields of the tasks' rows that hold what a model reads, choices apart.
TEXT_FIELDS = ("sentence", "question", "context")


@dataclass(frozen=True)
class Perturbation:
    """One perturbation.

    kind: "text" changes texts by `change(text, strength, random)`, in the `fields` of a row; "choices" gives
    those of a multiple-choice row another order. source: who else does so.
    """

    name: str
    about: str
    source: str
    change: Callable[[str, float, Random], str] | None = None
    kind: Literal["text", "choices"] = "text"
    fields: tuple[str, ...] = TEXT_FIELDS


_NOISE = "synthetic noise, arXiv 1711.02173"
_EDA = "easy data augmentation, arXiv 1901.11196"
_ROWS = (
    Perturbation("typos", "slips of all four kinds, mixed", _NOISE, text_noise.typos),
    Perturbation(
        "typo_swaps", "neighbouring letters exchanged", _NOISE, partial(text_noise.typos, kinds=("swap",))
    ),
    Perturbation("typo_deletions", "letters left out", _NOISE, partial(text_noise.typos, kinds=("delete",))),
    Perturbation("typo_insertions", "letters too many", _NOISE, partial(text_noise.typos, kinds=("insert",))),
    Perturbation(
        "typo_substitutions", "the key beside it", _NOISE, partial(text_noise.typos, kinds=("substitute",))
    ),
    Perturbation("dropped_words", "words left out", _EDA, text_noise.dropped_words),
    Perturbation("swapped_words", "words exchanged in pairs", _EDA, text_noise.swapped_words),
    Perturbation(
        "shortened",
        "passages cut at the end, questions left whole",
        "length stress tests, arXiv 1806.00692",
        text_noise.shortened,
        fields=("sentence", "context"),
    ),
    Perturbation(
        "shuffled_choices",
        "choices in another order",
        "arXiv 2309.03882, on the bias of option places",
        kind="choices",
    ),
)
PERTURBATIONS = {row.name: row for row in _ROWS}


def perturb_text(text: str, name: str, strength: float, seed: int = 0) -> str:
    """The text, perturbed at `strength` of its letters and digits, or of its words, on average.

    Strength 0 gives the text itself; no strength gives a blank one. Raises `ConfigError` for an unknown name,
    one that is no matter of text, or a strength outside [0, 1]; `DataError` for a blank text.
    """
    row = _named(name, strength)
    if row.change is None:
        do = "Give whole rows to perturb_rows"
        raise ConfigError(explain(f"perturbation {name}", "it is not one of texts", do))
    if not text.strip():
        raise DataError(explain(f"perturbation {name}", "the text is blank", "Give a text with a word in it"))
    return row.change(text, strength, _random(seed, name, text))


def perturb_rows(
    rows: Iterable[Mapping[str, Any]],
    name: str,
    strength: float,
    seed: int = 0,
    fields: Sequence[str] | None = None,
) -> list[dict[str, Any]]:
    """Copies of rows as `neurolora.tasks` makes them, perturbed; labels and gold answers stay right.

    fields: which texts to perturb instead of the perturbation's own; blank ones are left as they are. With
    "shuffled_choices" a row is shuffled with probability `strength`, so that every choice moves. Raises
    `ConfigError` as `perturb_text` does, and `DataError` for a row that cannot be used, or if no row has any
    text in the fields.
    """
    perturbation, given = _named(name, strength), list(rows)
    if perturbation.kind == "choices":
        return [_shuffled(row, name, strength, seed) for row in given]
    wanted = perturbation.fields if fields is None else tuple(fields)
    found = [[field for field in wanted if _has_text(row, field)] for row in given]
    if given and not any(found):
        have = f"none of {len(given)} rows has text in {', '.join(wanted)}"
        raise DataError(explain(f"perturbation {name}", have, "Name the fields that do, as fields="))
    return [
        {**row, **{field: perturb_text(row[field], name, strength, seed) for field in texts}}
        for row, texts in zip(given, found, strict=True)
    ]


def _named(name: str, strength: float) -> Perturbation:
    if name not in PERTURBATIONS:
        found = f"there is no {name!r}{did_you_mean(name, PERTURBATIONS)}"
        raise ConfigError(explain("perturbation", found, f"Use one of {', '.join(PERTURBATIONS)}"))
    if not 0 <= strength <= 1:
        raise ConfigError(explain(f"strength of {name}", f"it is {strength!r}", "Give a number from 0 to 1"))
    return PERTURBATIONS[name]


def _random(seed: int, *parts: str) -> Random:
    """A generator of its own for each text: one seed must not slip at the same places of every text."""
    return Random("\0".join((str(seed), *parts)).encode("utf-8", "surrogatepass"))


def _has_text(row: Mapping[str, Any], field: str) -> bool:
    value = row.get(field)
    return isinstance(value, str) and bool(value.strip())


def _shuffled(row: Mapping[str, Any], name: str, strength: float, seed: int) -> dict[str, Any]:
    """Each choice goes to the next place of a random round through all places; `answer` goes with its own."""
    choices, answer = row.get("choices"), row.get("answer")
    if not isinstance(choices, list | tuple) or len(choices) < 2:
        raise DataError(explain(f"perturbation {name}", "a row without choices", "Give multiple-choice rows"))
    if isinstance(answer, bool) or not isinstance(answer, int) or not 0 <= answer < len(choices):
        have = f"answer {answer!r} of a row with {len(choices)} choices"
        raise DataError(explain(f"perturbation {name}", have, "Give the index of the right choice"))
    random = _random(seed, name, str(row.get("question")), *map(str, choices))
    if random.random() >= strength:
        return dict(row)
    round_trip = random.sample(range(len(choices)), len(choices))
    goes_to = dict(zip(round_trip, [*round_trip[1:], round_trip[0]], strict=True))
    moved = list(choices)
    for place, choice in enumerate(choices):
        moved[goes_to[place]] = choice
    return {**row, "choices": moved, "answer": goes_to[answer]}
