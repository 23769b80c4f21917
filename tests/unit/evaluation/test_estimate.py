"""Logits of answers, and the accuracy that is estimated from them: by loops, and by the command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from neurolora.cli.main import main
from neurolora.errors import ConfigError, DataError
from neurolora.evaluation import answer_logits, calibrate, label_likelihood_accuracy
from neurolora.tasks import TaskRequest, make_example, save_task, template_of

CHOICES = TaskRequest(task="scienceqa", choice_template=" {{ choices[index] }}")
SUMS = TaskRequest(task="gsm8k")
WORDS = ["lamp", "harbour", "apples", "Tom", "Anna", "Bert", "film", "good", "bad", "buys", "keeps", "more"]


def choice_rows(count: int = 12) -> list[dict[str, Any]]:
    """Rows of two to four choices."""
    return [
        {
            "question": f"Who keeps the {WORDS[i % 12]} of the {WORDS[(5 * i + 1) % 12]}?",
            "context": "",
            "choices": ["Anna", "Bert", "Cora", "Dora"][: 2 + i % 3],
            "answer": i // 3 % 2,
            "source": f"row {i}",
        }
        for i in range(count)
    ]


def sum_rows(count: int = 7) -> list[dict[str, Any]]:
    return [
        {"question": f"Tom has {i} apples.", "answer": f"{i}\n#### {i}", "source": f"row {i}"}
        for i in range(count)
    ]


@pytest.mark.parametrize("batch_size", [1, 5])
def test_choices_are_their_log_likelihoods_and_what_is_not_there_counts_for_nothing(
    llama: Any, tokenizer: Any, batch_size: int
) -> None:
    rows = choice_rows()
    found = answer_logits(llama, tokenizer, CHOICES, rows, batch_size)
    examples = [make_example(template_of(CHOICES), row) for row in rows]
    expected = label_likelihood_accuracy(llama, tokenizer, examples)
    assert found.logits.shape == (12, 4)
    for own, likelihoods in zip(found.logits, expected.log_likelihoods, strict=True):
        np.testing.assert_allclose(own[: len(likelihoods)], likelihoods, atol=1e-4)
        assert (own[len(likelihoods) :] < max(likelihoods) - 1000).all()
    assert found.accuracy == pytest.approx(float(expected))
    assert 0 < found.accuracy < 1


@pytest.mark.parametrize("batch_size", [1, 3])
def test_without_choices_it_is_the_first_answer_token(llama: Any, tokenizer: Any, batch_size: int) -> None:
    rows = sum_rows()
    found = answer_logits(llama, tokenizer, SUMS, rows, batch_size)
    for own, gold, row in zip(found.logits, found.gold, rows, strict=True):
        example = make_example(template_of(SUMS), row)
        prompt, whole = (
            tokenizer.encode(example.prompt),
            tokenizer.encode(example.prompt + example.completion),
        )
        with torch.no_grad():
            expected = llama(torch.tensor([prompt])).logits[0, -1]
        np.testing.assert_allclose(own, expected.numpy(), atol=1e-4)
        assert gold == whole[len(prompt)]


def test_no_rows_are_refused(llama: Any, tokenizer: Any) -> None:
    with pytest.raises(DataError, match="no rows"):
        answer_logits(llama, tokenizer, CHOICES, [])


def test_calibration_measures_the_model_on_every_version_of_the_rows(llama: Any, tokenizer: Any) -> None:
    told: list[tuple[str, int, int]] = []
    options = {"perturbations": ["dropped_words", "typos"], "strengths": [0.3, 0.9]}
    found = calibrate(
        llama, tokenizer, CHOICES, choice_rows(40), measure="mean_entropy",
        progress=lambda *what: told.append(what), **options,
    )  # fmt: skip
    assert [(one.perturbation, one.strength) for one in found.sets] == [
        ("as it is", 0.0), ("dropped_words", 0.3), ("dropped_words", 0.9), ("typos", 0.3), ("typos", 0.9),
    ]  # fmt: skip
    clean = answer_logits(llama, tokenizer, CHOICES, choice_rows(40))
    assert found.sets[0].accuracy == pytest.approx(clean.accuracy)
    estimate = found.estimator.predict(clean.logits)
    assert estimate.value == pytest.approx(found.estimator.values_[0])
    assert not estimate.outside
    assert [count for _, count, _ in told] == [0, 1, 2, 3, 4, 5]
    assert found.what == "log-likelihoods of the choices"


def test_a_perturbation_that_there_is_not_is_refused_before_the_model_runs(tokenizer: Any) -> None:
    with pytest.raises(ConfigError, match=r"no perturbation 'noise'.*typos"):
        calibrate(None, tokenizer, CHOICES, choice_rows(), perturbations=["typos", "noise"])


# --- the command


@pytest.fixture
def folder(tmp_path: Path, tokenizer: Any) -> Path:
    """A classifier's adapter on its base, labelled rows of its task, and a file without labels."""
    from peft import LoraConfig, get_peft_model
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(
        vocab_size=320, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=64, num_labels=3, initializer_range=0.5,
    )  # fmt: skip
    lora = LoraConfig(r=2, init_lora_weights=False, target_modules=["query"], task_type="SEQ_CLS")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        BertForSequenceClassification(config).save_pretrained(tmp_path / "base")
        base = BertForSequenceClassification.from_pretrained(tmp_path / "base")
        adapted = get_peft_model(base, lora)
    tokenizer.save_pretrained(tmp_path / "adapter")
    adapted.save_pretrained(tmp_path / "adapter")
    request = TaskRequest(task="text", dataset_name=str(tmp_path / "data"), labels=tuple("ABC"))
    save_task(tmp_path / "adapter", request)

    # The model's own answers are the right ones, so that noise can only make it worse.
    sentences = [" ".join(WORDS[(i * j + j) % 12] for j in range(1, 3 + i % 6)) for i in range(60)]
    blank = [{"sentence": one, "label": 0} for one in sentences]
    gold = answer_logits(adapted, tokenizer, request, blank).logits.argmax(axis=1)
    assert len(set(gold)) > 1
    rows = [{"sentence": one, "label": int(label)} for one, label in zip(sentences, gold, strict=True)]
    (tmp_path / "data").mkdir()
    for name, kept in (("data/validation", rows[:40]), ("data/train", rows[:2])):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in kept))
    unlabelled = [json.dumps({"sentence": row["sentence"]}) for row in rows[40:]]
    (tmp_path / "new.jsonl").write_text("\n".join(unlabelled))
    return tmp_path


def words(folder: Path, *more: str) -> list[str]:
    return ["estimate", str(folder / "adapter"), "--data", str(folder / "new.jsonl"), *more]


def test_an_estimate_with_its_interval_its_page_and_its_calibration(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved, page = folder / "calibration.json", folder / "fit.html"
    options = [
        "--measure",
        "mean_entropy",
        "--strengths",
        "0.2,0.8",
        "--save",
        str(saved),
        "--html",
        str(page),
    ]
    assert main(words(folder, *options, "--json")) == 0
    told = json.loads(capsys.readouterr().out)
    assert 0 <= told["low"] <= told["accuracy"] <= told["high"] <= 1
    assert told["rows"] == 20
    assert len(told["calibration"]["sets"]) == 7
    assert told["calibration"]["estimator"]["size"] == 20
    assert told["calibration"]["environment"]["versions"]["torch"]
    assert "<svg" in page.read_text()

    (folder / "data" / "validation.jsonl").unlink()  # a saved calibration needs no labelled rows
    assert main(words(folder, "--calibration", str(saved), "--json")) == 0
    again = json.loads(capsys.readouterr().out)
    assert {key: again[key] for key in ("accuracy", "low", "high", "value")} == {
        key: told[key] for key in ("accuracy", "low", "high", "value")
    }


def test_data_unlike_the_calibration_are_warned_of(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    saved = folder / "calibration.json"
    assert main(words(folder, "--measure", "mean_entropy", "--save", str(saved))) == 0
    document = json.loads(saved.read_text())
    values = document["estimator"]["values"]
    document["estimator"]["values"] = [value + 2 * (max(values) - min(values)) for value in values]
    saved.write_text(json.dumps(document))
    capsys.readouterr()
    page = folder / "far.html"
    assert main(words(folder, "--calibration", str(saved), "--html", str(page))) == 0
    assert "WARNING: the measure lies" in capsys.readouterr().out
    assert "outside the calibrated range" in page.read_text()


@pytest.mark.parametrize(
    ("more", "code", "said"),
    [
        (["--split", "test"], 2, "test rows are for scores alone"),
        (["--measure", "mood"], 2, "there is no 'mood'"),
        (["--perturbations", "noise"], 2, "no perturbation 'noise'"),
        (["--strengths", "much"], 2, "Write numbers"),
        (["--strengths", "2"], 2, "from 0 to 1"),
        (["--calibration", "nowhere.json"], 3, "reading the calibration"),
        (["--data", "nowhere.jsonl"], 3, "no such file"),
    ],
)
def test_what_is_asked_wrongly_is_told(
    folder: Path, more: list[str], code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words(folder, *more)) == code
    assert said in capsys.readouterr().err
