"""Noise in a text: slips of the typing fingers, words lost or out of place, an end cut off.

Room: estimation. `perturbations.py` has a row for each. Every function is (text, strength, random) -> text.
It draws its places in an order that does not depend on the strength, so a stronger perturbation contains the
weaker one; and it leaves at least one word, or letter, of a text that has any.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from random import Random

#: Where the keys are on a QWERTY keyboard: each row, and how far it is shifted to the right, in keys.
_KEYBOARD = (("qwertyuiop", 0.0), ("asdfghjkl", 0.25), ("zxcvbnm", 0.75))
_DIGITS = "1234567890"
TYPOS = ("swap", "delete", "insert", "substitute")


def _neighbours() -> dict[str, str]:
    """Key -> the keys that touch it; digits are neighbours of digits alone."""
    places = {
        key: (column + shift, row)
        for row, (keys, shift) in enumerate(_KEYBOARD)
        for column, key in enumerate(keys)
    }
    places |= {key: (column, -9) for column, key in enumerate(_DIGITS)}
    return {
        key: "".join(
            other for other, (u, v) in places.items() if other != key and (x - u) ** 2 + (y - v) ** 2 < 1.6
        )
        for key, (x, y) in places.items()
    }


NEIGHBOURS = _neighbours()


def part_of(count: int, strength: float, random: Random) -> int:
    """floor(strength * count + u), u uniform in [0, 1): strength * count on average; 0 and all are exact."""
    return int(strength * count + random.random())


def typos(text: str, strength: float, random: Random, kinds: Sequence[str] = TYPOS) -> str:
    """A slip, of a kind drawn from `kinds`, at `strength` of the letters and digits.

    swap: with the letter after it, or else before it; delete; insert: a key beside it, or itself again, after
    it; substitute: a key beside it. Where a slip is impossible (no neighbour, the last letter) there is none.
    """
    places = [place for place, letter in enumerate(text) if letter.isalnum()]
    count = part_of(len(places), strength, random)
    random.shuffle(places)
    letters, untouched, left = list(text), set(places), len(places)
    for place in places[:count]:
        kind, key = random.choice(kinds), _key_beside(text[place], random)
        if place not in untouched:
            continue
        if kind == "swap":
            _swap(letters, place, untouched)
        elif kind == "delete" and left > 1:
            letters[place], left = "", left - 1
        elif kind == "insert":
            letters[place] += key or text[place]
        elif kind == "substitute":
            letters[place] = key or text[place]
        untouched.discard(place)
    return "".join(letters)


def _key_beside(letter: str, random: Random) -> str:
    """A neighbour on the keyboard, in the letter's case; nothing for what is on no key of it."""
    found = random.choice(NEIGHBOURS.get(letter.lower()) or " ").strip()
    return found.upper() if letter.isupper() else found


def _swap(letters: list[str], place: int, untouched: set[int]) -> None:
    for other in (place + 1, place - 1):
        if other in untouched and letters[other] != letters[place]:
            letters[place], letters[other] = letters[other], letters[place]
            untouched.discard(other)
            return


def dropped_words(text: str, strength: float, random: Random) -> str:
    """`strength` of the words are left out, with the space before them; one word always stays."""
    words, end = _words(text)
    count = min(part_of(len(words), strength, random), len(words) - 1)
    gone = set(random.sample(range(len(words)), len(words))[:count])
    return _joined(words, [index for index in range(len(words)) if index not in gone], end)


def swapped_words(text: str, strength: float, random: Random) -> str:
    """Pairs of words, anywhere in the text, change places: `strength` of the words take part."""
    words, end = _words(text)
    order = random.sample(range(len(words)), len(words))
    places = list(range(len(words)))
    for pair in range(part_of(len(words) // 2, strength, random)):
        first, second = order[2 * pair], order[2 * pair + 1]
        places[first], places[second] = second, first
    return "".join(words[at][0] + words[index][1] for at, index in enumerate(places)) + end


def shortened(text: str, strength: float, random: Random) -> str:
    """`strength` of the words are cut off at the end; the first word always stays."""
    words, end = _words(text)
    kept = max(len(words) - part_of(len(words), strength, random), 1)
    return _joined(words, list(range(kept)), end if kept == len(words) else "")


def _words(text: str) -> tuple[list[tuple[str, str]], str]:
    """([(space before it, word)], space at the end), which joined are the text."""
    return re.findall(r"(\s*)(\S+)", text), text[len(text.rstrip()) :]


def _joined(words: list[tuple[str, str]], kept: list[int], end: str) -> str:
    """The kept words, each behind its own space; the first behind the text's."""
    rest = "".join(space + word for space, word in (words[index] for index in kept[1:]))
    return words[0][0] + words[kept[0]][1] + rest + end
