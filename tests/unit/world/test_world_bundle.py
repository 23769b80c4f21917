"""The bundled model and tokenizer: small, whole, offline, and what provenance.json says."""

from __future__ import annotations

import hashlib
import json

import pytest
import torch

from neurolora.world import bundled_model_path, generate_rows, generate_text, resolve_model_name


@pytest.fixture(scope="module")
def tokenizer():
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(bundled_model_path(), local_files_only=True)


@pytest.fixture(scope="module")
def model():
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(bundled_model_path(), local_files_only=True)


def test_weights_are_small_and_fingerprinted() -> None:
    weights = bundled_model_path() / "model.safetensors"
    provenance = json.loads((bundled_model_path() / "provenance.json").read_text())
    assert weights.stat().st_size <= 8_000_000
    assert provenance["model_sha256"] == hashlib.sha256(weights.read_bytes()).hexdigest()


def test_the_text_that_was_read_is_the_text_that_is_generated() -> None:
    """If the generator changes, the bundle has to be made again."""
    provenance = json.loads((bundled_model_path() / "provenance.json").read_text())
    digest = hashlib.sha256()
    for text in generate_text(provenance["runs"][0]["arguments"]["seed"], 1):
        digest.update(text.encode() + b"\0")
    assert digest.hexdigest() == provenance["first_pass_sha256"]


def test_the_log_ends_lower_than_it_starts() -> None:
    lines = (bundled_model_path() / "pretraining_log.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert rows[-1]["loss"] < 0.5 * rows[0]["loss"]
    runs = json.loads((bundled_model_path() / "provenance.json").read_text())["runs"]
    assert {row["run"] for row in rows} == set(range(len(runs)))
    assert rows[-1]["step"] == runs[-1]["arguments"]["steps"]


def test_model_is_a_float32_llama_with_tied_embeddings(model) -> None:
    assert model.config.model_type == "llama"
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight


def test_model_has_read_the_world(model, tokenizer) -> None:
    """Its mean loss on unseen wording of the text is far below a uniform guess."""
    texts = [text for text in generate_text(0, 1) if " " in text][:32]
    batch = tokenizer(texts, return_tensors="pt", padding=True)
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    with torch.no_grad():
        loss = model(**{k: batch[k] for k in ("input_ids", "attention_mask")}, labels=labels).loss.item()
    assert loss < 2.5


@pytest.mark.parametrize(
    "text",
    ["", "plain words", "12 + 345 = 357", "  two  spaces\n\ttab\n", "naïve Ω 漢字 🪰", "\x00\x7f", "#### 42"],
)
def test_tokenizer_round_trips_any_text(tokenizer, text: str) -> None:
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids, clean_up_tokenization_spaces=False) == text


def test_digits_stand_alone(tokenizer) -> None:
    pieces = tokenizer.tokenize("4711 apples and 80")
    assert [p for p in pieces if any(c.isdigit() for c in p)] == ["4", "7", "1", "1", "Ġ8", "0"]


def test_special_tokens_are_distinct_and_never_added_unasked(tokenizer) -> None:
    assert len({tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id, None}) == 4
    with_special = tokenizer("The lamp")["input_ids"]
    assert with_special == tokenizer("The lamp", add_special_tokens=False)["input_ids"]


def test_letters_are_single_tokens(tokenizer) -> None:
    assert all(len(tokenizer.tokenize(f" {letter}")) == 1 for letter in "ABCDE")


@pytest.mark.parametrize(
    ("task", "limit"), [("world-recall", 60), ("world-passage", 130), ("world-sums", 160)]
)
def test_rows_are_short(tokenizer, task: str, limit: int) -> None:
    for row in generate_rows(task, "test"):
        text = " ".join(
            [row["question"], row.get("context", ""), *row.get("choices", []), str(row["answer"])]
        )
        assert len(tokenizer(text)["input_ids"]) <= limit


def test_alias() -> None:
    assert resolve_model_name("world") == str(bundled_model_path())
    assert resolve_model_name("org/model") == "org/model"
