"""Chats, chat templates and classifiers through `evaluate`."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from neurolora.errors import ConfigError, DataError
from neurolora.evaluation import evaluate
from neurolora.tasks import TaskRequest

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}"
    "{% if m['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)


@pytest.fixture
def chatty(tokenizer: Any) -> Any:
    own = copy.deepcopy(tokenizer)
    own.chat_template = CHAT_TEMPLATE
    return own


def save(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def log_likelihood(model: Any, ids: list[int], start: int) -> float:
    with torch.no_grad():
        rows = model(torch.tensor([ids])).logits[0].log_softmax(-1)
    return sum(float(rows[place - 1, ids[place]]) for place in range(start, len(ids)))


def test_a_chat_is_scored_by_the_loss_of_its_last_turn(llama: Any, chatty: Any, tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Anna."}]
    data = save(tmp_path / "test.jsonl", [{"messages": turns}])
    request = TaskRequest(task="chat", dataset_name=data)
    found = evaluate(llama, chatty, [request], progress=False).results["chat"]
    prompt = chatty.encode("<s>[user]Who?[assistant]", add_special_tokens=False)
    whole = prompt + chatty.encode("Anna.</s>", add_special_tokens=False)
    expected = -log_likelihood(llama, whole, len(prompt)) / (len(whole) - len(prompt))
    assert found["loss"] == pytest.approx(expected, abs=1e-4)
    assert math.isnan(found["loss_stderr"])  # one row has no spread


def test_a_chat_template_frames_prompts_and_answers_lose_their_space(
    llama: Any, chatty: Any, tmp_path: Path
) -> None:
    data = save(
        tmp_path / "test.jsonl", [{"sentence": "Good.", "label": "yes"}, {"sentence": "Bad.", "label": "no"}]
    )
    request = TaskRequest(
        task="text", dataset_name=data, labels=("yes", "no"), prompt_template="{{ sentence }}?"
    )
    found = evaluate(llama, chatty, [request], apply_chat_template=True, progress=False)
    sample = found.samples["text"][0]
    assert sample["prompt"] == "<s>[user]Good.?[assistant]"
    assert sample["choices"] == ["yes", "no"]
    prompt = chatty.encode(sample["prompt"], add_special_tokens=False)
    for choice, likelihood in zip(sample["choices"], sample["log_likelihoods"], strict=True):
        whole = chatty.encode(sample["prompt"] + choice, add_special_tokens=False)
        assert whole.count(chatty.bos_token_id) == 1
        assert likelihood == pytest.approx(log_likelihood(llama, whole, len(prompt)), abs=1e-4)


def test_a_classifier_is_scored_by_its_head(tokenizer: Any, tmp_path: Path) -> None:
    from transformers import BertConfig, BertForSequenceClassification

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = BertConfig(
            vocab_size=320, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
            num_labels=2, initializer_range=0.5,
        )  # fmt: skip
        model = BertForSequenceClassification(config).eval()
    rows = [{"sentence": f"good {'film ' * number}", "label": number % 2} for number in range(8)]
    request = TaskRequest(task="text", dataset_name=save(tmp_path / "test.jsonl", rows), labels=("no", "yes"))
    found = evaluate(model, tokenizer, [request], batch_size=3, progress=False)
    right = []
    for row, sample in zip(rows, found.samples["text"], strict=True):
        with torch.no_grad():
            prediction = int(model(torch.tensor([tokenizer.encode(row["sentence"])])).logits.argmax())
        assert sample["prediction"] == prediction
        right.append(prediction == row["label"])
    assert found.results["text"]["acc"] == sum(right) / 8
    with pytest.raises(ConfigError, match="sequence classifier"):
        evaluate(model, tokenizer, ["world-recall"], progress=False)
    with pytest.raises(ConfigError, match="hellaswag"):
        evaluate(model, tokenizer, ["hellaswag"], progress=False)


def test_a_chat_template_that_is_not_there_is_told_before_anything_runs(llama: Any, tokenizer: Any) -> None:
    with pytest.raises(ConfigError, match="the tokenizer has no chat template"):
        evaluate(llama, tokenizer, ["world-recall"], apply_chat_template=True, progress=False)


def test_worked_examples_keep_their_space_under_a_chat_template(
    llama: Any, chatty: Any, tmp_path: Path
) -> None:
    for split in ("train", "test"):
        save(tmp_path / f"{split}.jsonl", [{"sentence": "Good.", "label": "yes"}])
    request = TaskRequest(
        task="text", dataset_name=str(tmp_path), labels=("yes", "no"), prompt_template="{{ sentence }}?"
    )
    found = evaluate(llama, chatty, [request], apply_chat_template=True, num_fewshot=1, progress=False)
    assert found.samples["text"][0]["prompt"] == "<s>[user]Good.? yes\n\nGood.?[assistant]"


def test_acc_norm_counts_a_choice_without_the_space_before_it(
    llama: Any, tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in lm-eval, where the space is the delimiter."""
    data = save(tmp_path / "test.jsonl", [{"sentence": "Good.", "label": "yes"}])
    request = TaskRequest(task="text", dataset_name=data, labels=("yes", "no"))
    from neurolora.evaluation.harness_model import AdaptedLM

    def likelihoods(lm: Any, requests: list[Any], **_: Any) -> list[tuple[float, bool]]:
        return [({" yes": -8.0, " no": -5.6}[one.args[1]], False) for one in requests]

    monkeypatch.setattr(AdaptedLM, "loglikelihood", likelihoods)
    found = evaluate(llama, tokenizer, [request], progress=False).results["text"]
    assert (found["acc"], found["acc_norm"]) == (0.0, 1.0)


def test_a_task_of_the_users_folder_goes_before_ours_of_its_name(
    llama: Any, tokenizer: Any, tmp_path: Path
) -> None:
    rows = save(tmp_path / "rows.jsonl", [{"q": "One?", "a": "two"}])
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "mine.yaml").write_text(
        f"""
task: gsm8k
dataset_path: json
dataset_kwargs: {{data_files: {{test: {rows}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{q}}}}"
doc_to_target: 0
doc_to_choice: ["two", "one"]
metric_list: [{{metric: acc}}]
"""
    )
    found = evaluate(llama, tokenizer, ["gsm8k"], include_path=tmp_path / "tasks", progress=False)
    assert found.config["tasks"]["gsm8k"]["kind"] == "lm-eval"
    assert found.n_samples == {"gsm8k": 1}


def test_data_of_a_task_of_lm_eval_that_cannot_be_had_are_told(
    llama: Any, tokenizer: Any, tmp_path: Path
) -> None:
    (tmp_path / "mine.yaml").write_text(
        "task: nowhere\ndataset_path: json\ndataset_kwargs: {data_files: {test: /nowhere/rows.jsonl}}\n"
        "test_split: test\noutput_type: multiple_choice\ndoc_to_text: q\ndoc_to_target: 0\n"
        "doc_to_choice: [a, b]\nmetric_list: [{metric: acc}]\n"
    )
    with pytest.raises(DataError, match=r"loading the tasks nowhere of lm-eval"):
        evaluate(llama, tokenizer, ["nowhere"], include_path=tmp_path, progress=False)
