"""Logits of answers, and the accuracy that is estimated from them: by loops, and by the command."""

from __future__ import annotations

import copy
import inspect
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from neurolora.cli.estimate import estimate_command
from neurolora.cli.main import main
from neurolora.errors import ConfigError, DataError
from neurolora.estimation import DEFAULT_MEASURE, MEASURES, AccuracyEstimator
from neurolora.evaluation import (
    answer_logits,
    answer_scores,
    calibrate,
    estimate_accuracy,
    identity_difference,
    identity_of,
    label_likelihood_accuracy,
)
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


@pytest.mark.parametrize("batch_size", [1, 3])
def test_a_large_vocabulary_is_reduced_batch_by_batch_in_the_order_of_the_rows(
    llama: Any, tokenizer: Any, batch_size: int
) -> None:
    rows = sum_rows()
    rows[3]["question"] = "Tom has " + "more and " * 5 + "more apples."
    seen: list[int] = []

    def largest(logits: Any) -> Any:
        seen.append(len(logits))
        return logits.max(axis=1)

    found = answer_scores(llama, tokenizer, SUMS, rows, largest, batch_size)
    each = [answer_logits(llama, tokenizer, SUMS, [row]) for row in rows]
    logits, gold = np.concatenate([one.logits for one in each]), np.concatenate([one.gold for one in each])
    assert max(seen) == batch_size
    np.testing.assert_allclose(found.scores, logits.max(axis=1), atol=1e-5)
    assert len(set(found.scores.round(4).tolist())) > 2
    assert found.right.tolist() == (logits.argmax(axis=1) == gold).tolist()
    assert (found.what, found.columns) == (each[0].what, logits.shape[1])
    np.testing.assert_allclose(
        answer_logits(llama, tokenizer, SUMS, rows, batch_size).logits, logits, atol=1e-4
    )


@pytest.mark.parametrize(("request_", "rows"), [(CHOICES, choice_rows()), (SUMS, sum_rows())])
def test_a_model_that_gives_no_numbers_is_told(
    llama: Any, tokenizer: Any, request_: TaskRequest, rows: list[dict[str, Any]]
) -> None:
    broken = copy.deepcopy(llama)
    with torch.no_grad():
        broken.lm_head.weight[7] = float("nan")
    with pytest.raises(DataError, match="the model gives NaN for row 0"):
        answer_logits(broken, tokenizer, request_, rows)


def test_what_is_asked_for_twice_is_one_version(llama: Any, tokenizer: Any) -> None:
    noise = {"perturbations": ["typos", "typos"], "strengths": [0.3, 0.9, 0.3]}
    found = calibrate(llama, tokenizer, CHOICES, choice_rows(40), **noise)
    assert [(one.perturbation, one.strength) for one in found.sets[1:]] == [("typos", 0.3), ("typos", 0.9)]


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


@pytest.mark.parametrize("choices", [2, 6])
def test_new_rows_may_have_fewer_or_more_choices_than_the_known(
    llama: Any, tokenizer: Any, choices: int
) -> None:
    known = calibrate(
        llama, tokenizer, CHOICES, choice_rows(40), measure="mean_entropy",
        perturbations=["dropped_words", "typos"], strengths=[0.3, 0.9],
    )  # fmt: skip
    names = ["Anna", "Bert", "Cora", "Dora", "Tom", "Eve"][:choices]
    rows = [{**row, "choices": names, "answer": 0} for row in choice_rows(20)]
    found = estimate_accuracy(llama, tokenizer, CHOICES, rows, known)
    logits = answer_logits(llama, tokenizer, CHOICES, rows).logits
    assert logits.shape == (20, choices)
    assert found == known.estimator.predict(logits)


def test_another_kind_of_logits_is_refused(llama: Any, tokenizer: Any) -> None:
    options = {"perturbations": ["dropped_words", "typos"], "strengths": [0.3, 0.9]}
    known = calibrate(llama, tokenizer, CHOICES, choice_rows(40), measure="mean_entropy", **options)
    with pytest.raises(DataError, match=r"first answer token, and the calibration is of log-likelihoods"):
        estimate_accuracy(llama, tokenizer, SUMS, sum_rows(), known)


class Untouched:
    """A model that must not be looked at, let alone run."""

    def __getattribute__(self, name: str) -> Any:
        pytest.fail(f"the model was asked for {name}")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"perturbations": ["typos", "noise"]}, r"no perturbation 'noise'.*typos"),
        ({"strengths": [0.1, 2]}, "from 0 to 1"),
        ({"strengths": [0.0, 0.3]}, "strengths 0, 0.3.*above 0"),
        ({"perturbations": []}, "1 versions"),
        ({"measure": "mood"}, "there is no 'mood'"),
        ({"measure": "frechet"}, "it takes features"),
        ({"size": 1}, "at least 2"),
        ({"size": 0}, "at least 2"),
        ({"size": 13}, "12 labelled rows"),
        ({"seed": -1}, "at least 0"),
    ],
)
def test_wrong_settings_are_refused_before_the_model_runs(
    tokenizer: Any, options: dict[str, Any], said: str
) -> None:
    with pytest.raises((ConfigError, DataError), match=said):
        calibrate(Untouched(), tokenizer, CHOICES, choice_rows(12), **options)


def test_every_measure_of_logits_calibrates(llama: Any, tokenizer: Any) -> None:
    """Of each row one number is kept: what is saved does not grow with the vocabulary."""
    for measure in [name for name, row in MEASURES.items() if row.takes == "logits"]:
        found = calibrate(
            llama, tokenizer, CHOICES, choice_rows(12), measure=measure,
            perturbations=["dropped_words"], strengths=[0.3, 0.9],
        )  # fmt: skip
        assert found.estimator.calibrated_.versions.scores.shape == (3, 12)


# --- the command


@pytest.fixture
def folder(tmp_path: Path, tokenizer: Any) -> Path:
    return make_folder(tmp_path, tokenizer)


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> Path:
    """The same with a calibration; not to be changed."""
    made = make_folder(tmp_path_factory.mktemp("calibrated"), tokenizer)
    saved_by(made)
    return made


def make_folder(tmp_path: Path, tokenizer: Any) -> Path:
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
    assert told["calibration"]["request"]["task"] == "text"
    assert told["calibration"]["environment"]["versions"]["torch"]
    assert "<svg" in page.read_text()

    (folder / "data" / "validation.jsonl").unlink()  # a saved calibration needs no labelled rows
    assert main(words(folder, "--calibration", str(saved), "--json")) == 0
    again = json.loads(capsys.readouterr().out)
    assert {key: again[key] for key in ("accuracy", "low", "high", "value")} == {
        key: told[key] for key in ("accuracy", "low", "high", "value")
    }


@pytest.mark.parametrize("lost", ["--save", "--html"])
def test_a_file_that_cannot_be_written_loses_neither_the_estimate_nor_the_other_file(
    folder: Path, capsys: pytest.CaptureFixture[str], lost: str
) -> None:
    (folder / "taken").write_text("")
    files = {"--save": folder / "calibration.json", "--html": folder / "fit.html"}
    files[lost] = folder / "taken" / "file"
    options = ["--strengths", "0.2,0.8", *(word for pair in files.items() for word in map(str, pair))]
    assert main(words(folder, *options)) == 6
    assert "95% interval" in capsys.readouterr().out
    assert [path.is_file() for path in files.values()] == [lost != "--save", lost != "--html"]


def test_more_rows_than_there_are_is_told_before_the_model_runs(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("neurolora.cli.estimate._calibrate", None)
    assert main(words(folder, "--size", "30")) == 3
    assert "new.jsonl has 20 rows. Give at least 30 rows" in capsys.readouterr().err.replace("\n", " ")


def test_rows_that_the_model_has_learned_from_are_warned_of(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "data" / "validation.jsonl").rename(folder / "data" / "train.jsonl")
    assert main(words(folder, "--strengths", "0.2,0.8", "--split", "train")) == 0
    assert "WARNING: on rows that a model has learned from" in capsys.readouterr().err


def saved_by(folder: Path, *more: str) -> Path:
    saved = folder / "calibration.json"
    options = ["--measure", "mean_entropy", "--strengths", "0.2,0.8", "--save", str(saved)]
    assert main(words(folder, *options, *more)) == 0
    return saved


def test_a_smaller_file_is_measured_at_its_own_size_unless_a_size_was_asked_for(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved = saved_by(folder)
    lines = (folder / "new.jsonl").read_text().splitlines()
    (folder / "few.jsonl").write_text("\n".join(lines[:7]))
    few = ["estimate", str(folder / "adapter"), "--data", str(folder / "few.jsonl"), "--calibration"]
    capsys.readouterr()
    assert main([*few, str(saved)]) == 0
    assert "of 7 rows" in capsys.readouterr().out
    assert main([*few, str(saved_by(folder, "--size", "10"))]) == 3
    assert "Give at least 10 rows" in capsys.readouterr().err


@pytest.mark.parametrize(
    "more",
    [
        ["--calibrate", "text"],
        ["--measure", "mde"],
        ["--rows", "500"],
        ["--size", "5"],
        ["--perturbations", "typos"],
        ["--strengths", "0.1"],
        ["--seed", "0"],
        ["--split", "validation"],
        ["--dataset-name", "x"],
    ],
)
def test_what_a_calibration_has_decided_is_not_asked_again(
    tmp_path: Path, more: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Before anything is read: neither the adapter nor the calibration is there."""
    assert main(words(tmp_path, "--calibration", str(tmp_path / "none.json"), *more)) == 2
    assert f"Leave out {more[0]}" in capsys.readouterr().err


def test_a_calibration_serves_its_own_model_alone(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    saved = saved_by(folder)
    file = folder / "adapter" / "adapter_model.safetensors"
    tensors = load_file(file)
    save_file({name: value + 0.01 for name, value in tensors.items()}, file, {"format": "pt"})
    capsys.readouterr()
    assert main(words(folder, "--calibration", str(saved))) == 4
    assert "it was made with adapter" in capsys.readouterr().err
    save_file(tensors, file, {"format": "pt"})
    assert main(words(folder, "--calibration", str(saved))) == 0
    base = folder / "base" / "model.safetensors"
    save_file({name: 2 * value for name, value in load_file(base).items()}, base, {"format": "pt"})
    assert main(words(folder, "--calibration", str(saved))) == 4
    assert "it was made on base" in capsys.readouterr().err


def test_a_plain_model_is_known_exactly_and_a_base_in_any_dtype(llama: Any, adapted: Any) -> None:
    plain, own = identity_of(llama), identity_of(adapted)
    assert identity_difference(plain, llama) is None
    assert identity_difference(own, adapted) is None
    assert json.loads(json.dumps(own)) == own
    assert "made with no adapter" in str(identity_difference(plain, adapted))
    tuned, rounded = copy.deepcopy(llama), copy.deepcopy(adapted)
    with torch.no_grad():
        for weight in tuned.parameters():
            weight *= 1.001
        for name, weight in rounded.named_parameters():
            if ".neurolora_" not in name and "lora_" not in name:
                weight.copy_(weight.bfloat16())
    assert "made on base" in str(identity_difference(plain, tuned))
    assert identity_difference(own, rounded) is None


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ({"estimator": []}, "it is no mapping"),
        ({"estimator": None}, "it is no mapping"),
        ({"sets": [1, 2]}, "it is damaged"),
        ({"sets": []}, "0 sets"),
        ({"request": {"task": "text", "colour": "red"}}, "unknown key 'colour'"),
        ({"rows": "many"}, "it is damaged"),
        ({"model": {"base": None}}, "what it says of its model is damaged"),
        ({"model": []}, "what it says of its model is damaged"),
        ({"what": "logits of something"}, "the calibration is of 3 logits of something"),
    ],
)
def test_a_damaged_calibration_is_told(
    calibrated: Path, tmp_path: Path, damage: dict[str, Any], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    document = json.loads((calibrated / "calibration.json").read_text())
    path = tmp_path / "damaged.json"
    path.write_text(json.dumps(document | damage))
    assert main(words(calibrated, "--calibration", str(path))) == 3
    assert said in " ".join(capsys.readouterr().err.split())


def test_data_unlike_the_calibration_are_warned_of(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    saved = saved_by(folder)
    document = json.loads(saved.read_text())
    estimator = AccuracyEstimator.from_state(document["estimator"])
    versions = estimator.calibrated_.versions
    far = AccuracyEstimator("mean_entropy")
    far.fit_versions(versions.scores + 2 * np.ptp(estimator.values_), versions.right, columns=3)
    document["estimator"] = far.state_dict()
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


def test_a_wrong_measure_is_told_before_a_model_is_loaded(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("neurolora.evaluation.load_for_inference", lambda *_, **__: pytest.fail("loaded"))
    assert main(words(folder, "--measure", "mood")) == 2
    assert main(words(folder, "--measure", "frechet")) == 2
    assert "it takes features" in capsys.readouterr().err


def test_the_command_and_the_library_measure_alike_unless_told() -> None:
    asked = [inspect.signature(one).parameters["measure"].default for one in (estimate_command, calibrate)]
    assert asked == [DEFAULT_MEASURE] * 2
