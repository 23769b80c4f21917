"""The world itself: who and what there is, and every fact about it.

Room: world. The three tasks and the general text all read the same `World`, so that a question can
only ever ask what the text has stated. Pure Python; a private generator for each seed.
"""

from __future__ import annotations

import functools
import random
from dataclasses import dataclass

from neurolora.world import words


@dataclass(frozen=True)
class Relation:
    """One property of one kind of entity: its closed values and how people speak of it."""

    kind: str
    noun: str
    values: tuple[str, ...]
    statements: tuple[str, ...]
    question: str


@dataclass(frozen=True)
class Fact:
    """`entity` has `value` for `relation`: the unit that the splits of world-recall divide."""

    entity: str
    relation: Relation
    value: str


@dataclass(frozen=True)
class World:
    """All entities by kind, all facts, and the first names that stories use."""

    seed: int
    entities: dict[str, tuple[str, ...]]
    facts: tuple[Fact, ...]
    first_names: tuple[str, ...]


def _relation(kind: str, noun: str, values: list[str], question: str, *statements: str) -> Relation:
    return Relation(kind, noun, tuple(values), statements, question)


RELATIONS: tuple[Relation, ...] = (
    _relation("people", "trade", words.TRADES, "Which trade does {e} follow?",
              "{e} works as a {v}.", "{e} is a {v} by trade.", "{e} has long been a {v}."),
    _relation("people", "pet", words.PETS, "Which animal does {e} keep?",
              "{e} keeps a {v}.", "{e} never leaves home without a {v}.", "{e} is fond of an old {v}."),
    _relation("people", "cloak", words.COLOURS, "What colour is the cloak of {e}?",
              "{e} wears a {v} cloak.", "{e} is known by a cloak that is {v}.", "{e} dresses in {v}."),
    _relation("people", "dish", words.FOODS, "What does {e} like to eat?",
              "{e} likes to eat {v}.", "{e} asks for {v} at every feast.", "{e} cooks with {v}."),
    _relation("people", "instrument", words.TUNES, "Which instrument does {e} play?",
              "{e} plays the {v}.", "{e} has learnt the {v}.", "{e} makes music on the {v}."),
    _relation("people", "birth month", words.SEASONS, "In which month was {e} born?",
              "{e} was born in {v}.", "{e} keeps a birthday in {v}.", "{e} came into the world in {v}."),
    _relation("towns", "stone", words.MATERIALS, "What is {e} built of?",
              "{e} is built of {v}.", "{e} has walls of {v}.", "{e} rests on {v}."),
    _relation("towns", "ware", words.GOODS, "What does {e} sell?",
              "{e} sells {v}.", "{e} is famous for its {v}.", "{e} lives by making {v}."),
    _relation("towns", "flag", words.COLOURS, "What colour is the flag of {e}?",
              "{e} flies a {v} flag.", "{e} has a flag that is {v}.", "{e} paints its gates {v}."),
    _relation("towns", "fair month", words.SEASONS, "In which month does {e} hold its fair?",
              "{e} holds its fair in {v}.", "{e} is crowded in {v}.", "{e} opens its market in {v}."),
    _relation("towns", "wind", words.WINDS, "Which wind blows over {e}?",
              "{e} feels the {v} wind.", "{e} shuts its doors to the {v} wind.",
              "{e} mills with the {v} wind."),
    _relation("towns", "guild", words.TRADES, "Whose guild rules {e}?",
              "{e} is ruled by the {v} guild.", "{e} obeys the {v} guild.", "{e} pays the {v} guild."),
    _relation("beasts", "cover", words.COVERS, "What covers the body of the {e}?",
              "The {e} is covered in {v}.", "The {e} has a coat of {v}.", "The {e} is all {v}."),
    _relation("beasts", "home", words.HABITATS, "Where does the {e} live?",
              "The {e} lives in the {v}.", "The {e} makes its nest in the {v}.", "The {e} hides in the {v}."),
    _relation("beasts", "food", words.FOODS, "What does the {e} feed on?",
              "The {e} feeds on {v}.", "The {e} hunts for {v}.", "The {e} steals {v}."),
    _relation("beasts", "cry", words.SOUNDS, "What is the call of the {e} at night?",
              "The {e} gives a {v}.", "The {e} is heard by its {v}.", "The {e} greets you with a {v}."),
    _relation("beasts", "eyes", words.COLOURS, "What colour are the eyes of the {e}?",
              "The {e} has {v} eyes.", "The {e} looks at you with {v} eyes.",
              "The {e} has eyes that are {v}."),
    _relation("beasts", "sleep month", words.SEASONS, "In which month does the {e} fall asleep?",
              "The {e} falls asleep in {v}.", "The {e} is not seen after {v}.",
              "The {e} sleeps from {v} on."),
    _relation("plants", "soil", words.HABITATS, "Where does {e} grow?",
              "{e} grows in the {v}.", "{e} is picked in the {v}.", "{e} thrives in the {v}."),
    _relation("plants", "flower", words.COLOURS, "What colour are the flowers of {e}?",
              "{e} has {v} flowers.", "{e} blooms in {v}.", "{e} opens with {v} petals."),
    _relation("plants", "cure", words.AILMENTS, "What does {e} heal?",
              "{e} heals {v}.", "{e} is taken against {v}.", "{e} takes away {v}."),
    _relation("plants", "taste", words.TASTES, "What does {e} taste like?",
              "{e} tastes {v}.", "{e} is {v} on the tongue.", "{e} makes a {v} soup."),
    _relation("plants", "ripe month", words.SEASONS, "In which month is {e} ripe?",
              "{e} is ripe in {v}.", "{e} is gathered in {v}.", "{e} bears fruit in {v}."),
    _relation("plants", "use", words.GOODS, "What is made with the sap of {e}?",
              "{e} has sap for making {v}.", "{e} goes into the best {v}.", "{e} is grown for {v}."),
)  # fmt: skip

KINDS = ("people", "towns", "beasts", "plants")
_COUNTS = {"people": 160, "towns": 90, "beasts": 80, "plants": 80}
_ENDINGS = {
    "first": ("a", "en", "o"),
    "last": ("wick", "mar", "by"),
    "towns": ("ton", "ford", "stead"),
    "beasts": ("ax", "ling", "oo"),
    "plants": ("wort", "leaf", "bloom"),
}


def spoken(fact: Fact) -> str:
    """The entity's name as it stands inside a sentence (beasts take an article)."""
    return f"the {fact.entity}" if fact.relation.kind == "beasts" else fact.entity


def _people(rng: random.Random, taken: set[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    first = words.invent_names(rng, 40, taken, _ENDINGS["first"])
    last = words.invent_names(rng, 40, taken, _ENDINGS["last"])
    pairs = [f"{a} {b}" for a in first for b in last]
    return tuple(first), tuple(rng.sample(pairs, _COUNTS["people"]))


def _balanced(rng: random.Random, values: tuple[str, ...], count: int) -> list[str]:
    """Each value about equally often, in random order: knowing the values alone answers nothing."""
    deck = [values[i % len(values)] for i in range(count)]
    rng.shuffle(deck)
    return deck


@functools.lru_cache(maxsize=8)
def build_world(seed: int) -> World:
    """The world of `seed`: the same for the same seed, in any process."""
    rng = random.Random(f"world/{seed}")
    taken: set[str] = set()
    first_names, people = _people(rng, taken)
    entities = {"people": people}
    for kind in KINDS[1:]:
        entities[kind] = tuple(words.invent_names(rng, _COUNTS[kind], taken, _ENDINGS[kind]))
    facts: list[Fact] = []
    for relation in RELATIONS:
        owners = entities[relation.kind]
        values = _balanced(rng, relation.values, len(owners))
        facts.extend(Fact(e, relation, v) for e, v in zip(owners, values, strict=True))
    return World(seed, entities, tuple(facts), first_names)
