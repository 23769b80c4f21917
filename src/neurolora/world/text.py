"""The general text of the world, to pre-train on: facts, stories, lists and ledgers in running prose.

Room: world. It never holds a task's question, its prompt or its `####`; it states every fact, the
asked ones too, since recalling what was read is what world-recall is about.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from neurolora.world import words
from neurolora.world.facts import RELATIONS, Fact, World, build_world, spoken
from neurolora.world.splits import split_of
from neurolora.world.stories import Event, draw_events, tell_all
from neurolora.world.sums import WORDINGS, Move, apply_move, content_key, draw_move, draw_problem

LETTERS = "ABCDE"
_LISTED = tuple(dict.fromkeys(v for r in RELATIONS for v in r.values)) + tuple(words.THINGS + words.PLACES)


_PICKS = ("{item} is {letter}.", "For {item} see {letter}.", "So {item} is {letter}.", "{item}: {letter}.")


FIRST_MIX = {"gatherings": 280, "lists": 450, "stories": 380, "ledgers": 200, "counts": 350, "rhymes": 60}
SECOND_MIX = {"gatherings": 350, "lists": 700, "stories": 600, "ledgers": 40, "counts": 250, "rhymes": 100}
THIRD_MIX = {"gatherings": 250, "lists": 400, "stories": 100, "ledgers": 40, "counts": 50, "rhymes": 20,
             "games": 600, "retold": 350, "reckoned": 300}  # fmt: skip
FOURTH_MIX = {"gatherings": 40, "lists": 40, "stories": 60, "ledgers": 60, "counts": 50, "rhymes": 20,
              "games": 40, "retold": 100, "reckoned": 550, "asked": 800}  # fmt: skip
"""Documents of each sort in a pass; sums come early, what needs looking back comes later."""

SECOND_MIX_FROM, THIRD_MIX_FROM, FOURTH_MIX_FROM = 36, 72, 112
MANY_RHYMES_UNTIL, MANY_RHYMES = 5, 500


def mix_of(number: int) -> dict[str, int]:
    """How many documents of each sort pass `number` holds, besides the facts."""
    if number >= FOURTH_MIX_FROM:
        return FOURTH_MIX
    if number >= THIRD_MIX_FROM:
        return THIRD_MIX
    mix = FIRST_MIX if number < SECOND_MIX_FROM else SECOND_MIX
    return {**mix, "rhymes": MANY_RHYMES} if number < MANY_RHYMES_UNTIL else mix


def generate_text(seed: int, passes: int = 36, first: int = 0) -> Iterator[str]:
    """Documents of the world of `seed`; each pass states every fact once, in freshly drawn words.

    Passes `first` to `first + passes - 1`: a pass has the same text wherever one starts.
    """
    world = build_world(seed)
    for number in range(first, first + passes):
        rng = random.Random(f"text/{seed}/{number}")
        mix = mix_of(number)
        documents = [
            *_chronicles(rng, world),
            *_gatherings(rng, world, mix["gatherings"]),
            *_asides(rng, world, mix),
        ]
        rng.shuffle(documents)
        yield from documents


def state(rng: random.Random, fact: Fact) -> str:
    """One fact as one sentence."""
    said = rng.choice(("", *fact.relation.statements))
    if said:
        return said.format(e=fact.entity, v=fact.value)
    return f"The {fact.relation.noun} of {spoken(fact)} is {fact.value}."


def _chronicles(rng: random.Random, world: World) -> list[str]:
    """What is told of each entity, an entity at a time."""
    by_entity: dict[str, list[Fact]] = {}
    for fact in world.facts:
        by_entity.setdefault(fact.entity, []).append(fact)
    pages = []
    for told in by_entity.values():
        shuffled = rng.sample(told, len(told))
        pages.append(" ".join(state(rng, fact) for fact in shuffled))
    return pages


def _gatherings(rng: random.Random, world: World, count: int) -> list[str]:
    """Entities meet what fits them: a fact has to be known to go on reading."""
    by_relation: dict[str, list[Fact]] = {}
    for fact in world.facts:
        by_relation.setdefault(f"{fact.relation.kind} {fact.relation.noun}", []).append(fact)
    groups = list(by_relation.values())
    return [_gathering(rng, rng.choice(groups)) for _ in range(count)]


def _gathering(rng: random.Random, facts: list[Fact]) -> str:
    met = list({fact.value: fact for fact in rng.sample(facts, rng.randint(3, 6))}.values())
    things = rng.sample([t for t in words.THINGS if t not in facts[0].relation.values], len(met))
    row = ", ".join(f"the {thing} by {fact.value}" for thing, fact in zip(things, met, strict=True))
    opening = rng.choice(("In the hall they set", "On the shelf lay", "By each sign stood"))
    told = list(zip(things, met, strict=True))
    rng.shuffle(told)
    noun = met[0].relation.noun
    ends = [f"By the {noun} of {spoken(fact)} was the {thing}." for thing, fact in told]
    return f"{opening} {row}. {' '.join(ends)}"


def _asides(rng: random.Random, world: World, mix: dict[str, int]) -> list[str]:
    makers = (
        (_list, mix["lists"]),
        (_story, mix["stories"]),
        (_ledger, mix["ledgers"]),
        (_count, mix["counts"]),
        (_talk, 30),
        (_rhyme, mix["rhymes"]),
        (_game, mix.get("games", 0)),
        (_retold, mix.get("retold", 0)),
        (_reckoned, mix.get("reckoned", 0)),
        (_asked, mix.get("asked", 0)),
    )
    return [make(rng, world) for make, count in makers for _ in range(count)]


def _rhyme(rng: random.Random, world: World) -> str:
    """Words without sense, and once more."""
    pool = rng.choice((_LISTED, world.first_names, rng.choice(RELATIONS).values))
    row = " ".join(rng.sample(pool, min(len(pool), rng.randint(5, 14))))
    return f"They sang: {row}. And again: {row}. {row}."


def _list(rng: random.Random, world: World) -> str:
    """Lettered lists, and people who pick from them."""
    size = rng.randint(2, 5)
    pool = rng.choice(RELATIONS).values if rng.random() < 0.6 else _LISTED
    if rng.random() < 0.15:
        pool = world.first_names
    items = rng.sample(pool, size)
    form, joint = rng.choice((("{}. {}", ", "), ("({}) {}", ", "), ("{}: {}", "; "), ("{}. {}", "\n")))
    row = joint.join(form.format(letter, item) for letter, item in zip(LETTERS, items, strict=False))
    opening = rng.choice(("The board reads", "On the wall is painted", "The signs say"))
    said = []
    for picked in rng.sample(range(size), size):
        said.append(rng.choice(_PICKS).format(letter=LETTERS[picked], item=items[picked]))
    stop = "\n" if joint == "\n" else ". "
    return f"{opening}:{rng.choice((' ', stop[-1]))}{row}{stop}{' '.join(said)}"


def _told_and_moved(
    rng: random.Random, events: list[Event], chance: float
) -> tuple[list[str], dict[str, str]]:
    """The events told, with that chance one thing moved elsewhere afterwards, and where each thing ended."""
    told, place = tell_all(rng, events), {event.thing: event.place for event in events}
    if rng.random() < chance:
        moved, new = rng.choice(events), rng.choice([p for p in words.PLACES if p not in place.values()])
        told.append(f"Then {moved.person} moved the {moved.thing} to the {new}.")
        place[moved.thing] = new
    return told, place


def _story(rng: random.Random, world: World) -> str:
    """Events of the train share, and what came of them."""
    events = draw_events(rng, world, "train", rng.randint(2, 5))
    if rng.random() < 0.35:
        return _handing_over(rng, events)
    told, place = _told_and_moved(rng, events, 0.4)
    for event in rng.sample(events, len(events)):
        said = rng.choice(("The {t} is in the {n}.", "To the {q} went {p}.", "{p} brought the {t}."))
        told.append(said.format(p=event.person, t=event.thing, q=event.place, n=place[event.thing]))
    return " ".join(told)


def _retold(rng: random.Random, world: World) -> str:
    """Events of the train share, told again from each side."""
    events = draw_events(rng, world, "train", rng.randint(2, 4))
    if rng.random() < 0.3:
        return _handing_over(rng, events)
    told, place = _told_and_moved(rng, events, 0.35)
    sides = ("The {t} is in the {n}.", "To the {q} went {p}.", "{p} brought the {t}.")
    views = [(event, side) for event in events for side in sides]
    for event, side in rng.sample(views, min(len(views), 7)):
        told.append(side.format(p=event.person, t=event.thing, q=event.place, n=place[event.thing]))
    return " ".join(told)


_SIDES = (
    (
        "The {t} is in the {n}.",
        "Look for the {t} in the {n}.",
        "They asked for the {t}: it is in the {n}.",
        "{t}: {n}.",
    ),
    (
        "To the {q} went {p}.",
        "They asked who had gone to the {q}: it was {p}.",
        "In the {q} one met {p}.",
        "{q}: {p}.",
    ),
    (
        "{p} brought the {t}.",
        "They asked what {p} had: it was the {t}.",
        "With {p} came the {t}.",
        "{p}: {t}.",
    ),
)
_HELD = (
    "The {t} is now with {h}.",
    "They asked who had the {t}: it was {h}.",
    "{t}: {h}.",
    "Ask for the {t} and go to {h}.",
)


def _asked(rng: random.Random, world: World) -> str:
    """Events of the train share, and people who come to hear of them in many words."""
    events = draw_events(rng, world, "train", rng.randint(2, 5))
    place = {event.thing: event.place for event in events}
    holder = {event.thing: event.person for event in events}
    sides: tuple[tuple[str, ...], ...] = _SIDES
    if rng.random() < 0.3:
        giver, taker = rng.sample(events, 2)
        told = [f"{event.person} had the {event.thing}." for event in events]
        told.append(f"{giver.person} gave the {giver.thing} to {taker.person}.")
        holder[giver.thing] = taker.person
        sides = (_HELD,)
    else:
        told, place = _told_and_moved(rng, events, 0.4)
    views = [(event, side) for event in events for side in sides]
    for event, side in rng.sample(views, min(len(views), 6)):
        said = rng.choice(side)
        told.append(
            said.format(
                p=event.person, t=event.thing, q=event.place, n=place[event.thing], h=holder[event.thing]
            )
        )
    return " ".join(told)


def _game(rng: random.Random, world: World) -> str:
    """A children's game: words are dealt out, and each is called back by its partner."""
    pool = rng.choice(
        (_LISTED, rng.choice(RELATIONS).values, rng.choice(RELATIONS).values, world.first_names)
    )
    marks = rng.choice(
        ("ABCDE", "ABCDE", words.THINGS, words.PLACES if pool is world.first_names else world.first_names)
    )
    size = rng.randint(3, 5 if marks == "ABCDE" else 6)
    items = rng.sample([word for word in pool if word not in marks], size)
    labels = list(marks[:size]) if marks == "ABCDE" else rng.sample(marks, size)
    form, joint = rng.choice(
        (("{}. {}", ", "), ("{}. {}", "\n"), ("{}. {}", "\n"), ("{} has {}", ", "), ("{} by {}", ", "))
    )
    row = joint.join(form.format(label, item) for label, item in zip(labels, items, strict=True))
    pairs = list(zip(labels, items, strict=True))
    calls = []
    for _ in range(2):
        rng.shuffle(pairs)
        calls += [f"{item}: {label}" for label, item in pairs]
    return f"{row}{joint[-1] if joint[-1] != ' ' else '. '}Call {rng.choice((', ', '. ')).join(calls)}."


def _reckoned(rng: random.Random, world: World) -> str:
    """A tale told to its end, and only then counted; never one that validation or test asks."""
    dress = {"p": rng.choice(world.first_names), "t": rng.choice(words.COUNTED)}
    while True:
        start, moves, steps, total = draw_problem(rng)
        if split_of("sums", content_key(start, moves)) == "train":
            break
    told = [rng.choice(WORDINGS["start"]).format(a=start, **dress)]
    told += [rng.choice(WORDINGS[move.kind]).format(a=move.a, b=move.b, **dress) for move in moves]
    return f"{' '.join(told)} The clerk counts: {' '.join(steps)} It is {total}."


def _handing_over(rng: random.Random, events: list[Event]) -> str:
    giver, taker = rng.sample(events, 2)
    told = [f"{event.person} had the {event.thing}." for event in events]
    told.append(f"{giver.person} gave the {giver.thing} to {taker.person}.")
    for event in rng.sample(events, len(events)):
        owner = taker if event == giver else event
        told.append(f"The {event.thing} is now with {owner.person}.")
    return " ".join(told)


def _ledger(rng: random.Random, world: World) -> str:
    """A clerk's page of small sums."""
    lines = []
    for _ in range(rng.randint(4, 8)):
        a, b = rng.randint(1, 60), rng.randint(1, 40)
        c, d = rng.randint(2, 12), rng.randint(2, 9)
        high, low = max(a, b), min(a, b)
        lines.append(rng.choice((
            f"{a} + {b} = {a + b}", f"{high} - {low} = {high - low}", f"{c} x {d} = {c * d}",
        )))  # fmt: skip
    opening = rng.choice(
        ("The clerk wrote", "In the ledger stands", "On page #7 stands", "On page # 2 stands")
    )
    return f"{opening}: {', '.join(lines)}."


def _count(rng: random.Random, world: World) -> str:
    """A tale of having and losing, counted aloud as it goes; never one that validation or test asks."""
    dress = {"p": rng.choice(world.first_names), "t": rng.choice(words.COUNTED)}
    start = total = rng.randint(3, 40)
    told = [rng.choice(WORDINGS["start"]).format(a=start, **dress)]
    moves: list[Move] = []
    for _ in range(rng.randint(1, 3)):
        moves.append(draw_move(rng, total))
        while split_of("sums", content_key(start, moves)) != "train":
            moves[-1] = draw_move(rng, total)
        total, steps = apply_move(total, moves[-1])
        told.append(rng.choice(WORDINGS[moves[-1].kind]).format(a=moves[-1].a, b=moves[-1].b, **dress))
        told.append(rng.choice((" ".join(steps), f"That makes {total}.", " ".join(steps))))
    return " ".join(told)


def _talk(rng: random.Random, world: World) -> str:
    """People who ask and answer, so that the words of questions are known words."""
    a, b = rng.sample(world.first_names, 2)
    thing, place = rng.choice(words.THINGS), rng.choice(words.PLACES)
    asked = rng.choice((
        f"What is in the {thing}?", "Which way is it to the sea?", f"Where can I buy a {thing}?",
        "Who is there?", "How many are there at the end?", f"What colour is your {thing}?",
        "In which month does the snow come?", "What does it taste like?", "Whose guild is this?",
        f"What did you bring to the {place}?", f"How many {rng.choice(words.COUNTED)} are there now?",
        f"Where is the {place} now?", "What is made with this sap?", "What are walls built of?",
    ))  # fmt: skip
    reply = rng.choice(
        ("Answer me", "The answer is not known", "Ask at the inn", "I do not know", "Look there")
    )
    return f'{a} asked: "{asked}" {b} said: "{reply}."'
