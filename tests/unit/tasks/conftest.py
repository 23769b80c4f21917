"""Small files and small tokenizers, made on the spot."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

CORPUS = [
    "Question: How many pears has Mira? Answer: 4 + 3 = 7 #### 7",
    "A. Mars B. Jupiter C. Venus D. Mercury Which planet is the largest?",
    "The trains run on time again. Translate to French: good morning bonjour",
    "hellobonjour hellobonjour hellobonjour user assistant system",
] * 4
SPECIALS = ["<unk>", "<s>", "</s>", "<pad>", "<|im_start|>", "<|im_end|>"]
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, Any], Path]:
    """write("a.jsonl", rows | text | bytes) -> path; .jsonl takes a list of rows, .json any value."""

    def write_one(name: str, value: Any) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(value, bytes):
            path.write_bytes(value)
        elif isinstance(value, str):
            path.write_text(value, encoding="utf-8")
        elif path.suffix == ".jsonl":
            path.write_text("".join(json.dumps(row) + "\n" for row in value), encoding="utf-8")
        else:
            path.write_text(json.dumps(value), encoding="utf-8")
        return path

    return write_one


def byte_level(*, bos: bool, eos_after: bool = False, **special: str) -> Any:
    """A GPT-2-like byte-level BPE; with `bos` it begins each text with <s>."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE(unk_token=None))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=420, special_tokens=SPECIALS, initial_alphabet=alphabet)
    backend.train_from_iterator(CORPUS, trainer)
    template = ("<s> " if bos else "") + "$A" + (" </s>" if eos_after else "")
    if bos or eos_after:
        backend.post_processor = processors.TemplateProcessing(
            single=template, special_tokens=[("<s>", 1), ("</s>", 2)]
        )
    return PreTrainedTokenizerFast(tokenizer_object=backend, **special)


def spaced(**special: str) -> Any:
    """A Llama-2-like BPE: a space is a mark, one is put before every text, and <s> before it."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE(unk_token="<unk>"))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(content=" ", left=1, right=0)]
    )
    backend.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")  # as in Llama: no token spans words
    letters = list("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 \n▁.:?+=#")
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=SPECIALS, initial_alphabet=letters)
    backend.train_from_iterator(CORPUS, trainer)
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=backend, **special)


MAKERS: dict[str, Callable[[], Any]] = {
    "byte-level, no BOS": lambda: byte_level(bos=False, eos_token="</s>", pad_token="<pad>"),
    "byte-level, BOS": lambda: byte_level(bos=True, bos_token="<s>", eos_token="</s>", pad_token="<pad>"),
    "spaced, BOS": lambda: spaced(bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="</s>"),
}


@pytest.fixture(params=list(MAKERS))
def tokenizer(request: pytest.FixtureRequest) -> Any:
    """Each kind of tokenizer; the last one pads with its end token."""
    return MAKERS[request.param]()


@pytest.fixture
def make_tokenizer() -> Callable[..., Any]:
    """byte_level(bos=..., eos_after=..., bos_token=..., ...)."""
    return byte_level


@pytest.fixture
def chat_tokenizer() -> Any:
    """ChatML, as Qwen writes it: turns end with <|im_end|>, which is the end token."""
    tokenizer = byte_level(bos=False, eos_token="<|im_end|>", pad_token="<pad>")
    tokenizer.chat_template = CHATML
    return tokenizer


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data beside the project, or a skip that says why."""
    root = Path(__file__).resolve().parents[3]
    folder = Path(os.environ.get("NEUROLORA_SHARED", root.parent / "shared")) / "data"
    if not folder.is_dir():
        pytest.skip(f"no folder of real data at {folder} (set NEUROLORA_SHARED)")
    return folder
