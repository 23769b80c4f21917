"""The general text: states every fact, and never shows a task."""

from __future__ import annotations

import re

from neurolora.world import SPLITS, generate_rows, generate_text
from neurolora.world.facts import RELATIONS, build_world, spoken


def test_one_pass_states_each_fact_that_recall_asks() -> None:
    text = "\n".join(generate_text(0, 1))
    relations = {(r.kind, r.noun): r for r in RELATIONS}
    by_question = {}
    for fact in build_world(0).facts:
        by_question[fact.relation.question.format(e=fact.entity)] = fact
        by_question[f"What is the {fact.relation.noun} of {spoken(fact)}?"] = fact
    assert len(relations) == len(RELATIONS)
    for split in SPLITS:
        for row in generate_rows("world-recall", split):
            fact = by_question[row["question"]]
            said = [s.format(e=fact.entity, v=fact.value) for s in fact.relation.statements]
            said.append(f"The {fact.relation.noun} of {spoken(fact)} is {fact.value}.")
            assert row["choices"][row["answer"]] == fact.value
            assert any(sentence in text for sentence in said), row


def test_an_entity_has_one_value_for_each_relation() -> None:
    facts = build_world(0).facts
    assert len({(f.entity, f.relation.noun) for f in facts}) == len(facts)


def test_text_holds_no_question_row_and_no_prompt() -> None:
    text = "\n".join([*generate_text(0, 1), *generate_text(0, 1, first=40)])
    for mark in ("Answer:", "Question:", "####", "Context:"):
        assert mark not in text
    for task in ("world-recall", "world-passage", "world-sums"):
        for split in SPLITS:
            assert not any(
                row["question"] in text for row in generate_rows(task, split) if len(row["question"]) > 30
            )


def test_stories_and_tales_keep_away_from_test_content() -> None:
    text = "\n".join(generate_text(0, 3))
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
