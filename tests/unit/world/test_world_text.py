"""The general text: states every fact, and never shows a task."""

from __future__ import annotations

import re

from neurolora.world import SPLITS, generate_rows, generate_text
from neurolora.world.facts import Fact, build_world, spoken
from neurolora.world.text import FOURTH_MIX_FROM, SECOND_MIX_FROM, THIRD_MIX_FROM


def text_of_each_mix() -> str:
    """One pass of every mix of documents that the text goes through."""
    firsts = (0, SECOND_MIX_FROM, THIRD_MIX_FROM, FOURTH_MIX_FROM)
    return "\n".join(text for first in firsts for text in generate_text(0, 1, first))


def entity_in(question: str) -> str:
    names = re.findall(r"[A-Z]\w+(?: [A-Z]\w+)?", question)
    openings = {"What", "Which", "Where", "Whose", "In", "As", "Somebody"}
    return next(name for name in names if name not in openings)


def asks(question: str, fact: Fact) -> bool:
    return question == fact.relation.question.format(e=fact.entity) or f" {fact.relation.noun} " in question


def test_one_pass_states_each_fact_that_recall_asks() -> None:
    text = "\n".join(generate_text(0, 1))
    facts = {(f.entity, f.value): [] for f in build_world(0).facts}
    for fact in build_world(0).facts:
        facts[fact.entity, fact.value].append(fact)
    for split in SPLITS:
        for row in generate_rows("world-recall", split):
            entity = entity_in(row["question"])
            told = facts[entity, row["choices"][row["answer"]]]
            fact = next(f for f in told if asks(row["question"], f))
            said = [s.format(e=fact.entity, v=fact.value) for s in fact.relation.statements]
            said.append(f"The {fact.relation.noun} of {spoken(fact)} is {fact.value}.")
            assert any(sentence in text for sentence in said), row


def test_an_entity_has_one_value_for_each_relation() -> None:
    facts = build_world(0).facts
    assert len({(f.entity, f.relation.noun) for f in facts}) == len(facts)


def test_text_holds_no_question_row_and_no_prompt() -> None:
    text = text_of_each_mix()
    for mark in ("Answer:", "Question:", "####", "Context:"):
        assert mark not in text
    for task in ("world-recall", "world-passage", "world-sums"):
        for split in SPLITS:
            assert not any(
                row["question"] in text for row in generate_rows(task, split) if len(row["question"]) > 30
            )


def test_stories_and_tales_keep_away_from_test_content() -> None:
    text = text_of_each_mix()
    asked = {
        pair
        for row in generate_rows("world-passage", "test")
        for pair in re.findall(r"(\w+) (?:took|carried|left|had) the (\w+)", row["context"])
    }
    told = set(re.findall(r"(\w+) (?:took|carried|left|had) the (\w+)", text))
    assert len(told) > 100
    assert not asked & told


def test_text_is_deterministic_and_another_seed_is_another_world() -> None:
    assert list(generate_text(0, 1)) == list(generate_text(0, 1))
    assert list(generate_text(0, 1)) != list(generate_text(1, 1))
    assert next(generate_text(0, 1)) == next(generate_text(0, 9))
    both = list(generate_text(0, 2))
    assert both == [*generate_text(0, 1), *generate_text(0, 1, first=1)]
