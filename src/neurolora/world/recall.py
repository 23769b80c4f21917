"""world-recall, the stand-in for MMLU: what the general text said, asked with four choices.

Sample: {"question": "What does Hailwort heal?", "context": "", "group": "plants",
         "choices": ["cough", "fever", "cramps", "burns"], "answer": 2}

Room: world. The facts are divided among the splits relation by relation, so no fact that is asked
in test is asked in train; all of them stand in the general text.
"""

from __future__ import annotations

import random

from neurolora.world.facts import RELATIONS, Fact, build_world, spoken
from neurolora.world.splits import Row, answer_deck, place_choices

CHOICES = 4
SIZES = {"train": 2400, "validation": 200, "test": 1200}
SHORT = "What is the {n} of {e}?"
UNTRAINED = (
    "Which {n} would you name for {e}?",
    "As to {e}, what {n} is right?",
    "Somebody asks you about {e}. Which {n} do you tell?",
)
_TEST_SHARE, _VALIDATION_SHARE = 0.47, 0.08


def split_facts(seed: int) -> dict[str, list[Fact]]:
    """Every fact of the world in exactly one split, each relation in the same proportion."""
    rng = random.Random(f"recall/facts/{seed}")
    parts: dict[str, list[Fact]] = {"train": [], "validation": [], "test": []}
    for relation in RELATIONS:
        facts = [fact for fact in build_world(seed).facts if fact.relation is relation]
        rng.shuffle(facts)
        first, second = round(len(facts) * _TEST_SHARE), round(len(facts) * (_TEST_SHARE + _VALIDATION_SHARE))
        parts["test"] += facts[:first]
        parts["validation"] += facts[first:second]
        parts["train"] += facts[second:]
    for facts in parts.values():
        rng.shuffle(facts)
    return parts


def recall_rows(split: str, seed: int) -> list[Row]:
    """The canonical rows of `split`; in train each fact comes back with other choices."""
    rng = random.Random(f"recall/{split}/{seed}")
    facts = split_facts(seed)[split]
    positions = answer_deck(rng, CHOICES)
    return [_row(rng, facts[i % len(facts)], next(positions), split) for i in range(SIZES[split])]


def _row(rng: random.Random, fact: Fact, position: int, split: str) -> Row:
    wrong = rng.sample([v for v in fact.relation.values if v != fact.value], CHOICES - 1)
    return {
        "question": _question(rng, fact, split),
        "context": "",
        "choices": place_choices(fact.value, wrong, position),
        "answer": position,
        "group": fact.relation.kind,
    }


def _question(rng: random.Random, fact: Fact, split: str) -> str:
    """In train each relation is asked in one way alone; elsewhere in either, or in words never trained on."""
    if split == "train":
        wording = (SHORT, fact.relation.question)[RELATIONS.index(fact.relation) % 2]
    else:
        wording = rng.choice((SHORT, fact.relation.question, *UNTRAINED))
    return wording.format(
        e=fact.entity if wording == fact.relation.question else spoken(fact), n=fact.relation.noun
    )
