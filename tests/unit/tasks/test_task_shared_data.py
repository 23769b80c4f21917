"""The real files beside the project: every row loads, and as many as their list of sources says."""

import json
import time

import pytest

from neurolora.errors import DataError
from neurolora.tasks import (
    SPLITS,
    TaskRequest,
    encode_all,
    encode_pair,
    load_examples,
    load_rows,
    prepare_tokenizer,
)

pytestmark = pytest.mark.shared


def count(task, folder, split, **values):
    return len(load_rows(TaskRequest(task, str(folder), **values), split))


def test_gsm8k_is_complete_and_quick(shared_data):
    start = time.perf_counter()
    assert count("gsm8k", shared_data / "gsm8k", "train") == 7473
    assert time.perf_counter() - start < 5
    assert count("gsm8k", shared_data / "gsm8k", "test") == 1319
    assert count("gsm8k", shared_data / "gsm8k" / "test.jsonl", "test") == 1319
    with pytest.raises(DataError, match="set validation_fraction"):
        load_rows(TaskRequest("gsm8k", str(shared_data / "gsm8k")), "validation")


def test_scienceqa_text_only(shared_data):
    counts = [count("scienceqa", shared_data / "scienceqa", split) for split in SPLITS]
    assert counts == [520, 180, 2224]


def test_mmlu_copy_with_a_header(shared_data):
    rows = load_rows(TaskRequest("mmlu", str(shared_data / "mmlu")), "test")
    assert len({row["group"] for row in rows}) == 37
    files = list((shared_data / "mmlu" / "dev").glob("*.csv"))
    assert count("mmlu", shared_data / "mmlu", "train") == 5 * len(files)  # five few-shot rows a subject


def test_mmlu_without_its_headers_gives_the_same_rows(shared_data, tmp_path):
    folder = tmp_path / "test"
    folder.mkdir()
    for file in (shared_data / "mmlu" / "test").glob("a*.csv"):
        lines = file.read_text(encoding="utf-8").split("\n", 1)[1]
        (folder / file.name).write_text(lines, encoding="utf-8")
    fields = ("question", "choices", "answer", "group")
    ours = load_rows(TaskRequest("mmlu", str(tmp_path)), "test")
    theirs = load_rows(TaskRequest("mmlu", str(shared_data / "mmlu")), "test")
    subjects = {row["group"] for row in ours}
    same = [row for row in theirs if row["group"] in subjects]
    assert [[row[f] for f in fields] for row in ours] == [[row[f] for f in fields] for row in same]


@pytest.mark.parametrize(
    ("name", "train", "test"),
    [
        ("agnews", 4000, 7600),
        ("amazon", 5000, 7600),
        ("SST-2", 2000, 872),
        ("QQP", 2000, 7600),
        ("RTE", 2000, 277),
    ],
)
def test_labelled_text(shared_data, name, train, test):
    folder = shared_data / "textcls" / name
    labels = json.loads((folder / "labels.json").read_text())
    for split, size in (("train", train), ("test", test)):
        raw = json.loads((folder / f"{split}.json").read_text())
        rows = load_rows(TaskRequest("text", str(folder)), split)
        assert len(rows) == size
        assert [row["labels"][row["label"]] for row in rows] == [one["label"] for one in raw]
        assert rows[0]["labels"] == labels


def test_dbpedia_has_one_file_and_is_divided_on_request(shared_data):
    folder = shared_data / "textcls" / "dbpedia"
    assert count("text", folder, "test") == 7600
    with pytest.raises(DataError, match=r"there is 'test'.*set test_fraction"):
        load_rows(TaskRequest("text", str(folder)), "train")
    request = TaskRequest("text", str(folder), test_fraction=0.2, validation_fraction=0.1)
    parts = [{row["source"] for row in load_rows(request, split)} for split in SPLITS]
    assert sum(map(len, parts)) == len(set.union(*parts)) == 7600
    for part, share in zip(parts, (0.7, 0.1, 0.2), strict=True):
        assert abs(len(part) - 7600 * share) < 4 * (7600 * share * (1 - share)) ** 0.5


def test_the_real_model_reads_real_questions_as_lm_eval_does(shared_data):
    from lm_eval.models.huggingface import HFLM
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = shared_data.parent / "models" / "stories260K"
    if not folder.is_dir():
        pytest.skip(f"no model at {folder}")
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert prepare_tokenizer(tokenizer, model.config) == ()
    harness = HFLM(pretrained=model, tokenizer=tokenizer, device="cpu")
    requests = [TaskRequest("gsm8k", str(shared_data / "gsm8k"), limit=100)]
    requests += [TaskRequest("scienceqa", str(shared_data / "scienceqa"), limit=100)]
    for request in requests:
        examples = load_examples(request, "test")
        for one in examples:
            pair = encode_pair(tokenizer, one.prompt, one.completion)
            assert (pair.prompt, pair.completion) == harness._encode_pair(one.prompt, one.completion)
        rows, report = encode_all(examples, tokenizer, 512, "drop")
        assert report.joined == 0
        assert all(row["labels"][-1] == tokenizer.eos_token_id for row in rows)
        assert all(row["input_ids"][0] == tokenizer.bos_token_id for row in rows)
