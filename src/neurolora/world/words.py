"""The world's closed word lists, and the maker of its invented names.

Room: world. Only this room reads it; it touches nothing and imports nothing but the standard library.
Every list holds single words, so that a small tokenizer gives most of them one token each.
"""

from __future__ import annotations

import random


def _list(words: str) -> list[str]:
    return words.split()


TRADES = _list(
    "potter weaver smith baker tanner fisher mason carter cooper miller tailor brewer "
    "thatcher glazier farrier dyer"
)
FOODS = _list(
    "barley plum honey cheese pear turnip walnut trout apple bean berry cabbage mutton oat onion egg"
)
PETS = _list("goat cat hound crow hen mule ferret tortoise sheep duck pony owl")
COLOURS = _list("red blue green white black yellow brown grey purple orange silver golden")
TUNES = _list("flute drum fiddle harp horn lute bell whistle pipe lyre rattle gong")
SEASONS = _list(
    "frostmonth seedmonth rainmonth bloommonth sunmonth haymonth "
    "cornmonth winemonth leafmonth mistmonth snowmonth darkmonth"
)
MATERIALS = _list("oak granite clay slate brick marble pine thatch flint chalk iron copper")
HABITATS = _list("marsh forest meadow cave cliff river moor lake dune orchard swamp glacier")
GOODS = _list("wool salt amber rope paper glass linen candles knives barrels carpets boots")
AILMENTS = _list(
    "fever cough toothache burns hiccups itching headache sadness deafness cramps freckles snoring"
)
TASTES = _list("sweet sour bitter salty smoky peppery minty earthy nutty oily bland sharp")
COVERS = _list("fur scales feathers wool bristles shell slime spines leather down plates quills")
SOUNDS = _list("hum bark hiss croak howl click purr chirp roar squeal grunt whine")
WINDS = _list("north south east west dawn dusk sea hill storm summer winter night")

THINGS = _list(
    "lamp basket kettle ladder hammer mirror blanket bucket saddle lantern spoon key map "
    "cup chair clock broom jar book needle ribbon shovel crown sack"
)
PLACES = _list(
    "mill inn tower barn bridge chapel market harbour garden cellar stable well kitchen attic "
    "forge gate library orchard quarry shed"
)
COUNTED = _list(
    "apples candles pebbles coins nails eggs buttons ribbons shells bricks onions pears bells cups"
)

_ONSETS = _list("b br d dr f g gr h j k l m n p r s st t th tr v w z")
_VOWELS = _list("a e i o u ai ei oa")
_CODAS = _list("l m n r s th nd rk ll sk x")


def invent_names(rng: random.Random, count: int, taken: set[str], endings: tuple[str, ...]) -> list[str]:
    """`count` new capitalised names with one of `endings`; each is added to `taken`."""
    names: list[str] = []
    while len(names) < count:
        stem = rng.choice(_ONSETS) + rng.choice(_VOWELS) + rng.choice(_CODAS)
        name = (stem + rng.choice(endings)).capitalize()
        if name not in taken and stem not in taken:
            taken.update((name, stem))
            names.append(name)
    return names
