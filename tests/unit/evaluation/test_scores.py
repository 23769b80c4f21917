"""Losses and label likelihoods against the model's own loss and plain sums; statistics; classifiers."""

from __future__ import annotations

import math
import random
import statistics
from typing import Any

import pytest
import torch

from neurolora.errors import DataError
from neurolora.evaluation import answer_token_loss, classification_accuracy, label_likelihood_accuracy
from neurolora.evaluation.scores import TokenLoss, in_eval_mode
from neurolora.evaluation.statistics import mean, mean_stderr, ratio, ratio_stderr
from neurolora.tasks import Example, encode

EXAMPLES = [
    Example("Question: Who?\nAnswer:", " B", (" A", " B", " C"), 1),
    Example("A. Anna\nB. Bert\nAnswer:", " A", (" A", " B"), 0),
    Example("Tom has 3 apples and buys 12 more.", " 15 apples", (" 15 apples", " 3", " no apples at all"), 0),
    Example("The film was good. Options:", " negative", (" positive", " negative"), 1),
    Example("0 1 2 3", " 4", (" 4", " 5"), 0),
]


def own_loss(model: Any, tokenizer: Any, example: Example) -> tuple[float, int]:
    row = encode(example, tokenizer, 10_000)
    assert row is not None
    ids, labels = torch.tensor([row["input_ids"]]), torch.tensor([row["labels"]])
    with torch.no_grad():
        return float(model(input_ids=ids, labels=labels).loss), int((labels != -100).sum())


@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_token_loss_is_the_models_own(adapted: Any, tokenizer: Any, batch_size: int) -> None:
    found = answer_token_loss(adapted, tokenizer, EXAMPLES, batch_size)
    expected = [own_loss(adapted, tokenizer, example) for example in EXAMPLES]
    assert found.per_example == pytest.approx([loss for loss, _ in expected], abs=1e-4)
    assert found.tokens == [count for _, count in expected]
    total = sum(loss * count for loss, count in expected) / sum(count for _, count in expected)
    assert float(found) == pytest.approx(total, abs=1e-4)
    assert found.perplexity == pytest.approx(math.exp(total), rel=1e-3)


def test_an_endless_loss_has_an_infinite_perplexity() -> None:
    assert TokenLoss(1e4, 0.0, [], [], []).perplexity == math.inf


@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_label_likelihood_takes_the_likeliest_choice(adapted: Any, tokenizer: Any, batch_size: int) -> None:
    found = label_likelihood_accuracy(adapted, tokenizer, EXAMPLES, batch_size)
    right, right_normalised = [], []
    for example, likelihoods in zip(EXAMPLES, found.log_likelihoods, strict=True):
        expected = []
        for choice in example.choices:
            ids = tokenizer.encode(example.prompt + choice)
            start = len(tokenizer.encode(example.prompt))
            with torch.no_grad():
                rows = adapted(torch.tensor([ids])).logits[0].log_softmax(-1)
            expected.append(sum(float(rows[place - 1, ids[place]]) for place in range(start, len(ids))))
        assert likelihoods == pytest.approx(expected, abs=1e-3)
        right.append(expected.index(max(expected)) == example.answer)
        shares = [value / len(choice) for value, choice in zip(expected, example.choices, strict=True)]
        right_normalised.append(shares.index(max(shares)) == example.answer)
    assert float(found) == pytest.approx(statistics.mean(right))
    assert found.normalised == pytest.approx(statistics.mean(right_normalised))
    assert found.stderr == pytest.approx(statistics.stdev(right) / math.sqrt(len(right)))


def test_no_examples_and_no_choices_are_clear_errors(llama: Any, tokenizer: Any) -> None:
    with pytest.raises(DataError, match="no examples"):
        answer_token_loss(llama, tokenizer, [])
    with pytest.raises(DataError, match=r"rows\.jsonl, line 3 has no choices"):
        label_likelihood_accuracy(llama, tokenizer, [Example("A", " B", source="rows.jsonl, line 3")])


def test_each_modules_mode_is_put_back(llama: Any) -> None:
    llama.train()
    llama.model.layers[0].eval()
    before = [module.training for module in llama.modules()]
    with in_eval_mode(llama):
        assert not any(module.training for module in llama.modules())
    assert [module.training for module in llama.modules()] == before
    llama.eval()


def test_means_and_their_errors() -> None:
    values = [1.0, 2.0, 4.0, 9.0]
    assert mean(values) == 4.0
    assert mean_stderr(values) == pytest.approx(statistics.stdev(values) / 2)
    assert math.isnan(mean([]))
    assert math.isnan(mean_stderr([1.0]))


def test_ratio_error_of_equal_sizes_is_that_of_a_mean() -> None:
    totals = [2.0, 4.0, 8.0, 18.0]
    assert ratio(totals, [2] * 4) == 4.0
    assert ratio_stderr(totals, [2] * 4) == pytest.approx(mean_stderr([1.0, 2.0, 4.0, 9.0]))
    assert math.isnan(ratio_stderr([1.0], [1]))


def test_ratio_error_is_that_of_drawing_again() -> None:
    draw = random.Random(0)
    sizes = [draw.randrange(1, 9) for _ in range(400)]
    totals = [size * draw.gauss(2, 1) + draw.gauss(0, 1) for size in sizes]
    ratios = []
    for _ in range(800):
        rows = [draw.randrange(400) for _ in range(400)]
        ratios.append(sum(totals[row] for row in rows) / sum(sizes[row] for row in rows))
    assert ratio_stderr(totals, sizes) == pytest.approx(statistics.stdev(ratios), rel=0.1)


def make_classifier(labels: int = 3) -> Any:
    from transformers import BertConfig, BertForSequenceClassification

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = BertConfig(
            vocab_size=320,
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=32,
            max_position_embeddings=64,
            num_labels=labels,
            initializer_range=0.5,
        )
        return BertForSequenceClassification(config)


@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_classification_is_the_heads_own(tokenizer: Any, batch_size: int) -> None:
    model = make_classifier().train()  # dropout must not enter
    rows = [{"sentence": "good " * number + "film", "label": number % 3} for number in range(11)]
    found = classification_accuracy(model, tokenizer, rows, batch_size)
    assert model.training
    model.eval()
    right, losses = [], []
    for row in rows:
        with torch.no_grad():
            logits = model(torch.tensor([tokenizer.encode(row["sentence"])])).logits[0]
        right.append(int(logits.argmax()) == row["label"])
        losses.append(float(torch.logsumexp(logits, 0) - logits[row["label"]]))
    assert 0 < sum(right) < len(rows)
    assert float(found) == pytest.approx(statistics.mean(right))
    assert found.stderr == pytest.approx(statistics.stdev(right) / math.sqrt(len(rows)))
    assert found.loss == pytest.approx(statistics.mean(losses), abs=1e-4)


def test_a_text_beyond_the_window_is_cut_at_its_end(tokenizer: Any) -> None:
    model = make_classifier().eval()
    long = {"sentence": "good film, " * 60, "label": 0}
    ids = tokenizer.encode(long["sentence"])[:64]
    with torch.no_grad():
        expected = int(model(torch.tensor([ids])).logits[0].argmax())
    assert classification_accuracy(model, tokenizer, [long]).predictions == [expected]


def test_a_label_that_the_head_lacks_is_named(tokenizer: Any) -> None:
    rows = [{"sentence": "a", "label": 0}, {"sentence": "b", "label": 3, "source": "x.csv, line 9"}]
    with pytest.raises(DataError, match=r"x\.csv, line 9.*label 3.*3 labels"):
        classification_accuracy(make_classifier(), tokenizer, rows)
    with pytest.raises(DataError, match="no rows"):
        classification_accuracy(make_classifier(), tokenizer, [])
