"""Searching the weights of a merge: what is minimised, on which rows, within which budget."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from neurolora.cli.main import app
from neurolora.coefficients import search, search_weights
from neurolora.coefficients.objectives import OBJECTIVES
from neurolora.errors import ConfigError
from neurolora.evaluation import example_logits, load_for_inference, meta_distribution_energy
from neurolora.merging import MergeRequest, merge_adapters
from neurolora.merging.request import make_parents
from neurolora.tasks import Example, load_examples, read_task
from neurolora.training import load_config, run_training

BUDGET = 7


@pytest.fixture(scope="module")
def parents(tmp_path_factory: pytest.TempPathFactory, tiny_llama: ModuleType) -> list[Path]:
    """Two adapters of one A, trained on the same rows: the first well, the second at a ruinous rate."""
    base = tmp_path_factory.mktemp("search")
    tiny_llama.make_model(base / "model")
    tiny_llama.make_rows(base / "data")
    made = []
    for name, rate in (("good", 1e-2), ("bad", 3.0)):
        settings = {**tiny_llama.settings(base), "output_dir": str(base / name), "init_seed": 0}
        run_training(
            load_config(None, {**settings, "learning_rate": rate, "max_grad_norm": 100.0}), progress=False
        )
        made.append(base / name)
    return made


def request(parents: list[Path], **fields: Any) -> MergeRequest:
    made = MergeRequest(make_parents([str(path) for path in parents], None, None), method="task_arithmetic")
    return dataclasses.replace(made, **fields)


def test_labels_find_the_parent_that_helps(parents: list[Path]) -> None:
    seen: list[int] = []
    found = search_weights(
        request(parents), rows=6, budget=BUDGET, progress=lambda done, best: seen.append(done)
    )
    equal, best = found.compared
    assert best.weights == found.weights
    assert best.scores["validation"] < equal.scores["validation"]
    assert found.weights[0] > found.weights[1]
    assert all(0 <= weight <= 1 for weights, _ in found.trace for weight in weights)
    assert found.evaluations == len(found.trace) == len(seen) <= BUDGET
    assert found.value == min(value for _, value in found.trace) == best.scores["validation"]
    assert (found.rows, found.split) == ({"completion": 6}, "validation")


def test_the_same_search_finds_the_same(parents: list[Path]) -> None:
    first, second = (search_weights(request(parents), rows=4, budget=BUDGET) for _ in range(2))
    assert first == second


def test_entropy_is_shown_beside_the_oracle(parents: list[Path]) -> None:
    found = search_weights(request(parents), "entropy", rows=4, budget=BUDGET, oracle=True)
    by_name = {one.name: one.scores for one in found.compared}
    assert list(by_name) == ["equal", "found", "oracle"]
    assert by_name["found"]["entropy"] <= by_name["equal"]["entropy"]
    assert by_name["oracle"]["validation"] <= min(by_name[n]["validation"] for n in ("equal", "found"))
    json.dumps(found.to_dict(), allow_nan=False)


@pytest.mark.parametrize("choices", [(), (" w1", " w2 w3")])
@pytest.mark.parametrize("objective", ["entropy", "mde"])
def test_an_objective_without_labels_reads_no_answer(
    parents: list[Path], objective: str, choices: tuple[str, ...]
) -> None:
    loaded = load_for_inference(parents[0])
    examples = [Example(f"w{i} w{i + 3}", f" w{i}", choices, i % 2) for i in range(5)]
    others = [dataclasses.replace(example, completion=" w9 w9 w9", answer=1) for example in examples]
    measure = OBJECTIVES[objective].measure
    first, second = (measure(loaded.model, loaded.tokenizer, rows, 2) for rows in (examples, others))
    assert first == second
    assert first > 0
    logits = example_logits(
        loaded.model, loaded.tokenizer, examples if objective == "mde" else [
            dataclasses.replace(example, choices=()) for example in examples
        ],
    )  # fmt: skip
    if objective == "entropy":
        p = np.exp(logits - np.logaddexp.reduce(logits, axis=1, keepdims=True))
        assert first == pytest.approx(-(p * np.log(p)).sum(axis=1).mean() / np.log(p.shape[1]), rel=1e-5)
    else:
        energy = -np.logaddexp.reduce(logits.astype(float), axis=1)
        assert first == pytest.approx(np.log(np.exp(energy).mean()) - energy.mean(), rel=1e-5)


def test_mde_is_brought_as_near_to_that_of_the_parents_as_the_weights_that_were_tried(
    parents: list[Path], tmp_path: Path
) -> None:
    found = search_weights(request(parents), "mde", rows=4, budget=BUDGET)
    examples = load_examples(dataclasses.replace(read_task(parents[0]).request, limit=4), "validation")

    def energy(path: Path) -> float:
        loaded = load_for_inference(path)
        return meta_distribution_energy(example_logits(loaded.model, loaded.tokenizer, examples))

    alone = [energy(path) for path in parents]
    merge_adapters(parents, tmp_path / "found", method="task_arithmetic", weights=list(found.weights))
    by_hand = np.mean([abs(energy(tmp_path / "found") - one) for one in alone])
    assert found.value == pytest.approx(by_hand, rel=1e-4)
    assert set(found.compared[0].scores) == {"validation", "entropy", "mde"}


class Silent:
    """Candidates whose energy on a task is (own weight + half of the other's)^2: gone at weights of 0."""

    def __init__(self, *_: Any) -> None:
        self.model, self.tokenizer = None, None

    def take(self, weights: Any) -> None:
        self.model = tuple(weights)


def silent_energy(weights: Any, tokenizer: Any, examples: list[Example], batch_size: int) -> float:
    own = examples[0].answer
    assert own is not None
    return float((weights[own] + 0.5 * weights[1 - own]) ** 2)


def test_a_model_that_says_nothing_is_not_the_best_by_mde(
    parents: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Alone each parent has energy 1; both have it in the merge at weights 2/3, far from where it starts."""
    tasks = [search._Rows(f"task {own}", [Example("", "", (), own)]) for own in (0, 1)]
    monkeypatch.setattr(search, "Candidates", Silent)
    monkeypatch.setattr(search, "_rows_of", lambda *_: tasks)
    for name, row in OBJECTIVES.items():
        monkeypatch.setitem(OBJECTIVES, name, dataclasses.replace(row, measure=silent_energy))
    made = request(parents)
    found = search_weights(made, "mde", budget=60)
    equal = found.compared[0]
    assert equal.scores["mde"] == pytest.approx(1 - 0.75**2)
    assert found.weights == pytest.approx((2 / 3, 2 / 3), abs=0.02)
    # A measure that is better the lower it is does end there.
    assert search_weights(made, "entropy", budget=60).weights == pytest.approx((0, 0), abs=0.02)


def test_with_labels_the_probability_of_the_answers_counts(parents: list[Path]) -> None:
    loaded = load_for_inference(parents[0])
    examples = [Example(f"w{i} w{i + 3}", f" w{i} w5", (), None) for i in range(5)]
    expected = []
    for example in examples:
        texts = (example.prompt, example.completion)
        prompt, answer = (loaded.tokenizer(text)["input_ids"] for text in texts)
        answer = [*answer, loaded.tokenizer.eos_token_id]  # as in training
        logits = loaded.model(torch.tensor([prompt + answer])).logits[0].log_softmax(dim=-1)
        losses = [-logits[len(prompt) - 1 + place, token].item() for place, token in enumerate(answer)]
        expected.append(math.exp(-sum(losses) / len(losses)))
    found = OBJECTIVES["validation"].measure(loaded.model, loaded.tokenizer, examples, 2)
    assert found == pytest.approx(sum(expected) / len(expected), rel=1e-4)
    assert OBJECTIVES["validation"].beside(0.2, 0.8) == pytest.approx(0.75)


def test_only_the_labelled_objective_reads_labels() -> None:
    assert {name: row.needs_labels for name, row in OBJECTIVES.items()} == {
        "validation": True,
        "entropy": False,
        "mde": False,
    }


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"split": "test"}, "test rows are for the final score alone"),
        ({"objective": "loss"}, "no objective 'loss'"),
        ({"budget": 3}, "at least 4"),
    ],
)
def test_searches_that_make_no_sense(parents: list[Path], how: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        search_weights(request(parents), **how)


def test_a_method_without_weights(parents: list[Path]) -> None:
    with pytest.raises(ConfigError, match="slerp takes no weights"):
        search_weights(request(parents, method="slerp"))


def test_the_command_merges_with_what_it_found(parents: list[Path], tmp_path: Path) -> None:
    arguments = ["merge", *map(str, parents), "-o", str(tmp_path / "out"), "--method", "task_arithmetic"]
    arguments += ["--search", "validation", "--search-rows", "4", "--search-budget", str(BUDGET), "--json"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    weights = document["search"]["weights"]
    assert [parent["weight"] for parent in document["parents"]] == weights
    written = json.loads((tmp_path / "out" / "search.json").read_text(encoding="utf-8"))
    assert written == document["search"]
    merge_adapters(parents, tmp_path / "again", method="task_arithmetic", weights=weights)
    one, other = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("out", "again"))
    assert all(torch.equal(one[key], other[key]) for key in other)
