"""The three tasks: valid, deterministic, disjoint, balanced, and free of shortcuts."""

from __future__ import annotations

import collections
import math
import random
import re
import subprocess
import sys

import pytest

from neurolora.errors import ConfigError
from neurolora.world import SPLITS, WORLD_TASKS, generate_rows

CHOICE_TASKS = ("world-recall", "world-passage")


def entity_in(question: str) -> str:
    names = re.findall(r"[A-Z]\w+(?: [A-Z]\w+)?", question)
    openings = {"What", "Which", "Where", "Whose", "In", "As", "Somebody"}
    return next(name for name in names if name not in openings)


def content_of(task: str, row: dict) -> set:
    """What a row is about, found by reading its text and not by asking the generator."""
    if task == "world-recall":
        return {(entity_in(row["question"]), relation_words(row["question"]))}
    if task == "world-passage":
        brought = re.findall(r"(\w+) (?:took|carried|left|had) the (\w+)", row["context"])
        return {("event", *pair) for pair in brought}
    return {row["answer"]}


def relation_words(question: str) -> str:
    """One word that tells the relation; the short form of a question names it outright."""
    from neurolora.world.facts import RELATIONS

    for relation in RELATIONS:
        pattern = re.escape(relation.question).replace(r"\{e\}", r"[A-Z]\w+(?: [A-Z]\w+)?")
        if re.fullmatch(pattern, question):
            return relation.noun
    return re.search(
        r"(?:What is the|Which|[Ww]hat) ([a-z ]+?) (?:of|would you|is right|do you tell)", question
    )[1]


@pytest.mark.parametrize("task", WORLD_TASKS)
@pytest.mark.parametrize("split", SPLITS)
def test_every_row_is_canonical(task: str, split: str) -> None:
    for row in generate_rows(task, split):
        if task == "world-sums":
            assert set(row) == {"question", "answer"}
            assert re.search(r"\n#### \d+$", row["answer"])
            continue
        assert set(row) == {"question", "context", "choices", "answer", "group"}
        assert row["question"]
        assert row["group"]
        assert 0 <= row["answer"] < len(row["choices"])
        assert len(set(row["choices"])) == len(row["choices"])
        assert len(row["choices"]) in ({4} if task == "world-recall" else {2, 3, 4, 5})
        assert bool(row["context"]) == (task == "world-passage")


@pytest.mark.parametrize("task", WORLD_TASKS)
def test_same_seed_same_rows_other_seed_other_rows(task: str) -> None:
    random.seed(1)
    first = generate_rows(task, "test", seed=3)
    random.seed(2)
    assert generate_rows(task, "test", seed=3) == first
    assert generate_rows(task, "test", seed=4) != first


def test_rows_do_not_depend_on_the_process_hash_seed() -> None:
    code = (
        "import hashlib, json; from neurolora.world import WORLD_TASKS, generate_rows, generate_text;"
        "rows = [generate_rows(t, 'validation') for t in WORLD_TASKS] + [list(generate_text(0, 1))];"
        "print(hashlib.sha256(json.dumps(rows).encode()).hexdigest())"
    )
    prints = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(prints) == 1


@pytest.mark.parametrize("task", WORLD_TASKS)
@pytest.mark.parametrize("seed", [0, 5])
def test_splits_share_no_content(task: str, seed: int) -> None:
    contents = {s: set().union(*(content_of(task, r) for r in generate_rows(task, s, seed))) for s in SPLITS}
    assert all(contents.values())
    for one, other in (("train", "test"), ("train", "validation"), ("validation", "test")):
        assert not contents[one] & contents[other]


@pytest.mark.parametrize("task", WORLD_TASKS)
def test_the_standard_error_is_at_most_one_point_and_a_half(task: str) -> None:
    count = len(generate_rows(task, "test"))
    assert 100 * math.sqrt(0.25 / count) <= 1.5


@pytest.mark.parametrize("task", CHOICE_TASKS)
def test_answer_positions_are_balanced(task: str) -> None:
    for split in SPLITS:
        by_size = collections.defaultdict(collections.Counter)
        for row in generate_rows(task, split):
            by_size[len(row["choices"])][row["answer"]] += 1
        for size, seen in by_size.items():
            assert set(seen) == set(range(size))
            assert max(seen.values()) - min(seen.values()) <= 1


def longest(row: dict) -> int:
    return max(range(len(row["choices"])), key=lambda i: len(row["choices"][i]))


def shortest(row: dict) -> int:
    return min(range(len(row["choices"])), key=lambda i: len(row["choices"][i]))


def commonest_in_train(task: str):
    """A baseline that sees the choices alone: which value was right most often in train?"""
    right, seen = collections.Counter(), collections.Counter()
    for row in generate_rows(task, "train"):
        seen.update(row["choices"])
        right[row["choices"][row["answer"]]] += 1
    return lambda row: max(
        range(len(row["choices"])), key=lambda i: right[row["choices"][i]] / (seen[row["choices"][i]] or 1)
    )


@pytest.mark.parametrize("task", CHOICE_TASKS)
def test_no_shortcut_through_the_choices_alone(task: str) -> None:
    rows = generate_rows(task, "test")
    chance = sum(1 / len(row["choices"]) for row in rows) / len(rows)
    for guess in (longest, shortest, commonest_in_train(task), lambda row: 0, lambda row: 1):
        accuracy = sum(guess(row) == row["answer"] for row in rows) / len(rows)
        assert accuracy <= chance + 0.05


@pytest.mark.parametrize("place", [0, -1])
def test_no_shortcut_through_the_place_in_the_passage(place: int) -> None:
    rows = generate_rows("world-passage", "test")
    chance = sum(1 / len(row["choices"]) for row in rows) / len(rows)
    hits = 0
    for row in rows:
        order = sorted(row["choices"], key=lambda choice: row["context"].find(choice))
        hits += order[place] == row["choices"][row["answer"]]
    assert hits / len(rows) <= chance + 0.1


def test_worked_answers_add_up() -> None:
    for row in generate_rows("world-sums", "test"):
        steps = re.findall(r"(\d+) ([-+x]) (\d+) = (\d+)\.", row["answer"])
        assert 2 <= len(steps) <= 4
        for a, sign, b, result in steps:
            value = {"+": int(a) + int(b), "-": int(a) - int(b), "x": int(a) * int(b)}[sign]
            assert value == int(result) > 0
        assert row["answer"].endswith(f"#### {steps[-1][3]}")


def test_passage_answers_stand_in_the_passage() -> None:
    for row in generate_rows("world-passage", "test"):
        assert all(choice in row["context"] for choice in row["choices"])


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ConfigError, match="world-maths"):
        generate_rows("world-maths", "test")
    with pytest.raises(ConfigError, match="dev"):
        generate_rows("world-sums", "dev")
