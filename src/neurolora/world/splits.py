"""What belongs to train, validation and test, decided by content and never by luck of the draw.

Room: world. Pure functions. A thing's split depends on a SHA-256 of what it says, so two rows that
say the same can never stand on both sides.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator
from typing import Any

from neurolora.errors import ConfigError, explain

Row = dict[str, Any]
SPLITS = ("train", "validation", "test")
_TEST_SHARE, _VALIDATION_SHARE = 0.3, 0.1


def check_split(split: str) -> None:
    """Raise `ConfigError` unless `split` is one of `SPLITS`."""
    if split not in SPLITS:
        raise ConfigError(
            explain(f"split {split!r} of a world task", "no such split", f"Use one of {SPLITS}")
        )


def share_of(*content: object) -> float:
    """A number in [0, 1) that belongs to this content: a stable hash, the same on every machine."""
    digest = hashlib.sha256("\x1f".join(str(part) for part in content).encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def split_of(*content: object) -> str:
    """The split that owns this content."""
    share = share_of(*content)
    if share < _TEST_SHARE:
        return "test"
    return "validation" if share < _TEST_SHARE + _VALIDATION_SHARE else "train"


def answer_deck(rng: random.Random, size: int) -> Iterator[int]:
    """Endless answer positions 0..size-1, each equally often, in shuffled rounds."""
    while True:
        deck = list(range(size))
        rng.shuffle(deck)
        yield from deck


def place_choices(correct: str, wrong: list[str], position: int) -> list[str]:
    """The wrong choices in their order, with the right one at `position`."""
    return [*wrong[:position], correct, *wrong[position:]]


def collect(make: Callable[[], tuple[str, Row] | None], count: int) -> list[Row]:
    """`count` rows with different keys; `make` gives (key, row), or None for a draw of another split."""
    rows: dict[str, Row] = {}
    for _ in range(count * 1000):
        if len(rows) == count:
            return list(rows.values())
        made = make()
        if made is not None:
            rows.setdefault(*made)
    raise RuntimeError(f"the world is too small for {count} different rows")
