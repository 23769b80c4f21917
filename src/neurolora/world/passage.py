"""world-passage, the stand-in for ScienceQA: a short passage, a question about it, two to five choices.

Sample: {"context": "Tova took the lamp to the mill. Bren left the key in the inn.",
         "question": "Where is the key?", "choices": ["inn", "mill"], "answer": 0, "group": "place"}

Room: world. All choices stand in the passage, so the choices alone say nothing. Each event belongs to
one split (`stories.draw_events`), so no event of a test passage is told in train.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

from neurolora.world.facts import World, build_world
from neurolora.world.splits import Row, answer_deck, collect, place_choices
from neurolora.world.stories import Event, draw_events, tell_all

SIZES = {"train": 2400, "validation": 200, "test": 1200}
Asked = tuple[list[str], str, str, list[str]]
"""Sentences, question, right choice, wrong choices."""


def passage_rows(split: str, seed: int) -> list[Row]:
    """The canonical rows of `split`."""
    rng = random.Random(f"passage/{split}/{seed}")
    world = build_world(seed)
    decks = {size: answer_deck(rng, size) for size in range(2, 6)}
    return collect(lambda: _row(rng, world, split, decks), SIZES[split])


def _row(rng: random.Random, world: World, split: str, decks: dict[int, Iterator[int]]) -> tuple[str, Row]:
    group = rng.choice(sorted(_ASK))
    events = draw_events(rng, world, split, rng.randint(2, 5))
    sentences, question, right, wrong = _ASK[group](rng, events)
    rng.shuffle(wrong)
    position = next(decks[len(wrong) + 1])
    row: Row = {
        "question": question,
        "context": " ".join(sentences),
        "choices": place_choices(right, wrong, position),
        "answer": position,
        "group": group,
    }
    return row["context"] + question, row


def _ask_place(rng: random.Random, events: list[Event]) -> Asked:
    told = tell_all(rng, events)
    asked = rng.choice(events)
    return told, f"Where is the {asked.thing}?", asked.place, [e.place for e in events if e != asked]


def _ask_person(rng: random.Random, events: list[Event]) -> Asked:
    told = tell_all(rng, events)
    asked = rng.choice(events)
    others = [e.person for e in events if e != asked]
    return told, f"Who went to the {asked.place}?", asked.person, others


def _ask_thing(rng: random.Random, events: list[Event]) -> Asked:
    told = tell_all(rng, events)
    asked = rng.choice(events)
    others = [e.thing for e in events if e != asked]
    return told, f"What did {asked.person} bring?", asked.thing, others


def _ask_change(rng: random.Random, events: list[Event]) -> Asked:
    """A thing is moved on, so the first place told is wrong: all places of the passage are choices."""
    events = events[:4]
    told = [event.tell(rng) for event in events[:-1]]
    moved = rng.choice(events[:-1])
    told.append(f"Then {moved.person} moved the {moved.thing} to the {events[-1].place}.")
    asked = rng.choice(events[:-1])
    right = events[-1].place if asked == moved else asked.place
    return told, f"Where is the {asked.thing} now?", right, [e.place for e in events if e.place != right]


def _ask_holder(rng: random.Random, events: list[Event]) -> Asked:
    """Things are handed over; who has one now is asked."""
    people = [event.person for event in events]
    told = [f"{event.person} had the {event.thing}." for event in events]
    giver, taker = rng.sample(events, 2)
    told.append(f"{giver.person} gave the {giver.thing} to {taker.person}.")
    asked = rng.choice([giver, rng.choice(events)])
    right = taker.person if asked == giver else asked.person
    return told, f"Who has the {asked.thing} now?", right, [p for p in people if p != right]


_ASK: dict[str, Callable[[random.Random, list[Event]], Asked]] = {
    "change": _ask_change,
    "holder": _ask_holder,
    "person": _ask_person,
    "place": _ask_place,
    "thing": _ask_thing,
}
