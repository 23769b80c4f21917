"""Folders in the original and the hub's layouts, and the hub itself through load_dataset."""

import re
from pathlib import Path

import datasets
import pytest

from neurolora.errors import ConfigError, DataError
from neurolora.tasks import TaskRequest, load_rows
from neurolora.tasks.sources import looks_local, split_of_file
from neurolora.tasks.splits import USUAL_NAMES

GSM = [{"question": f"How much is {n} + 1?", "answer": f"{n} + 1 = {n + 1}\n#### {n + 1}"} for n in range(4)]


def save_hub_layout(folder: Path, splits: dict[str, datasets.Dataset]) -> Path:
    for split, data in splits.items():
        folder.mkdir(parents=True, exist_ok=True)
        data.to_parquet(folder / f"{split}-00000-of-00001.parquet")
    return folder


def gsm_splits():
    return {"train": datasets.Dataset.from_list(GSM[:3]), "test": datasets.Dataset.from_list(GSM[3:])}


def questions(request, split):
    return [row["question"] for row in load_rows(request, split)]


def test_a_clone_of_the_hubs_folder_is_read_by_its_configuration(tmp_path):
    save_hub_layout(tmp_path / "main", gsm_splits())
    save_hub_layout(tmp_path / "socratic", {"train": datasets.Dataset.from_list(GSM[:1])})
    assert questions(TaskRequest("gsm8k", str(tmp_path)), "train") == [row["question"] for row in GSM[:3]]
    assert len(questions(TaskRequest("gsm8k", str(tmp_path), dataset_config="socratic"), "train")) == 1


def test_a_folder_of_save_to_disk(tmp_path):
    datasets.DatasetDict(gsm_splits()).save_to_disk(tmp_path / "saved")
    request = TaskRequest("gsm8k", str(tmp_path / "saved"))
    assert questions(request, "test") == [GSM[3]["question"]]
    assert load_rows(request, "test")[0]["source"].endswith("test, row 1")


def test_a_damaged_folder_of_save_to_disk_is_an_error(tmp_path):
    datasets.DatasetDict(gsm_splits()).save_to_disk(tmp_path / "saved")
    (tmp_path / "saved" / "train" / "state.json").write_text("{")
    with pytest.raises(DataError, match="as a saved data set"):
        load_rows(TaskRequest("gsm8k", str(tmp_path / "saved")), "train")


def test_a_hub_name_goes_through_load_dataset(tmp_path, monkeypatch):
    save_hub_layout(tmp_path / "main", gsm_splits())
    asked = []
    real = datasets.load_dataset

    def redirected(name, config=None):
        asked.append((name, config))
        return real("parquet", data_dir=str(tmp_path / (config or "")), cache_dir=str(tmp_path / "cache"))

    monkeypatch.setattr(datasets, "load_dataset", redirected)
    assert questions(TaskRequest("gsm8k"), "train") == [row["question"] for row in GSM[:3]]
    rows = load_rows(TaskRequest("gsm8k", "someone/gsm8k-copy", dataset_config="main"), "test")
    assert asked == [("openai/gsm8k", "main"), ("someone/gsm8k-copy", "main")]
    assert rows[0]["source"] == "someone/gsm8k-copy/main/test, row 1"


def test_another_hub_name_does_not_get_the_tasks_own_configuration(monkeypatch):
    asked = []

    def refuse(name, config=None):
        asked.append(config)
        raise FileNotFoundError("no such data set")

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    with pytest.raises(DataError, match=r"loading 'someone/else' from the hub: FileNotFoundError: no such"):
        load_rows(TaskRequest("gsm8k", "someone/else"), "train")
    assert asked == [None]


def test_images_of_the_hubs_layout_are_not_decoded(tmp_path):
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "question": datasets.Value("string"),
            "choices": datasets.Sequence(datasets.Value("string")),
            "answer": datasets.Value("int8"),
            "hint": datasets.Value("string"),
            "subject": datasets.Value("string"),
        }
    )
    common = {"choices": ["x", "y"], "answer": 1, "hint": "h", "subject": "s"}
    values = [
        {**common, "image": {"bytes": b"not a picture", "path": None}, "question": "with a picture"},
        {**common, "image": None, "question": "text only"},
    ]
    data = datasets.Dataset.from_list(values, features=features)
    for folder in (save_hub_layout(tmp_path / "hub", {"test": data}), tmp_path / "saved"):
        if folder.name == "saved":
            datasets.DatasetDict({"test": data}).save_to_disk(folder)
        rows = load_rows(TaskRequest("scienceqa", str(folder)), "test")
        assert [(row["question"], row["context"]) for row in rows] == [("text only", "h")]


@pytest.mark.parametrize(
    ("file", "split"),
    [
        ("train.jsonl", "train"),
        ("high_school_us_history_dev.csv", "dev"),
        ("validation-00000-of-00001.parquet", "validation"),
        ("dev/x.csv", "dev"),
        ("test/mc_train.csv", "test"),
        ("latest.jsonl", ""),
        ("TEST.JSON", "test"),
    ],
)
def test_the_split_of_a_file(file, split):
    assert split_of_file(Path("base") / file, USUAL_NAMES, Path("base")) == split


def test_files_of_other_names_do_not_count_beside_named_ones(write, tmp_path):
    write("train.jsonl", GSM)
    write("notes.json", {"not": "rows"})
    write(".hidden/train.jsonl", GSM)
    assert len(load_rows(TaskRequest("gsm8k", str(tmp_path)), "train")) == len(GSM)


@pytest.mark.parametrize(
    ("name", "local"),
    [
        ("openai/gsm8k", False),
        ("imdb", False),
        ("./data", True),
        ("data/train.jsonl", True),
        ("a/b/c", True),
        ("~/data", True),
    ],
)
def test_what_looks_like_a_path(name, local):
    assert looks_local(name) is local


def test_missing_empty_and_unclear_folders(write, tmp_path):
    with pytest.raises(DataError, match="there is no such file or folder"):
        load_rows(TaskRequest("gsm8k", "./no/such/folder"), "train")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="the folder has no data file"):
        load_rows(TaskRequest("gsm8k", str(tmp_path / "empty")), "train")
    write("two/a.jsonl", GSM)
    write("two/b.jsonl", GSM)
    with pytest.raises(DataError, match=r"no file name says its split: 'a\.jsonl', 'b\.jsonl'"):
        load_rows(TaskRequest("gsm8k", str(tmp_path / "two")), "train")


def test_a_task_without_data_of_its_own_asks_for_some():
    with pytest.raises(ConfigError, match=r"task text: it has no data of its own\. Set dataset_name"):
        load_rows(TaskRequest("text"), "train")


def test_an_unknown_task_gets_the_nearest_name():
    with pytest.raises(ConfigError, match=re.escape("unknown task 'gsm8'. Did you mean 'gsm8k'?")):
        load_rows(TaskRequest("gsm8"), "train")


def test_columns_must_be_fields_of_the_task(write):
    path = str(write("train.jsonl", [{"ask": "q", "answer": "#### 1"}]))
    rows = load_rows(TaskRequest("gsm8k", path, columns={"question": "ask"}), "train")
    assert rows[0]["question"] == "q"
    with pytest.raises(ConfigError, match=r"unknown field 'questoin'\. Did you mean 'question'"):
        load_rows(TaskRequest("gsm8k", path, columns={"questoin": "ask"}), "train")
    with pytest.raises(DataError, match=r"field 'aks' of .*train\.jsonl, line 1: .*Did you mean 'ask'"):
        load_rows(TaskRequest("gsm8k", path, columns={"question": "aks"}), "train")


def test_a_file_of_another_name_is_not_train_beside_a_test_file(write, tmp_path):
    write("test.jsonl", GSM)
    write("answers_of_the_test.jsonl", GSM)
    write("rest.jsonl", GSM)
    with pytest.raises(DataError, match="there is 'test'"):
        load_rows(TaskRequest("gsm8k", str(tmp_path)), "train")
