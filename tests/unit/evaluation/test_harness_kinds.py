"""Chats, chat templates and classifiers through `evaluate`."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from neurolora.errors import ConfigError
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
