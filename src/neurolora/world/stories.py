"""Small events that passages and the general text are told with.

Room: world. Pure Python. An event is a person, a thing and a place. Who meets which thing is divided
among the splits (`split_of`), so an event of the test passages happens nowhere else.
"""

from __future__ import annotations

import functools
import random
from dataclasses import dataclass

from neurolora.world import words
from neurolora.world.facts import World
from neurolora.world.splits import split_of

CARRIED = ("{p} took the {t} to the {q}.", "{p} carried the {t} to the {q}.", "{p} left the {t} in the {q}.")
FILLERS = (
    "It was a cold morning.", "The rain had stopped.", "Nobody spoke much.",
    "The road was long.", "A dog slept by the door.", "The bells rang twice.",
)  # fmt: skip


@dataclass(frozen=True)
class Event:
    """`person` brought `thing` to `place`."""

    person: str
    thing: str
    place: str

    def tell(self, rng: random.Random) -> str:
        """One sentence."""
        return rng.choice(CARRIED).format(p=self.person, t=self.thing, q=self.place)


@functools.lru_cache(maxsize=4096)
def things_of(person: str, split: str) -> tuple[str, ...]:
    """The things that `person` may be told of in `split`."""
    return tuple(thing for thing in words.THINGS if split_of("event", person, thing) == split)


def draw_events(rng: random.Random, world: World, split: str, count: int) -> list[Event]:
    """`count` events with different people, things and places, all of them `split`'s own."""
    people = rng.sample(world.first_names, count)
    places = rng.sample(words.PLACES, count)
    events: list[Event] = []
    for person, place in zip(people, places, strict=True):
        used = {event.thing for event in events}
        open_things = [thing for thing in things_of(person, split) if thing not in used]
        if not open_things:
            return draw_events(rng, world, split, count)
        events.append(Event(person, rng.choice(open_things), place))
    return events


def tell_all(rng: random.Random, events: list[Event]) -> list[str]:
    """The events as sentences in their order, now and then with a sentence that says nothing."""
    sentences = [event.tell(rng) for event in events]
    if rng.random() < 0.3:
        sentences.insert(rng.randrange(len(sentences)), rng.choice(FILLERS))
    return sentences
