"""world-sums, the stand-in for GSM8K: a word problem of two to four steps with a worked answer.

Sample: {"question": "Tova has 12 apples. Tova buys 7 more. Tova loses 5. How many apples are left?",
         "answer": "12 + 7 = 19. 19 - 5 = 14.\n#### 14"}

Room: world. A problem's content is its operations with their numbers; `split_of` gives each content
to one split, whatever names, things and wording dress it.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from neurolora.world import words
from neurolora.world.facts import build_world
from neurolora.world.splits import Row, collect, split_of

SIZES = {"train": 1600, "validation": 200, "test": 1200}
LARGEST = 99
ASIDE_SHARE = 0.5
ASIDES = (
    "{p} is {n} years old.",
    "The shop opens at {n}.",
    "It is day {n} of the month.",
    "There are {n} dogs in the yard.",
)
"""Sentences whose number does not matter; the general text has none of them."""

WORDINGS: dict[str, tuple[str, ...]] = {
    "start": ("{p} has {a} {t}.", "{p} owns {a} {t}.", "There are {a} {t} in the shop of {p}."),
    "gain": ("{p} buys {a} more.", "{p} finds {a} more.", "A friend brings {a} more."),
    "lose": ("{p} sells {a}.", "{p} loses {a}.", "{p} gives away {a}."),
    "times": ("Then the number grows {a} times.", "Magic makes it {a} times as many."),
    "packs": ("{p} buys {a} bags with {b} in each.", "A carter brings {a} boxes of {b}."),
    "crews": ("{p} gives {b} to each of {a} friends.", "{a} thieves steal {b} each."),
    "end": ("How many {t} are there now?", "How many {t} does {p} have at the end?"),
}


@dataclass(frozen=True)
class Move:
    """One sentence of a problem: its kind and its numbers (b is 0 where a kind needs one number)."""

    kind: str
    a: int
    b: int = 0


def draw_move(rng: random.Random, total: int) -> Move:
    """A move that keeps the total within 1..LARGEST."""
    while True:
        kind = rng.choice(("gain", "gain", "lose", "lose", "times", "packs", "crews"))
        small, factor = rng.randint(2, 9), rng.randint(2, 5)
        move = {
            "gain": Move("gain", rng.randint(2, 40)),
            "lose": Move("lose", rng.randint(2, 40)),
            "times": Move("times", factor),
            "packs": Move("packs", factor, small),
            "crews": Move("crews", factor, small),
        }[kind]
        if 1 <= apply_move(total, move)[0] <= LARGEST:
            return move


def apply_move(total: int, move: Move) -> tuple[int, list[str]]:
    """The new total, and the steps that give it as a person would write them."""
    product = move.a * move.b
    if move.kind == "gain":
        return total + move.a, [f"{total} + {move.a} = {total + move.a}."]
    if move.kind == "lose":
        return total - move.a, [f"{total} - {move.a} = {total - move.a}."]
    if move.kind == "times":
        return total * move.a, [f"{total} x {move.a} = {total * move.a}."]
    sign, new = ("+", total + product) if move.kind == "packs" else ("-", total - product)
    return new, [f"{move.a} x {move.b} = {product}.", f"{total} {sign} {product} = {new}."]


def draw_problem(rng: random.Random) -> tuple[int, list[Move], list[str], int]:
    """Start, moves, the steps in words (two to four of them), and the last total."""
    while True:
        start = total = rng.randint(3, 40)
        moves: list[Move] = []
        steps: list[str] = []
        for _ in range(rng.randint(1, 3)):
            moves.append(draw_move(rng, total))
            total, more = apply_move(total, moves[-1])
            steps += more
        if 2 <= len(steps) <= 4:
            return start, moves, steps, total


def sums_rows(split: str, seed: int) -> list[Row]:
    """The canonical rows of `split`."""
    rng = random.Random(f"sums/{split}/{seed}")
    names = build_world(seed).first_names
    return collect(lambda: _row(rng, names, split), SIZES[split])


def _row(rng: random.Random, names: tuple[str, ...], split: str) -> tuple[str, Row] | None:
    start, moves, steps, total = draw_problem(rng)
    content = content_key(start, moves)
    if split_of("sums", content) != split:
        return None
    dress = {"p": rng.choice(names), "t": rng.choice(words.COUNTED)}
    told = [_say(rng, "start", a=start, b=0, **dress)]
    told += [_say(rng, move.kind, a=move.a, b=move.b, **dress) for move in moves]
    if rng.random() < ASIDE_SHARE:
        aside = rng.choice(ASIDES).format(n=rng.randint(2, 30), p=dress["p"])
        told.insert(rng.randint(1, len(told)), aside)
    told.append(_say(rng, "end", a=0, b=0, **dress))
    return content, {"question": " ".join(told), "answer": f"{' '.join(steps)}\n#### {total}"}


def content_key(start: int, moves: list[Move]) -> str:
    """What a problem says, without its dress: the key of its split."""
    return f"{start};" + ";".join(f"{move.kind},{move.a},{move.b}" for move in moves)


def _say(rng: random.Random, kind: str, **parts: object) -> str:
    return rng.choice(WORDINGS[kind]).format(**parts)
