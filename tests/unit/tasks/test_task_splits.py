"""Which rows are train, validation and test; nothing called test is trained on in silence."""

import itertools
import re

import pytest

from neurolora.errors import ConfigError, DataError
from neurolora.tasks import SPLITS, TaskRequest, load_rows
from neurolora.tasks.splits import held_out_part

COUNT = 400


def rows(start=0, count=COUNT):
    return [{"prompt": f"say {n}", "completion": f"{n}"} for n in range(start, start + count)]


def prompts(request, split):
    return [row["prompt"] for row in load_rows(request, split)]


def test_named_splits_are_used_whole_under_their_usual_names(write, tmp_path):
    write("train.jsonl", rows(0, 3))
    write("my_val.jsonl", rows(3, 2))
    write("test-00000-of-00001.jsonl", rows(5, 1))
    request = TaskRequest("completion", str(tmp_path), validation_fraction=0.5, test_fraction=0.4)
    assert [len(prompts(request, split)) for split in SPLITS] == [3, 2, 1]


def test_a_file_without_a_split_in_its_name_is_train(write):
    request = TaskRequest("completion", str(write("mine.jsonl", rows(0, 3))))
    assert len(prompts(request, "train")) == 3
    with pytest.raises(DataError, match=r"there is 'a file that says no split.*set test_fraction"):
        load_rows(request, "test")


def test_a_missing_validation_says_what_there_is_and_what_to_do(write, tmp_path):
    write("train.jsonl", rows(0, 3))
    write("test.jsonl", rows(3, 3))
    with pytest.raises(DataError, match=r"there is 'test', 'train'\. Add a file .* set validation_fraction"):
        load_rows(TaskRequest("completion", str(tmp_path)), "validation")


def test_test_is_never_train_unless_it_is_divided(write):
    path = str(write("test.json", rows()))
    with pytest.raises(DataError, match=r"there is 'test'\. .*set test_fraction"):
        load_rows(TaskRequest("completion", path), "train")
    assert len(prompts(TaskRequest("completion", path), "test")) == COUNT
    divided = TaskRequest("completion", path, test_fraction=0.3)
    assert set(prompts(divided, "train")).isdisjoint(prompts(divided, "test"))


@pytest.mark.parametrize("name", ["train.jsonl", "test.jsonl", "mine.jsonl"])
def test_held_out_parts_are_disjoint_complete_and_of_the_right_size(write, name):
    request = TaskRequest(
        "completion", str(write(name, rows())), validation_fraction=0.25, test_fraction=0.25
    )
    parts = [prompts(request, split) for split in SPLITS]
    assert sorted(itertools.chain(*parts)) == sorted(row["prompt"] for row in rows())
    for part, share in zip(parts, (0.5, 0.25, 0.25), strict=True):
        assert abs(len(part) - share * COUNT) < 4 * (share * (1 - share) * COUNT) ** 0.5


def test_what_is_held_out_depends_on_the_question_alone(write):
    once = TaskRequest("completion", str(write("a.jsonl", rows())), test_fraction=0.2)
    more = [*reversed(rows()), *rows(COUNT, 50)]
    more = [{**row, "completion": "another answer"} for row in more]
    again = TaskRequest(
        "completion", str(write("b.jsonl", more)), test_fraction=0.2, validation_fraction=0.3, seed=5
    )
    test = set(prompts(once, "test"))
    assert test == {p for p in prompts(again, "test") if int(p.split()[1]) < COUNT}
    assert test.isdisjoint(prompts(again, "train"))


def test_a_question_that_stands_twice_falls_on_one_side(write):
    twice = [{**row, "completion": answer} for row in rows() for answer in ("yes", "no")]
    request = TaskRequest("completion", str(write("a.jsonl", twice)), test_fraction=0.5)
    assert set(prompts(request, "train")).isdisjoint(prompts(request, "test"))


@pytest.mark.parametrize(
    "row",
    [
        {"question": "q", "context": "c", "answer": 1},
        {"sentence": "s", "label": 1},
        {"messages": [{"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}]},
    ],
)
def test_every_kind_of_row_is_spread_by_its_question(row):
    def variant(n):
        text = str(row).replace("'q'", f"'q{n}'").replace("'s'", f"'s{n}'").replace("'u'", f"'u{n}'")
        return eval(text)  # our own literal

    parts = [held_out_part(variant(n), 0.3, 0.3) for n in range(200)]
    assert {parts.count(name) > 30 for name in SPLITS} == {True}


def test_an_empty_held_out_part_is_an_error(write):
    request = TaskRequest("completion", str(write("a.jsonl", rows(0, 1))), test_fraction=0.001)
    with pytest.raises(DataError, match="of 1 rows none falls into it"):
        load_rows(request, "test")


def test_validation_needs_its_own_fraction_when_one_file_is_divided(write):
    request = TaskRequest("completion", str(write("test.jsonl", rows())), test_fraction=0.2)
    with pytest.raises(DataError, match="set validation_fraction"):
        load_rows(request, "validation")


def test_limits_are_nested_in_file_order_and_drawn_by_the_seed(write):
    path = str(write("train.jsonl", rows()))
    few, many, other = (
        prompts(TaskRequest("completion", path, limit=limit, seed=seed), "train")
        for limit, seed in ((20, 1), (50, 1), (20, 2))
    )
    assert len(few) == 20
    assert set(few) < set(many)
    assert set(few) != set(other)
    assert few == sorted(few, key=lambda prompt: int(prompt.split()[1]))
    assert len(prompts(TaskRequest("completion", path, limit=10**6), "train")) == COUNT


def test_an_unknown_split_gets_the_nearest_name():
    with pytest.raises(ConfigError, match=r"unknown split 'validate'\. Did you mean 'validation'"):
        load_rows(TaskRequest("completion", "x.jsonl"), "validate")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"limit": 0}, "limit: 0"),
        ({"validation_fraction": 1.0}, "validation_fraction: 1.0 is not in [0, 1)"),
        ({"test_fraction": -0.1}, "test_fraction: -0.1 is not in [0, 1)"),
        ({"validation_fraction": 0.5, "test_fraction": 0.5}, "leave nothing to train on"),
        ({"labels": ["one"]}, "are not names of labels"),
        ({"labels": ["one", "one"]}, "are not names of labels"),
    ],
)
def test_a_request_checks_itself(values, said):
    with pytest.raises(ConfigError, match=re.escape(said)):
        TaskRequest("completion", "x", **values)
