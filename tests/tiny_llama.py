"""A tiny random Llama with a word tokenizer and some rows to learn, made in a second. Run as a script by
the tests of whole runs too, so it needs nothing but its arguments."""

from __future__ import annotations

import json
from pathlib import Path

WORDS = [f"w{i}" for i in range(60)]


def make_model(
    folder: Path, layers: int = 2, hidden: int = 16, dropout: float = 0.1, spread: float = 0.02
) -> Path:
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    names = ["<pad>", "</s>", "<unk>", *WORDS]
    words = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )
    tokenizer.save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=len(names), hidden_size=hidden, intermediate_size=2 * hidden, num_hidden_layers=layers,
        num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=64,
        pad_token_id=0, eos_token_id=1, attention_dropout=dropout, initializer_range=spread,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def make_rows(path: Path, count: int = 24) -> Path:
    """Prompt and completion of unequal lengths."""
    rows = [
        {
            "prompt": " ".join(WORDS[(i * 7 + j) % 60] for j in range(2 + i % 5)),
            "completion": " " + " ".join(WORDS[(i * 3 + j) % 60] for j in range(1 + i % 4)),
        }
        for i in range(count)
    ]
    path.mkdir(parents=True, exist_ok=True)
    for split, part in (("train", rows), ("validation", rows[:6])):
        (path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    return path


def settings(base: Path, **changes: object) -> dict[str, object]:
    """Flat settings of a short run on the tiny model."""
    return {
        "model_name_or_path": str(base / "model"),
        "task": "completion",
        "dataset_name": str(base / "data"),
        "output_dir": str(base / "run"),
        "r": 8,
        "top_k": 2,
        "gate_dim": 4,
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 2,
        "max_steps": 8,
        "save_steps": 2,
        "logging_steps": 3,
        "eval_strategy": "steps",
        "eval_steps": 3,
        "learning_rate": 1e-2,
        "gate_learning_rate": 2e-2,
        "max_length": 32,
        "use_cpu": True,
        **changes,
    }
