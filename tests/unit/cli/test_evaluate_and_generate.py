"""The commands `eval` and `generate` end to end on the bundled model: what they print, write and refuse."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from neurolora.cli.main import main
from neurolora.tasks import TaskRequest, save_task


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random NeuroLoRA adapter on the bundled model, whose task is labelled text of our own."""
    from peft import get_peft_model
    from transformers import AutoModelForCausalLM

    from neurolora import NeuroLoraConfig
    from neurolora.world import bundled_model_path

    root = tmp_path_factory.mktemp("run")
    rows = [{"sentence": f"Row {number}.", "label": ("yes", "no")[number % 2]} for number in range(9)]
    (root / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    base = AutoModelForCausalLM.from_pretrained(bundled_model_path())
    model = get_peft_model(base, NeuroLoraConfig(r=8, top_k=2, init_weights=False, task_type="CAUSAL_LM"))
    model.peft_config["default"].base_model_name_or_path = "world"
    model.save_pretrained(root / "adapter", save_embedding_layers=False)  # else PEFT asks the hub for `world`
    request = TaskRequest(
        task="text",
        dataset_name=str(root / "test.jsonl"),
        labels=("yes", "no"),
        prompt_template="{{ sentence }} Is it so?",
        limit=2,
    )
    save_task(root / "adapter", request)
    return root / "adapter"


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = main([str(argument) for argument in arguments])
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def test_eval_scores_the_adapters_own_task_with_its_own_prompt(
    adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(capsys, "eval", adapter, "--json", "--output-path", tmp_path, "--device", "cpu")
    assert code == 0, err
    found = json.loads(out)
    # All nine rows: the limit that was saved was training's.
    assert found["n_samples"] == {"text": 9}
    assert found["config"]["tasks"]["text"]["template"]["prompt"] == "{{ sentence }} Is it so?"
    assert found["source"]["adapter"]["base"] == "world"
    assert len(found["source"]["adapter"]["weights_sha256"]) == 64
    assert json.loads((tmp_path / "results.json").read_text()) == found
    lines = (tmp_path / "samples_text.jsonl").read_text().splitlines()
    assert [json.loads(line)["prompt"] for line in lines][:2] == ["Row 0. Is it so?", "Row 1. Is it so?"]


def test_eval_prints_a_table_of_percentages_and_errors(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [
        "--model",
        "world",
        "--tasks",
        "world-recall,world-passage",
        "--limit",
        "8",
        "--batch_size",
        "auto",
    ]
    code, out, err = run(capsys, "eval", *arguments)
    assert code == 0, err
    for word in ("world-recall", "world-passage", "acc", "%", "std. error"):
        assert word in out


def test_a_table_on_stdout_holds_no_progress(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(
        capsys, "eval", "--model", "world", "--tasks", "world-recall", "--limit", "4", "--json"
    )
    assert code == 0
    json.loads(out)
    assert "scoring" in err


@pytest.mark.parametrize(
    ("arguments", "code", "word"),
    [
        (["eval"], 2, "neither is given"),
        (["eval", "x", "--model", "world"], 2, "both are given"),
        (["eval", "--model", "world"], 2, "no task is given"),
        (["eval", "--model", "world", "--tasks", "world-recall", "--batch-size", "many"], 2, "batch-size"),
        (["eval", "--model", "world", "--tasks", "gsm8k,mmlu", "--dataset-name", "x"], 2, "dataset-name"),
        (["eval", "--model", "world", "--tasks", "text", "--dataset-name", "./gone.jsonl"], 3, "gone.jsonl"),
        (["eval", "./gone", "--tasks", "world-recall"], 4, "no such folder"),
        (["generate", "world"], 2, "no prompt"),
        (["generate", "world", "a", "--temperature", "0.5"], 2, "do_sample"),
        (["generate", "world", "a", "--apply-template"], 2, "no task is saved"),
        (["generate", "world", "--prompt-file", "gone.txt"], 3, "gone.txt"),
        (["generate", "world", "a", "--max-new-tokens", "100000"], 2, "512 tokens in all"),
        (["generate", "./gone", "a"], 4, "no such folder"),
    ],
)
def test_bad_input_is_one_clear_message(
    arguments: list[str], code: int, word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    found, out, err = run(capsys, *arguments)
    assert (found, out) == (code, "")
    assert word in " ".join(err.split())
    assert "Traceback" not in err


def test_generate_gives_the_same_text_batched_cached_and_alone(
    adapter: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = ["The harbour", "Question: How many", "A"]
    common = ["--max-new-tokens", 10, "--json", "--device", "cpu"]
    texts = []
    for extra in ([], ["--no-cache"], ["--batch-size", 1]):
        code, out, err = run(capsys, "generate", adapter, *prompts, *common, *extra)
        assert code == 0, err
        texts.append([one["completion"] for one in json.loads(out)["completions"]])
    for number, prompt in enumerate(prompts):
        _, out, _ = run(capsys, "generate", adapter, prompt, *common)
        assert json.loads(out)["completions"][0]["completion"] == texts[0][number]
    assert texts[0] == texts[1] == texts[2]


def test_generate_prints_the_completion_alone(adapter: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(capsys, "generate", adapter, "The harbour", "--max-new-tokens", 6, "--json")
    expected = json.loads(out)["completions"][0]["completion"]
    code, out, _ = run(capsys, "generate", adapter, "The harbour", "--max-new-tokens", 6)
    assert (code, out) == (0, expected.rstrip("\n") + "\n")


def test_generate_wraps_prompts_only_when_asked(
    adapter: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from neurolora import evaluation

    seen: list[Any] = []

    def record(model: Any, tokenizer: Any, prompts: Any, *_: Any) -> list[Any]:
        seen.extend(tokenizer.decode(ids, skip_special_tokens=True) for ids in prompts)
        return [evaluation.Completion("", 0, "end", 0) for _ in prompts]

    monkeypatch.setattr(evaluation, "generate_completions", record, raising=False)
    run(capsys, "generate", adapter, "Row 7.")
    run(capsys, "generate", adapter, "Row 7.", "--apply-template")
    assert [text.strip() for text in seen] == ["Row 7.", "Row 7. Is it so?"]


def test_generate_reads_prompts_from_a_file_and_from_stdin(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "prompts.txt").write_text("One\n\nTwo\n")
    monkeypatch.setattr("sys.stdin", io.StringIO("Three\n"))
    common = ["--max-new-tokens", "2", "--json"]
    _, out, _ = run(capsys, "generate", "world", "Zero", "--prompt-file", tmp_path / "prompts.txt", *common)
    assert [one["prompt"] for one in json.loads(out)["completions"]] == ["Zero", "One", "Two"]
    _, out, _ = run(capsys, "generate", "world", "--prompt-file", "-", *common)
    assert [one["prompt"] for one in json.loads(out)["completions"]] == ["Three"]
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9\n")
    code, _, err = run(capsys, "generate", "world", "--prompt-file", tmp_path / "latin.txt")
    assert code == 3
    assert "UTF-8" in err


def test_sampling_repeats_with_its_seed(capsys: pytest.CaptureFixture[str]) -> None:
    def sampled(seed: int) -> str:
        options = ["--do-sample", "--temperature", "1.5", "--top-k", "50", "--top-p", "0.95", "--seed", seed]
        torch.manual_seed(torch.seed() % 2**31)
        return run(capsys, "generate", "world", "The", "--max-new-tokens", 12, *options)[1]

    assert sampled(1) == sampled(1) != sampled(2)
