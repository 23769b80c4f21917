"""`neurolora train` from words to folder: flags, scores, pages, exit codes, JSON alone on stdout."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from neurolora.cli.main import main


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, tiny_llama: ModuleType) -> Path:
    folder = tmp_path_factory.mktemp("command")
    tiny_llama.make_model(folder / "model")
    tiny_llama.make_rows(folder / "data")
    settings = tiny_llama.settings(folder, max_steps=2, eval_strategy="no", logging_steps=1)
    del settings["output_dir"], settings["eval_steps"]
    (folder / "run.yaml").write_text(yaml.safe_dump(settings))
    return folder


def words(base: Path, output: Path, *more: str) -> list[str]:
    return ["train", str(base / "run.yaml"), "--output-dir", str(output), *more]


def test_trains_scores_and_writes_the_pages(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    scoring = ["--tasks", "completion", "--split=validation", "--before", "--eval.batch_size", "2"]
    assert main(words(base, run, "--json", "--learning_rate=3e-2", *scoring)) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["steps"], document["output_dir"]) == (2, str(run))
    assert set(document["scores"]) == {"before", "after"}
    assert document["scores"]["before"] != document["scores"]["after"]
    assert yaml.safe_load((run / "config.yaml").read_text())["train"]["learning_rate"] == 3e-2
    assert "library_name: peft" in (run / "README.md").read_text()
    assert "<svg" in (run / "report.html").read_text()
    assert document["report"] == str(run / "report.html")

    (run / "eval" / "after.json").unlink()  # as if killed between training and scoring
    assert main(words(base, run, "--json", "--learning_rate=3e-2", "--resume", *scoring)) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["scores"] == document["scores"]


def test_a_table_for_people(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words(base, tmp_path / "run", "--method", "lora", "--r", "2", "--keys-unknown")) == 2
    text = (base / "run.yaml").read_text()
    lora = [line for line in text.splitlines() if not line.startswith(("top_k", "gate_dim"))]
    (tmp_path / "lora.yaml").write_text("\n".join(lora))
    flags = ["--method", "lora", "--output-dir", str(tmp_path / "run")]
    assert main(["train", *flags, "--config", str(tmp_path / "lora.yaml")]) == 0
    shown = capsys.readouterr()
    assert "lora on completion" in shown.out
    assert "trainable parameters" in shown.out
    assert "training: 100%" in shown.err


def test_dry_run_trains_and_writes_nothing(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words(base, tmp_path / "run", "--dry-run", "--adapter.r", "4")) == 0
    out = capsys.readouterr().out
    resolved: dict[str, Any] = yaml.safe_load(out)  # the figures are comments, so it can be used as a config
    assert resolved["adapter"]["r"] == 4
    assert "# optimizer steps       2" in out
    assert main(words(base, tmp_path / "run", "--dry-run", "--json")) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["parameters"]["trainable"] == sum(plan["parameters"]["by_group"].values())
    assert list(tmp_path.iterdir()) == []


def test_keys_lists_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    from neurolora.training.config import known_keys

    assert main(["train", "--keys", "--json"]) == 0
    listed = {row["key"] for row in json.loads(capsys.readouterr().out)}
    assert listed == set(known_keys("neurolora"))


@pytest.mark.parametrize(
    ("more", "code", "message"),
    [
        (["--learning-rat", "1"], 2, "did you mean train.learning_rate?"),
        (["--top-k", "99"], 2, "`top_k` (99) must not be larger"),
        (["--target-modules", "nothing_like_it"], 2, "nothing_like_it"),
        (["--dataset-name", "missing.jsonl"], 3, "missing.jsonl"),
        (
            ["--learning-rate", "1e30", "--max-grad-norm", "0", "--warmup-steps", "0", "--max-steps", "4"],
            5,
            "so training stopped and saved nothing",
        ),
    ],
)
def test_exit_codes(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], code: int, message: str
) -> None:
    assert main(words(base, tmp_path / "run", *more)) == code
    shown = capsys.readouterr()
    assert shown.out == ""
    assert message in shown.err
    assert "Traceback" not in shown.err


def test_an_output_that_cannot_be_written(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert main(words(base, tmp_path / "file" / "run")) == 6
    assert "Choose an --output_dir" in capsys.readouterr().err
