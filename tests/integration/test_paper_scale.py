"""The paper's own scale, on a tiny model and files in the benchmarks' original formats: the same code."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pytest

from neurolora.cli.main import main


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """MMLU's folders of CSV, ScienceQA's problems and splits, GSM8K's JSON lines."""
    line = '"Which w{0} is w1?","w{0}","w2","w3","w4",A\n'
    for folder, word, count in (("auxiliary_train", "train", 12), ("val", "val", 4), ("test", "test", 4)):
        path = tmp_path / "mmlu" / folder / f"astronomy_{word}.csv"
        path.parent.mkdir(parents=True)
        path.write_text("".join(line.format(i) for i in range(count)))
    problems = {
        str(i): {
            "question": f"w{i} w{i + 1}",
            "choices": ["w1", "w2"],
            "answer": i % 2,
            "hint": "",
            "image": None,
        }
        for i in range(20)
    }
    (tmp_path / "scienceqa").mkdir()
    (tmp_path / "scienceqa" / "problems.json").write_text(json.dumps(problems))
    ids = list(problems)
    splits = {"train": ids[:12], "val": ids[12:16], "test": ids[16:]}
    (tmp_path / "scienceqa" / "pid_splits.json").write_text(json.dumps(splits))
    (tmp_path / "gsm8k").mkdir()
    for split, count in (("train", 40), ("test", 4)):
        rows = [{"question": f"w{i} w{i + 2}", "answer": f"w1 w2\n#### {i}"} for i in range(count)]
        (tmp_path / "gsm8k" / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def test_table_1_runs_through(data: Path, tiny_llama: ModuleType) -> None:
    model = tiny_llama.make_model(data / "model", dropout=0.0)
    changes = [
        *(f"tasks.{task}.data.dataset_name={data / task}" for task in ("mmlu", "scienceqa", "gsm8k")),
        "data.validation_fraction=0.2", "data.max_length=48", "model.dtype=float32", "seeds=[0]",
        "search.most=1", "search.limit=2", "eval={limit: 1, batch_size: 1}", "processes=1",
        "train.num_train_epochs=4", "train.per_device_train_batch_size=2", "train.use_cpu=true",
        "train.bf16=false", "train.deepspeed=null",
    ]  # fmt: skip
    flags = [word for change in changes for word in ("--set", change)]
    places = ["--work-dir", str(data / "work"), "--jobs", "1"]
    assert main(["reproduce", "table1", "--scale", "paper", "--model", str(model), *flags, *places]) == 0
    (path,) = (data / "work" / "results" / "table1").glob("paper-model-*.json")
    result = json.loads(path.read_text())
    assert len(result["rows"]) == 7
    for row in result["rows"]:
        assert all(len(values) == 1 for values in row["values"].values())
