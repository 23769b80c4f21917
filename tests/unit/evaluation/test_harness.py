"""`evaluate` against scores computed by hand; batch size, encoding, offline, few-shot, settings."""

from __future__ import annotations

import json
import logging
import math
import statistics
from pathlib import Path
from typing import Any

import pytest
import torch

from neurolora.errors import ConfigError, DataError
from neurolora.evaluation import evaluate
from neurolora.evaluation.harness import default_new_tokens, stop_texts
from neurolora.evaluation.harness_model import AdaptedLM
from neurolora.tasks import Example, TaskRequest, encode, load_examples


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def text_request(folder: Path, count: int = 23) -> TaskRequest:
    """Labelled text with labels of several tokens and unequal length."""
    folder.mkdir(exist_ok=True)
    labels = ["positive", "negative", "no opinion at all"]
    for split in ("train", "test"):
        rows = [
            {
                "sentence": f"The {split} film {number} was {'good ' * (number % 4)}.",
                "label": labels[number % 3],
            }
            for number in range(count)
        ]
        write_rows(folder / f"{split}.jsonl", rows)
    return TaskRequest(task="text", dataset_name=str(folder), labels=tuple(labels))


def sums_request(folder: Path, count: int = 7) -> TaskRequest:
    folder.mkdir(exist_ok=True)
    for split in ("train", "test"):
        rows = [
            {
                "question": f"Tom has {n} apples and buys 2 ({split}).",
                "answer": f"{n} + 2 = {n + 2}.\n#### {n + 2}",
            }
            for n in range(count)
        ]
        write_rows(folder / f"{split}.jsonl", rows)
    return TaskRequest(task="gsm8k", dataset_name=str(folder))


def completion_request(folder: Path) -> TaskRequest:
    folder.mkdir(exist_ok=True)
    rows = [{"prompt": f"A{'. Anna' * n}", "completion": f" B{', Bert' * (4 - n)}"} for n in range(5)]
    write_rows(folder / "test.jsonl", rows)
    return TaskRequest(task="completion", dataset_name=str(folder))


def by_hand(model: Any, tokenizer: Any, example: Example) -> list[float]:
    """Log-likelihood of each choice from the ids of training, one pass each, without its end token."""
    found = []
    for choice in example.choices:
        encoded = encode(Example(example.prompt, choice), tokenizer, 10_000)
        assert encoded is not None
        ids, labels = encoded["input_ids"][:-1], encoded["labels"][:-1]
        with torch.no_grad():
            log_probabilities = model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
        places = [place for place, label in enumerate(labels) if label != -100]
        found.append(sum(float(log_probabilities[place - 1, ids[place]]) for place in places))
    return found


def test_likelihoods_accuracy_and_error_are_those_computed_by_hand(
    adapted: Any, tokenizer: Any, tmp_path: Path
) -> None:
    request = text_request(tmp_path / "data")
    found = evaluate(adapted, tokenizer, [request], batch_size=4, progress=False)
    examples = load_examples(request, "test")
    right = []
    for example, sample in zip(examples, found.samples["text"], strict=True):
        expected = by_hand(adapted, tokenizer, example)
        assert sample["log_likelihoods"] == pytest.approx(expected, abs=1e-3)
        assert sample["source"] == example.source
        right.append(float(expected.index(max(expected)) == example.answer))
    assert 0 < sum(right) < len(right)
    assert found.results["text"]["acc"] == pytest.approx(statistics.mean(right))
    assert found.results["text"]["acc_stderr"] == pytest.approx(
        statistics.stdev(right) / math.sqrt(len(right))
    )
    assert found.n_samples == {"text": 23}


@pytest.mark.parametrize("make", [text_request, sums_request, completion_request])
def test_scores_do_not_depend_on_the_batch_size(
    adapted: Any, tokenizer: Any, tmp_path: Path, make: Any
) -> None:
    request = make(tmp_path / "data")
    runs = [evaluate(adapted, tokenizer, [request], batch_size=size, progress=False) for size in (1, 3, 16)]
    name = request.task
    for other in runs[1:]:
        for one, two in zip(runs[0].samples[name], other.samples[name], strict=True):
            assert one.keys() == two.keys()
            for key, value in one.items():
                if key in ("log_likelihoods", "loss"):
                    assert two[key] == pytest.approx(value, abs=1e-4)
                else:
                    assert two[key] == value, key
        assert other.results[name] == pytest.approx(runs[0].results[name], abs=1e-4, nan_ok=True)


@pytest.mark.parametrize("make", [text_request, sums_request])
def test_what_is_scored_is_what_was_trained(llama: Any, tokenizer: Any, tmp_path: Path, make: Any) -> None:
    lm = AdaptedLM(llama, tokenizer, 1, as_trained=True, progress=False)
    for example in load_examples(make(tmp_path / "data"), "test"):
        context, continuation = lm._encode_pair(example.prompt, example.completion)
        trained = encode(example, tokenizer, 10_000)
        assert trained is not None
        assert [*context, *continuation, tokenizer.eos_token_id] == trained["input_ids"]
        assert trained["labels"].count(-100) == len(context)
        assert lm._prompt_ids(example.prompt) == context


def test_generation_is_scored_as_lm_eval_scores_gsm8k(
    llama: Any, tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = {
        "0 apples": "So 0 + 2 = 2.\n#### 2",  # right for both
        "1 apples": "The answer is 3.",  # no ####: right for the last number alone
        "2 apples": "#### 4 or rather 5",  # right strictly, wrong by the last number
        "3 apples": "",
        "4 apples": "#### $6.",
        "5 apples": "#### 1,007",
        "6 apples": "8 8 8",
    }

    def scripted(lm: Any, requests: list[Any]) -> list[str]:
        return [next(text for key, text in answers.items() if key in one.args[0]) for one in requests]

    monkeypatch.setattr(AdaptedLM, "generate_until", scripted)
    found = evaluate(llama, tokenizer, [sums_request(tmp_path / "data")], progress=False)
    rows = found.samples["gsm8k"]
    assert [row["exact_match,strict-match"] for row in rows] == [1, 0, 1, 0, 0, 0, 0]
    assert [row["exact_match,flexible-extract"] for row in rows] == [1, 1, 0, 0, 1, 0, 1]
    assert found.results["gsm8k"]["exact_match,strict-match"] == pytest.approx(2 / 7)
    assert found.results["gsm8k"]["exact_match,flexible-extract"] == pytest.approx(4 / 7)
    assert found.results["gsm8k"]["exact_match_stderr,strict-match"] > 0
    assert [row["response"] for row in rows] == list(answers.values())


def test_completion_loss_is_the_mean_over_learned_tokens(llama: Any, tokenizer: Any, tmp_path: Path) -> None:
    request = completion_request(tmp_path / "data")
    found = evaluate(llama, tokenizer, [request], batch_size=2, progress=False)
    total, count = 0.0, 0
    for example in load_examples(request, "test"):
        row = encode(example, tokenizer, 10_000)
        assert row is not None
        ids, labels = torch.tensor([row["input_ids"]]), torch.tensor([row["labels"]])
        with torch.no_grad():
            loss = float(llama(ids, labels=labels).loss)
        learned = int((labels != -100).sum())
        total, count = total + loss * learned, count + learned
    assert found.results["completion"]["loss"] == pytest.approx(total / count, rel=1e-5)
    assert found.results["completion"]["perplexity"] == pytest.approx(math.exp(total / count), rel=1e-4)
    assert found.results["completion"]["loss_stderr"] > 0


def test_local_tasks_touch_no_network(
    llama: Any, tokenizer: Any, tmp_path: Path, no_network: list[Any]
) -> None:
    requests = [text_request(tmp_path / "text"), sums_request(tmp_path / "sums"), "world-recall"]
    found = evaluate(llama, tokenizer, requests, limit=3, max_new_tokens=4, progress=False)
    assert found.n_samples == {"text": 3, "gsm8k": 3, "world-recall": 3}
    assert no_network == []


def test_the_model_is_left_as_it_was(adapted: Any, tokenizer: Any, tmp_path: Path) -> None:
    adapted.train()
    frozen = adapted.base_model.model.model.layers[0].mlp
    frozen.eval()
    before = {name: tensor.clone() for name, tensor in adapted.state_dict().items()}
    level = logging.getLogger("lm_eval").level
    evaluate(adapted, tokenizer, [text_request(tmp_path / "data")], limit=4, progress=False)
    assert adapted.training
    assert not frozen.training
    assert all(torch.equal(before[name], tensor) for name, tensor in adapted.state_dict().items())
    assert logging.getLogger("lm_eval").level == level


def test_dropout_is_off_while_scoring(adapted: Any, tokenizer: Any, tmp_path: Path) -> None:
    request = text_request(tmp_path / "data")
    expected = evaluate(adapted, tokenizer, [request], limit=5, progress=False).samples
    for layer in adapted.base_model.model.model.layers:
        layer.mlp.act_fn = torch.nn.Sequential(layer.mlp.act_fn, torch.nn.Dropout(0.9))
    adapted.train()
    assert evaluate(adapted, tokenizer, [request], limit=5, progress=False).samples == expected


def test_few_shot_prompts_hold_worked_examples_of_train(llama: Any, tokenizer: Any, tmp_path: Path) -> None:
    request = text_request(tmp_path / "data")
    train = {f"{one.prompt}{one.completion}" for one in load_examples(request, "train")}
    found = evaluate(llama, tokenizer, [request], num_fewshot=2, limit=4, seed=1, progress=False)
    again = evaluate(llama, tokenizer, [request], num_fewshot=2, limit=4, seed=1, progress=False)
    other = evaluate(llama, tokenizer, [request], num_fewshot=2, limit=4, seed=2, progress=False)
    prompts = [row["prompt"] for row in found.samples["text"]]
    assert prompts == [row["prompt"] for row in again.samples["text"]]
    assert prompts != [row["prompt"] for row in other.samples["text"]]
    for prompt, example in zip(prompts, load_examples(_limited(request, 4), "test"), strict=True):
        first, second, asked = prompt.split("\n\n")
        assert {first, second} <= train
        assert asked == example.prompt


def _limited(request: TaskRequest, limit: int) -> TaskRequest:
    return TaskRequest.from_dict({**request.to_dict(), "limit": limit})


def test_a_prompt_beyond_the_window_is_shortened_and_told(llama: Any, tokenizer: Any, tmp_path: Path) -> None:
    rows = [{"sentence": "good " * 400, "label": "yes"}, {"sentence": "bad", "label": "no"}]
    path = write_rows(tmp_path / "test.jsonl", rows)
    request = TaskRequest(task="text", dataset_name=str(path), labels=("yes", "no"))
    found = evaluate(llama, tokenizer, [request], progress=False)
    assert len(found.warnings) == 1
    assert "window" in found.warnings[0]


def test_groups_have_scores_of_their_own(llama: Any, tokenizer: Any) -> None:
    found = evaluate(llama, tokenizer, ["world-recall"], limit=30, progress=False)
    groups = found.groups["world-recall"]
    assert sum(group["n"] for group in groups.values()) == 30
    weighted = sum(group["n"] * group["acc"] for group in groups.values()) / 30
    assert weighted == pytest.approx(found.results["world-recall"]["acc"])


def test_one_task_twice_has_two_names(llama: Any, tokenizer: Any, tmp_path: Path) -> None:
    requests = [text_request(tmp_path / "one"), text_request(tmp_path / "two", 5)]
    found = evaluate(llama, tokenizer, requests, progress=False)
    assert found.n_samples == {"text": 23, "text-2": 5}


def test_result_files_hold_everything_but_are_plain_json(llama: Any, tokenizer: Any, tmp_path: Path) -> None:
    request = text_request(tmp_path / "data")
    found = evaluate(llama, tokenizer, [request], limit=5, progress=False)
    results, samples = found.write(tmp_path / "out")
    read = json.loads(results.read_text())
    assert read["results"]["text"] == found.results["text"]
    assert (
        read["config"]["tasks"]["text"]["template"]["prompt"]
        in read["config"]["tasks"]["text"]["template"].values()
    )
    assert read["environment"]["versions"]["lm-eval"]
    assert len(read["config"]["tasks"]["text"]["data_fingerprint"]) == 64
    assert [json.loads(line) for line in samples.read_text().splitlines()] == found.samples["text"]


def test_samples_are_kept_only_when_asked_for(llama: Any, tokenizer: Any, tmp_path: Path) -> None:
    request = text_request(tmp_path / "data")
    found = evaluate(llama, tokenizer, [request], limit=5, log_samples=False, progress=False)
    assert found.samples == {}
    assert found.n_samples == {"text": 5}


def test_include_path_tasks_run_under_lm_evals_rules(
    llama: Any, tokenizer: Any, tmp_path: Path, blocked_network: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    managers = watch_managers(monkeypatch)
    data = write_rows(
        tmp_path / "rows.jsonl", [{"q": "2 + 2", "a": ["3", "4"], "gold": n % 2} for n in range(6)]
    )
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "mine.yaml").write_text(
        "task: my_sums\ndataset_path: json\noutput_type: multiple_choice\ntest_split: test\n"
        f"dataset_kwargs:\n  data_files:\n    test: {data}\n  cache_dir: {tmp_path / 'cache'}\n"
        'doc_to_text: "{{q}} ="\ndoc_to_choice: a\ndoc_to_target: gold\n'
        "metric_list:\n  - metric: acc\n    aggregation: mean\n    higher_is_better: true\n"
    )
    found = evaluate(
        llama, tokenizer, ["my_sums"], include_path=tmp_path / "mine", batch_size=4, progress=False
    )
    assert found.results["my_sums"]["acc"] == 0.5
    assert found.n_samples["my_sums"] == 6
    assert managers == [False]  # lm-eval's own registry, which takes seconds, was not read


def watch_managers(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """For each task manager that is made, whether it reads lm-eval's own registry. None really does."""
    from lm_eval.tasks import TaskManager

    from neurolora.evaluation import foreign

    made: list[bool] = []

    def make(include_path: str | None = None, include_defaults: bool = True) -> Any:
        made.append(include_defaults)
        return TaskManager(include_path=include_path, include_defaults=False)

    monkeypatch.setattr(foreign, "TaskManager", make)
    return made


def test_a_task_that_nobody_knows_is_named_with_the_nearest(
    llama: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    managers = watch_managers(monkeypatch)
    with pytest.raises(ConfigError, match=r"world-recal: no such task.*Did you mean world-recall"):
        evaluate(llama, tokenizer, ["world-recal"], progress=False)
    assert managers == [True]


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"batch_size": 0}, "batch_size"),
        ({"batch_size": "many"}, "batch_size"),
        ({"limit": 0}, "limit"),
        ({"limit": 2.5}, "limit"),
        ({"num_fewshot": -1}, "num_fewshot"),
        ({"num_fewshot": 24}, "23 rows"),
        ({"split": "tset"}, "tset"),
        ({"include_path": "/no/such/folder", "requests": ["unheard_of"]}, "no such folder"),
        ({"requests": []}, "none given"),
    ],
)
def test_settings_that_cannot_work_are_refused(
    llama: Any, tokenizer: Any, tmp_path: Path, options: dict[str, Any], word: str
) -> None:
    requests = options.pop("requests", [text_request(tmp_path / "data")])
    with pytest.raises((ConfigError, DataError), match=word):
        evaluate(llama, tokenizer, requests, progress=False, **options)


def test_limit_below_one_is_a_part(llama: Any, tokenizer: Any, tmp_path: Path) -> None:
    found = evaluate(llama, tokenizer, [text_request(tmp_path / "data")], limit=0.25, progress=False)
    assert found.n_samples == {"text": 6}


def test_stop_texts_are_how_prompts_begin_unless_an_answer_holds_them() -> None:
    examples = [Example("Question: a\nAnswer:", " 1\n#### 1")]
    assert stop_texts("Question: {{ question }}\nAnswer:", examples, False) == ("Question:",)
    assert stop_texts("{% if context %}{{ context }}{% endif %}", examples, True) == ("\n\n",)
    talking = [Example("Question: a\nAnswer:", " Question: b\n\n#### 1")]
    assert stop_texts("Question: {{ question }}\nAnswer:", talking, True) == ()


def test_room_for_answers_follows_the_longest(tokenizer: Any) -> None:
    def examples(tokens: int) -> list[Example]:
        return [Example("A", " B" * (tokens - 1))]

    assert len(tokenizer.encode(" B" * 19)) == 20
    assert default_new_tokens(examples(20), tokenizer) == 30
    assert default_new_tokens(examples(200), tokenizer) == 256
    assert default_new_tokens(examples(400), tokenizer) == 401
