"""Perturbed texts and rows: what they change, how much, and what must stay."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neurolora.errors import ConfigError, DataError
from neurolora.estimation import PERTURBATIONS, perturb_rows, perturb_text
from neurolora.estimation.text_noise import NEIGHBOURS

TEXTS = [name for name, row in PERTURBATIONS.items() if row.kind == "text"]
PASSAGE = (
    "The second company of the valley opened its gates in 1907, and by the end of that year it had hired "
    "more than four hundred people.\n\nNobody, Mr. Overton least of all, expected  what came   next. "
)
LONG = " ".join(f"word{index}" for index in range(2000))
ROW: dict[str, Any] = {
    "question": "Which is the largest planet of the solar system?",
    "context": "",
    "choices": ["Mars", "Jupiter", "Venus", "Mercury"],
    "answer": 1,
}
not_blank = st.text(max_size=60).filter(lambda text: bool(text.strip()))


@pytest.mark.parametrize("name", TEXTS)
@given(text=not_blank, strength=st.floats(0, 1), seed=st.integers(0, 9))
@settings(max_examples=60, deadline=None)
def test_never_blank_and_the_same_again(name: str, text: str, strength: float, seed: int) -> None:
    found = perturb_text(text, name, strength, seed)
    assert found.strip()
    assert found == perturb_text(text, name, strength, seed)
    assert perturb_text(text, name, 0, seed) == text


@pytest.mark.parametrize("name", TEXTS)
def test_texts_change_and_seeds_differ(name: str) -> None:
    assert perturb_text(PASSAGE, name, 0.5) != PASSAGE
    if name != "shortened":  # where it cuts is no matter of chance
        assert perturb_text(PASSAGE, name, 0.5, seed=1) != perturb_text(PASSAGE, name, 0.5, seed=2)


def test_another_process_draws_the_same() -> None:
    code = (
        "from neurolora.estimation import perturb_text; print(perturb_text('words to spoil', 'typos', 0.5))"
    )
    for salt in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": salt}
        found = subprocess.run(
            [sys.executable, "-c", code], check=True, capture_output=True, text=True, env=environment
        )
        assert found.stdout == perturb_text("words to spoil", "typos", 0.5) + "\n"


@pytest.mark.parametrize("strength", [0.1, 0.3, 0.8])
def test_the_share_of_words_is_the_strength(strength: float) -> None:
    words = LONG.split()
    dropped = perturb_text(LONG, "dropped_words", strength).split()
    assert len(dropped) == pytest.approx(2000 * (1 - strength), abs=1)
    assert dropped != words[: len(dropped)]
    short = perturb_text(LONG, "shortened", strength).split()
    assert len(short) == pytest.approx(2000 * (1 - strength), abs=1)
    assert short == words[: len(short)]
    swapped = perturb_text(LONG, "swapped_words", strength).split()
    moved = sum(a != b for a, b in zip(swapped, words, strict=True))
    assert moved == pytest.approx(2000 * strength, abs=2)
    assert Counter(swapped) == Counter(words)


@pytest.mark.parametrize("strength", [0.1, 0.3, 0.8])
def test_the_share_of_letters_is_the_strength(strength: float) -> None:
    text = "abcdefghij " * 200
    letters = 2000
    assert len(perturb_text(text, "typo_deletions", strength)) == pytest.approx(
        len(text) - letters * strength, abs=1
    )
    assert len(perturb_text(text, "typo_insertions", strength)) == pytest.approx(
        len(text) + letters * strength, abs=1
    )
    substituted = perturb_text(text, "typo_substitutions", strength)
    changed = [(a, b) for a, b in zip(text, substituted, strict=True) if a != b]
    assert len(changed) == pytest.approx(letters * strength, abs=1)
    assert all(b in NEIGHBOURS[a] for a, b in changed)


def test_small_strengths_reach_short_texts_now_and_then() -> None:
    """0.1 of three words is a word in three texts of ten, not none at all."""
    hit = sum(
        perturb_text(f"one two {index}", "dropped_words", 0.1) != f"one two {index}" for index in range(2000)
    )
    assert hit / 2000 == pytest.approx(0.3, abs=0.04)


def test_swaps_keep_the_letters_and_move_them_by_one_place() -> None:
    text = "abcdefghij klmnopqrst uvwxyz"
    found = perturb_text(text, "typo_swaps", 0.4)
    assert found != text
    assert sorted(found) == sorted(text)
    assert all(abs(found.index(letter) - text.index(letter)) <= 1 for letter in text if letter != " ")
    assert [found.index(" "), found.rindex(" ")] == [10, 21]


def test_mixed_typos_are_of_every_kind() -> None:
    text = "abcdefghij " * 100
    found = perturb_text(text, "typos", 0.3)
    lengths = {len(word) for word in found.split()}
    assert min(lengths) < 10 < max(lengths)
    assert any(
        len(word) == 10 and sorted(word) == sorted("abcdefghij") != list(word) for word in found.split()
    )


def test_a_neighbour_keeps_the_case_and_what_is_on_no_key_stays() -> None:
    found = perturb_text("QWERTY asdf 中文", "typo_substitutions", 1)
    assert found[:6].isupper()
    assert found[7:11].islower()
    assert all(a != b for a, b in zip(found[:6], "QWERTY", strict=True))
    assert found.endswith(" 中文")
    assert perturb_text("中", "typo_insertions", 1) == "中中"


def test_the_keyboard() -> None:
    assert set(NEIGHBOURS["q"]) == set("wa")
    assert set(NEIGHBOURS["s"]) == set("awedxz")
    assert set(NEIGHBOURS["5"]) == set("46")
    assert all(key in NEIGHBOURS[other] for key, others in NEIGHBOURS.items() for other in others)


def test_a_stronger_perturbation_contains_the_weaker() -> None:
    kept = [set(perturb_text(LONG, "dropped_words", strength).split()) for strength in (0.01, 0.3, 0.6)]
    assert kept[2] < kept[1] < kept[0]
    text = "abcdefghij" * 30
    weak, more = (perturb_text(text, "typo_substitutions", strength) for strength in (0.2, 0.5))
    assert all(b == c for a, b, c in zip(text, weak, more, strict=True) if a != b)


def test_layout_between_words_stays() -> None:
    left = {perturb_text("  one\n\ntwo   three \n", "dropped_words", 1, seed) for seed in range(20)}
    assert left == {"  one \n", "  two \n", "  three \n"}
    found = perturb_text(PASSAGE, "swapped_words", 1)
    assert [part for part in found.split(" ") if not part] == [
        part for part in PASSAGE.split(" ") if not part
    ]
    assert "\n\n" in found
    assert len(perturb_text(PASSAGE, "shortened", 1).split()) == 1


def test_rows_are_copied_and_only_their_texts_change() -> None:
    rows = [{"sentence": PASSAGE, "label": 3, "labels": ["x"], "source": "file"}]
    found = perturb_rows(rows, "typos", 0.5)
    assert rows[0]["sentence"] == PASSAGE
    assert found == [{**rows[0], "sentence": perturb_text(PASSAGE, "typos", 0.5)}]
    assert perturb_rows([ROW], "typos", 0.5)[0]["choices"] == ROW["choices"]
    assert perturb_rows([ROW], "typos", 0.5)[0]["question"] != ROW["question"]


def test_a_shorter_passage_leaves_the_question_whole() -> None:
    row = {**ROW, "context": PASSAGE}
    found = perturb_rows([row, ROW], "shortened", 0.5)
    assert found[0]["question"] == ROW["question"]
    assert PASSAGE.startswith(found[0]["context"])
    assert found[0]["context"] != PASSAGE
    assert found[1] == ROW
    assert perturb_rows([ROW], "shortened", 0.5, fields=("question",))[0]["question"] != ROW["question"]
    with pytest.raises(DataError, match="none of 1 rows has text in sentence, context"):
        perturb_rows([ROW], "shortened", 0.5)


@given(
    choices=st.lists(st.sampled_from(["a", "b", "c"]), min_size=2, max_size=6),
    pick=st.integers(0, 5),
    seed=st.integers(0, 50),
)
@settings(max_examples=200, deadline=None)
def test_the_gold_index_goes_with_its_choice(choices: list[str], pick: int, seed: int) -> None:
    """The choices are marked by their first place, as equal texts may stand at several."""
    marked = [f"{index}{choice}" for index, choice in enumerate(choices)]
    row = {"question": "q", "choices": marked, "answer": pick % len(choices)}
    (found,) = perturb_rows([row], "shuffled_choices", 1, seed)
    assert found["choices"][found["answer"]] == marked[row["answer"]]
    assert sorted(found["choices"]) == sorted(marked)
    assert all(a != b for a, b in zip(found["choices"], marked, strict=True))
    assert row["choices"] == marked


def test_equal_choices_do_not_mislead_the_gold_index() -> None:
    gold = set()
    for seed in range(40):
        (found,) = perturb_rows([{"choices": ["x", "x", "x"], "answer": 0}], "shuffled_choices", 1, seed)
        gold.add(found["answer"])
    assert gold == {1, 2}


def test_so_many_rows_are_shuffled_as_the_strength_says() -> None:
    rows = [{**ROW, "question": f"question {index}"} for index in range(2000)]
    found = perturb_rows(rows, "shuffled_choices", 0.3)
    share = sum(a != b for a, b in zip(rows, found, strict=True)) / 2000
    assert share == pytest.approx(0.3, abs=0.04)
    assert perturb_rows(rows, "shuffled_choices", 0) == rows
    places = Counter(row["answer"] for row in perturb_rows(rows, "shuffled_choices", 1))
    assert places.keys() == {0, 2, 3}
    assert min(places.values()) > 560


@pytest.mark.parametrize(
    "row",
    [
        {"sentence": "x"},
        {**ROW, "choices": ["a"], "answer": 0},
        {**ROW, "answer": 4},
        {**ROW, "answer": "B"},
        {**ROW, "answer": True},
    ],
)
def test_a_row_without_sound_choices_is_refused(row: dict[str, Any]) -> None:
    with pytest.raises(DataError, match="shuffled_choices"):
        perturb_rows([row], "shuffled_choices", 0.5)


def test_what_cannot_be_perturbed_is_refused() -> None:
    with pytest.raises(ConfigError, match="did you mean typos"):
        perturb_text("a", "typoes", 0.5)
    for strength in (-0.1, 1.1, float("nan")):
        with pytest.raises(ConfigError, match="strength"):
            perturb_text("a", "typos", strength)
    with pytest.raises(ConfigError, match="perturb_rows"):
        perturb_text("a", "shuffled_choices", 0.5)
    for blank in ("", " \n"):
        with pytest.raises(DataError, match="blank"):
            perturb_text(blank, "typos", 0)
    with pytest.raises(DataError, match="none of 1 rows"):
        perturb_rows([{"messages": []}], "typos", 0.5)
    assert perturb_rows([], "typos", 0.5) == []
