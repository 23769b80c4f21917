"""Every task's rows: its sample, its original layouts, and its bad rows with file, line and field."""

import json
import re

import datasets
import pytest

from neurolora.errors import ConfigError, DataError
from neurolora.tasks import SPLITS, TASKS, TaskRequest, load_examples, load_rows, make_example, pin_labels
from neurolora.tasks.records import Record

MMLU = [
    ("Which planet, of these, is the largest?", ["Mars", "Jupiter", "Venus", "Mercury"], 1, "astronomy"),
    ('Who said "no"?', ["a", "b, c", "d", "e"], 3, "astronomy"),
    ("What is\ntwo lines?", ["1", "2", "3", "4"], 2, "world_history"),
]
CHOICE = {"question": "q", "context": "c", "choices": ["x", "y", "z"], "answer": 2}
MESSAGES = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]


def cell(text):
    return '"' + text.replace('"', '""') + '"'


def load_one(task, path, split="train", **values):
    return load_rows(TaskRequest(task, str(path), **values), split)


@pytest.mark.parametrize("name", TASKS)
def test_the_sample_on_top_of_each_task_becomes_an_example(name):
    task = TASKS[name]
    record = Record(task.sample, "sample.jsonl", "line 1")
    row = task.reader(record, ("bad news", "good news"))
    example = make_example(task.template, row)
    assert example.completion.strip()
    assert example.source == "sample.jsonl, line 1"
    if example.choices:
        assert example.choices[example.answer] == example.completion
    assert (example.answer is None) == (task.kind in ("generation", "completion", "chat"))
    assert set(task.splits) == set(SPLITS)
    assert task.source
    assert task.license


# ---- MMLU


def mmlu_csv(rows, header, letters):
    lines = ["question,choice0,choice1,choice2,choice3,answer"] if header else []
    for question, choices, answer, _ in rows:
        lines.append(",".join([*map(cell, [question, *choices]), "ABCD"[answer] if letters else str(answer)]))
    return "\n".join(lines) + "\n"


def mmlu_expected(subjects):
    wanted = [row for row in MMLU if row[3] in subjects]
    return [(question, choices, answer, subject) for question, choices, answer, subject in wanted]


def mmlu_got(rows):
    return [(row["question"], row["choices"], row["answer"], row["group"]) for row in rows]


@pytest.mark.parametrize(("header", "letters"), [(False, True), (True, False)])
def test_mmlu_original_and_copy_give_the_same_rows(write, tmp_path, header, letters):
    for folder, split in (("auxiliary_train", "train"), ("dev", "dev"), ("val", "val"), ("test", "test")):
        for subject in ("astronomy", "world_history"):
            rows = [row for row in MMLU if row[3] == subject]
            write(f"{folder}/{subject}_{split}.csv", mmlu_csv(rows, header, letters))
    for split in SPLITS:
        assert mmlu_got(load_one("mmlu", tmp_path, split)) == mmlu_expected(["astronomy", "world_history"])
    one = load_one("mmlu", tmp_path, "test", dataset_config="world_history")
    assert mmlu_got(one) == mmlu_expected(["world_history"])
    with pytest.raises(DataError, match=r"dataset_config 'astronomie'.*Did you mean 'astronomy"):
        load_one("mmlu", tmp_path, "test", dataset_config="astronomie")


def test_mmlu_in_the_hubs_layout(tmp_path):
    features = datasets.Features(
        {
            "question": datasets.Value("string"),
            "subject": datasets.Value("string"),
            "choices": datasets.Sequence(datasets.Value("string")),
            "answer": datasets.ClassLabel(names=["A", "B", "C", "D"]),
        }
    )
    names = ("question", "choices", "answer", "subject")
    data = datasets.Dataset.from_list([dict(zip(names, row, strict=True)) for row in MMLU], features=features)
    (tmp_path / "all").mkdir()
    (tmp_path / "astronomy").mkdir()
    for split in ("auxiliary_train", "dev", "validation", "test"):
        data.to_parquet(tmp_path / "all" / f"{split}-00000-of-00001.parquet")
    data.select([0]).to_parquet(tmp_path / "astronomy" / "test-00000-of-00001.parquet")
    for split in SPLITS:
        assert mmlu_got(load_one("mmlu", tmp_path, split)) == mmlu_expected(["astronomy", "world_history"])
    assert len(load_one("mmlu", tmp_path, "test", dataset_config="astronomy")) == 1


def test_mmlu_train_is_the_auxiliary_one_and_else_dev(write, tmp_path):
    write("dev/astronomy_dev.csv", mmlu_csv(MMLU[:1], False, True))
    assert mmlu_got(load_one("mmlu", tmp_path, "train")) == mmlu_expected(["astronomy"])[:1]
    write("auxiliary_train/mc_test.csv", mmlu_csv(MMLU[1:2], False, True))
    assert [row["question"] for row in load_one("mmlu", tmp_path, "train")] == [MMLU[1][0]]
    with pytest.raises(DataError, match="test split"):
        load_one("mmlu", tmp_path, "test")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("q,a,b,c,d,A\nq,a,b,c,D\n", "line 2 has 5 columns. MMLU's files have 6"),
        ("q,a,b,c,d,e,A\n", "line 1 has 7 columns"),
        ("q,a,b,c,d,E\n", "field 'answer' of {path}, line 1: it is 'E'. Write A, B, C or D"),
        ("q,a,b,c,d,4\n", "it is '4'"),
        ("q,a,b,c,d,\n", "it is ''"),
        ("question,choice0,choice1,choice2,choice3,answer\nq,a,b,c,d,-1\n", "line 2: it is '-1'"),
        ("question,choice0,choice1,choice2,choice3,answer\n", "a header and no rows"),
        (",a,b,c,d,A\n", "field 'question' of {path}, line 1: it is empty"),
    ],
)
def test_mmlu_bad_rows(write, text, said):
    path = write("anatomy_test.csv", text)
    with pytest.raises(DataError, match=re.escape(said.format(path=path))):
        load_one("mmlu", path, "test")


# ---- ScienceQA


def problem(split, image=None, **values):
    return {"question": f"q {split}", "choices": ["x", "y"], "answer": 1, "hint": "h", "image": image} | {
        "task": "closed choice",
        "subject": "natural science",
        "split": split,
        **values,
    }


def test_scienceqa_official_files(write, tmp_path):
    problems = {
        "1": {key: value for key, value in problem("train").items() if key != "split"},
        "2": problem("val", hint=""),
        "3": problem("test", choices=["a", "b", "c", "d", "e"], answer=4),
        "4": problem("train", image="image.png"),
    }
    write("problems.json", problems)
    write(
        "pid_splits.json",
        {"train": ["1", "4"], "val": ["2"], "test": ["3"], "minitrain": ["1"], "trainval": ["1", "2"]},
    )
    write("captions.json", {"captions": {}})
    for place in (tmp_path, tmp_path / "problems.json"):
        got = {split: load_one("scienceqa", place, split) for split in SPLITS}
        assert [row["question"] for row in got["train"]] == ["q train"]
        assert got["validation"][0]["context"] == ""
        assert got["train"][0]["context"] == "h"
        assert got["test"][0]["answer"] == 4
        assert got["test"][0]["source"] == "problems.json, problem 3"
        assert got["test"][0]["group"] == "natural science"


def test_scienceqa_json_lines_go_where_their_own_split_says(write, tmp_path):
    rows = [
        {**CHOICE, "split": split, "has_image": split == "test"}
        for split in ("train", "val", "test", "train")
    ]
    write("some_partial.jsonl", rows)
    write("more_test.jsonl", [{**CHOICE, "split": "test", "has_image": False}])
    counts = [len(load_one("scienceqa", tmp_path, split)) for split in SPLITS]
    assert counts == [2, 1, 1]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"answer": 3}, "field 'answer' of {path}, line 2: 3 is out of range: there are 3 choices"),
        ({"answer": -1}, "-1 is out of range"),
        (
            {"answer": "2"},
            "field 'answer' of {path}, line 2: it is a text ('2'). Write a whole number, 0 to 2",
        ),
        ({"answer": True}, "it is true or false (True)"),
        ({"answer": 1.0}, "it is a number (1.0)"),
        ({"choices": ["x"], "answer": 0}, "field 'choices' of {path}, line 2: there are 1. Give 2 to 26"),
        ({"choices": ["x"] * 27}, "there are 27"),
        ({"choices": "xyz"}, "field 'choices' of {path}, line 2: it is a text ('xyz'), not a list"),
        ({"choices": ["x", 3]}, "field 'choices[1]' of {path}, line 2: it is a whole number (3), not a text"),
        ({"question": " "}, "field 'question' of {path}, line 2: it is empty"),
        ({"question": None}, "it is null, not a text"),
        ({"context": 7}, "field 'context' of {path}, line 2: it is a whole number (7), not a text"),
        ({"split": 7}, "field 'split' of {path}, line 2: it is a whole number (7)"),
    ],
)
def test_multiple_choice_bad_rows(write, values, said):
    path = write("train.jsonl", [CHOICE, {**CHOICE, **values}])
    with pytest.raises(DataError, match=re.escape(said.format(path=path))):
        load_one("scienceqa", path)


def test_a_missing_field_names_what_there_is(write):
    row = {key: value for key, value in CHOICE.items() if key != "question"} | {"questoin": "q"}
    path = write("train.jsonl", [row])
    said = f"reading field 'question' of {path}, line 1: the row has no such field, only 'context'"
    with pytest.raises(DataError, match=re.escape(said)) as caught:
        load_one("scienceqa", path)
    assert "Did you mean 'questoin'? Add the field" in str(caught.value)


def test_scienceqa_with_pictures_only_or_broken_official_files(write, tmp_path):
    write("a/train.jsonl", [{**CHOICE, "has_image": True}])
    with pytest.raises(DataError, match="none of 1 rows can be used"):
        load_one("scienceqa", tmp_path / "a")
    write("b/problems.json", [problem("train")])
    with pytest.raises(DataError, match="it holds a list"):
        load_one("scienceqa", tmp_path / "b")
    write("c/problems.json", {"1": {"question": "q"}})
    with pytest.raises(DataError, match=r"'split' of .*problem 1: the problem is in no split"):
        load_one("scienceqa", tmp_path / "c")
    write("d/problems.json", {"1": "q"})
    with pytest.raises(DataError, match="problem 1: it is a text"):
        load_one("scienceqa", tmp_path / "d")
    write("e/problems.json", {"1": problem("train")})
    write("e/pid_splits.json", {"train": ["1"]})
    with pytest.raises(DataError, match="it lacks the lists train, val, test"):
        load_one("scienceqa", tmp_path / "e")


# ---- GSM8K, completion, chat


def test_gsm8k_needs_a_final_answer(write):
    path = write("train.jsonl", [{"question": "q", "answer": "#### 3"}, {"question": "q", "answer": "3"}])
    with pytest.raises(DataError, match=re.escape(f"'answer' of {path}, line 2: it has no final answer")):
        load_one("gsm8k", path)


@pytest.mark.parametrize("suffix", ["jsonl", "json", "csv"])
def test_completion_from_each_kind_of_file(write, suffix):
    rows = [{"prompt": "p, 1", "completion": " c"}, {"prompt": "", "completion": "d"}]
    text = "prompt,completion\n" + "".join(f"{cell(r['prompt'])},{cell(r['completion'])}\n" for r in rows)
    path = write(f"train.{suffix}", text if suffix == "csv" else rows)
    examples = load_examples(TaskRequest("completion", str(path)), "train")
    assert [(one.prompt, one.completion) for one in examples] == [("p, 1", " c"), ("", "d")]


@pytest.mark.parametrize("empty", ["", "  \n"])
def test_an_empty_completion_is_refused(write, empty):
    path = write("train.jsonl", [{"prompt": "p", "completion": empty}])
    with pytest.raises(DataError, match=re.escape(f"'completion' of {path}, line 1: it is empty")):
        load_one("completion", path)


def test_chat_learns_the_last_turn(write):
    path = write("train.jsonl", [{"messages": [{"role": "system", "content": "be kind"}, *MESSAGES]}])
    (example,) = load_examples(TaskRequest("chat", str(path)), "train")
    assert example.prompt == [{"role": "system", "content": "be kind"}, MESSAGES[0]]
    assert example.completion == "hello"


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        ([MESSAGES[0]], "there is no assistant turn to learn"),
        ([*MESSAGES, MESSAGES[0]], "it ends with the user's turn"),
        ([MESSAGES], "field 'messages[0]' of {path}, line 1: it is a list, not an object"),
        ([MESSAGES[1]], "there is only the answer"),
        ([], "it is empty"),
        ("hi", "it is a text ('hi')"),
        (
            [MESSAGES[0], {"role": "assistant", "content": " "}],
            "'messages[1].content' of {path}, line 1: the answer",
        ),
        (
            [MESSAGES[0], {"role": "assistant", "content": None}],
            "messages[1].content' of {path}, line 1: it is null",
        ),
        ([MESSAGES[0], {"role": "assistant"}], "messages[1].content' of {path}, line 1: it is missing"),
        ([{"role": "usr", "content": "hi"}, MESSAGES[1]], "unknown role 'usr'. Did you mean 'user'"),
    ],
)
def test_chat_bad_rows(write, messages, said):
    path = write("train.jsonl", [{"messages": messages}])
    with pytest.raises(DataError, match=re.escape(said.format(path=path))):
        load_one("chat", path)


# ---- labelled text


def labels_of(rows):
    return [(row["label"], row["labels"]) for row in rows]


def test_text_labels_by_name_number_and_file(write, tmp_path):
    write("train.json", [{"sentence": "s", "label": "b"}, {"sentence": "t", "label": 0}])
    write("labels.json", ["c", "b", "a"])
    assert labels_of(load_one("text", tmp_path)) == [(1, ["c", "b", "a"]), (0, ["c", "b", "a"])]
    assert labels_of(load_one("text", tmp_path / "train.json"))[0] == (1, ["c", "b", "a"])
    own = load_one("text", tmp_path, labels=("a", "b"))
    assert labels_of(own) == [(1, ["a", "b"]), (0, ["a", "b"])]


def test_text_labels_of_train_hold_for_test_too(write, tmp_path):
    write("train.jsonl", [{"sentence": "s", "label": name} for name in "cab"])
    write("test.jsonl", [{"sentence": "s", "label": "c"}, {"sentence": "s", "label": "b"}])
    assert labels_of(load_one("text", tmp_path, "test")) == [(2, ["a", "b", "c"]), (1, ["a", "b", "c"])]
    write("test.jsonl", [{"sentence": "s", "label": "cc"}])
    with pytest.raises(DataError, match=r"'label' of .*test\.jsonl, line 1: 'cc' is not among the labels"):
        load_one("text", tmp_path, "test")


def test_text_numbers_from_csv_and_other_columns(write):
    path = write("train.csv", "text,category\none,0\ntwo,2\n")
    rows = load_one("text", path, columns={"label": "category"})
    assert [(row["sentence"], row["label"], row["labels"]) for row in rows] == [
        ("one", 0, ["0", "1", "2"]),
        ("two", 2, ["0", "1", "2"]),
    ]
    named = load_one("text", path, columns={"label": "category"}, labels=("x", "y", "z"))
    assert [row["label"] for row in named] == [0, 2]


def test_text_class_labels_of_the_hubs_layout(tmp_path):
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["neg", "pos"])}
    )
    data = datasets.Dataset.from_list([{"text": "s", "label": 1}], features=features)
    data.to_parquet(tmp_path / "test-00000-of-00001.parquet")
    datasets.DatasetDict({"test": data}).save_to_disk(tmp_path / "saved")
    for place in (tmp_path / "test-00000-of-00001.parquet", tmp_path / "saved"):
        assert labels_of(load_one("text", place, "test")) == [(1, ["neg", "pos"])]


@pytest.mark.parametrize(
    ("label", "said"),
    [
        ("posi", "'posi' is not among the labels. Did you mean 'pos'?"),
        (2, "2 is out of range. Write 0 to 1: 'neg', 'pos'"),
        (-1, "-1 is out of range"),
        ("-1", "-1 is out of range"),
        (True, "it is true or false (True)"),
        (0.5, "it is a number (0.5)"),
        (None, "it is null"),
    ],
)
def test_text_bad_labels(write, label, said):
    path = write("train.jsonl", [{"sentence": "s", "label": "neg"}, {"sentence": "s", "label": label}])
    with pytest.raises(DataError, match=re.escape(f"'label' of {path}, line 2: {said}")):
        load_one("text", path, labels=("neg", "pos"))


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ({"a": 0}, "it is not a list of names"),
        (["a", "a"], "a name stands twice"),
        (["a"], "not a list of names"),
    ],
)
def test_text_bad_labels_file(write, labels, said):
    write("labels.json", labels)
    with pytest.raises(DataError, match=said):
        load_one("text", write("train.jsonl", [{"sentence": "s", "label": "a"}]))


def test_text_with_one_label_is_refused(write):
    with pytest.raises(DataError, match="there is only 'a'"):
        load_one("text", write("train.jsonl", [{"sentence": "s", "label": "a"}]))


def test_pinned_labels_are_those_of_the_rows(write):
    path = write("train.jsonl", [{"sentence": "s", "label": name} for name in "ba"])
    request = TaskRequest("text", str(path))
    pinned = pin_labels(request, load_rows(request, "train"))
    assert pinned.labels == ("a", "b")
    assert pin_labels(pinned, [{"labels": ["x", "y"]}]) is pinned
    gsm = TaskRequest("gsm8k")
    assert pin_labels(gsm, [{"question": "q"}]) is gsm


# ---- the world


def test_world_rows_are_the_generators(monkeypatch):
    from neurolora import world

    calls = []

    def generate(task, split, seed=0):
        calls.append((task, split, seed))
        if task == "world-sums":
            return [{"question": "q", "answer": f"{seed}\n#### {seed}"}]
        return [{**CHOICE, "group": split}, {**CHOICE, "answer": 0, "group": split}]

    monkeypatch.setattr(world, "generate_rows", generate)
    rows = load_rows(TaskRequest("world-recall", seed=9), "validation")
    assert [(row["answer"], row["group"]) for row in rows] == [(2, "validation"), (0, "validation")]
    assert rows[1]["source"] == "world-recall validation, row 2"
    assert load_rows(TaskRequest("world-sums", dataset_config="3"), "test")[0]["answer"].endswith("#### 3")
    assert len(load_rows(TaskRequest("world-passage", limit=1), "train")) == 1
    assert calls == [
        ("world-recall", "validation", 0),
        ("world-sums", "test", 3),
        ("world-passage", "train", 0),
    ]


def test_world_tasks_take_no_data_of_the_users():
    with pytest.raises(ConfigError, match="task world-sums is built in"):
        load_rows(TaskRequest("world-sums", "x.jsonl"), "train")
    with pytest.raises(ConfigError, match="'main' is not the number of a world"):
        load_rows(TaskRequest("world-sums", dataset_config="main"), "train")


@pytest.mark.parametrize("task", [name for name in TASKS if TASKS[name].built_in])
def test_the_real_worlds_rows_load_and_do_not_overlap(task):
    parts = [
        {json.dumps([row["question"], row.get("context")]) for row in load_rows(TaskRequest(task), split)}
        for split in SPLITS
    ]
    assert all(parts)
    assert parts[0].isdisjoint(parts[2])
    assert len(load_examples(TaskRequest(task, limit=3), "test")) == 3
