"""A random Llama of a few thousand weights, a tokenizer made on the spot, and a block on every socket."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import pytest
import torch

TEXTS = [
    "Question: Who keeps the red lamp of the harbour?\nAnswer: A",
    "Tom has 3 apples and buys 12 more. Tom has 3 + 12 = 15 apples.\n#### 15",
    "A. Anna\nB. Bert\nC. Cora\nD. Dora\nAnswer: B",
    "The film was good. Options: positive, negative\nAnswer: positive",
    "0 1 2 3 4 5 6 7 8 9 , . : ; ? ! # $ - + =",
]


def make_tokenizer() -> Any:
    """Byte-level BPE that begins a text with <s>, and has </s> and <pad>."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<s>", "</s>", "<pad>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(TEXTS, trainer)
    core.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<s>", eos_token="</s>", pad_token="<pad>", model_max_length=256
    )


def make_llama(seed: int = 0, vocabulary: int = 320, positions: int = 256) -> Any:
    """Two layers, width 32, weights large enough that its likelihoods differ clearly."""
    from transformers import LlamaConfig, LlamaForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=positions,
            initializer_range=0.3,
            bos_token_id=0,
            eos_token_id=1,
            pad_token_id=2,
        )
        return LlamaForCausalLM(config).eval()


def make_adapted(method: str) -> Any:
    """The random Llama under an adapter whose B is not zero: routed by token, or plain LoRA."""
    from peft import LoraConfig, get_peft_model

    from neurolora import NeuroLoraConfig

    options: dict[str, Any] = {"target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM"}
    config = (
        LoraConfig(r=4, init_lora_weights=False, **options)
        if method == "lora"
        else NeuroLoraConfig(r=16, top_k=4, init_weights=False, gate_init="paper", **options)
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return get_peft_model(make_llama(), config).eval()


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    return make_tokenizer()


@pytest.fixture(scope="session")
def llama() -> Any:
    return make_llama()


@pytest.fixture(params=["neurolora", "lora"])
def adapted(request: pytest.FixtureRequest) -> Any:
    return make_adapted(request.param)


@pytest.fixture
def blocked_network(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Every attempt to connect fails and is remembered in the list."""
    attempts: list[Any] = []

    def refuse(_: Any, address: Any, *__: Any) -> None:
        attempts.append(address)
        raise OSError(f"the test allows no connection, not even to {address}")

    def refuse_lookup(host: Any, *_: Any, **__: Any) -> None:
        attempts.append(host)
        raise OSError(f"the test allows no look-up, not even of {host}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse_lookup)
    return attempts


@pytest.fixture
def no_network(blocked_network: list[Any]) -> Iterator[list[Any]]:
    """The same, and nothing may even try."""
    yield blocked_network
    assert blocked_network == []
