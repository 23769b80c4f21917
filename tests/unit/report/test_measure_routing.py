from itertools import chain

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

import neurolora
from neurolora.errors import AdapterError, ConfigError, DataError, FingerprintMismatchError
from neurolora.report.routing import BLOCK_TOKENS, measure_routing, token_blocks

R, K, LAYERS = 8, 2, 2
WORDS = [f"w{i}" for i in range(40)]


def llama(seed):
    torch.manual_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            hidden_size=16, intermediate_size=24, num_hidden_layers=LAYERS, num_attention_heads=2,
            num_key_value_heads=2, vocab_size=64, max_position_embeddings=512,
        )
    )  # fmt: skip


def tokenizer():
    inner = Tokenizer(
        models.WordLevel({word: i for i, word in enumerate(["<unk>", *WORDS])}, unk_token="<unk>")
    )
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    home = tmp_path_factory.mktemp("routing")
    for name, seed in (("base", 0), ("other", 1)):
        llama(seed).save_pretrained(home / name)
        tokenizer().save_pretrained(home / name)
    base = LlamaForCausalLM.from_pretrained(home / "base")
    config = neurolora.NeuroLoraConfig(r=R, top_k=K, gate_dim=4, init_weights=False, task_type="CAUSAL_LM")
    get_peft_model(base, config).save_pretrained(home / "adapter")
    plain = get_peft_model(llama(0), LoraConfig(r=2, task_type="CAUSAL_LM"))
    plain.save_pretrained(home / "lora")
    return home


def test_every_token_uses_k_ranks_in_every_module(folders):
    texts = [" ".join(WORDS[:30]), " ".join(WORDS[30:])]
    routing = measure_routing(folders / "adapter", texts, base_model=str(folders / "base"))
    assert (routing["r"], routing["top_k"]) == (R, K)
    assert len(routing["layers"]) == LAYERS * 4
    for layer in routing["layers"]:
        assert layer["tokens"] == 40
        assert sum(layer["active_frequency"]) == pytest.approx(K)
        assert layer["gate_mean"] == pytest.approx([1.0] * R)


def test_the_adapters_own_base_is_the_default(folders):
    routing = measure_routing(folders / "adapter", ["w1 w2 w3"], max_tokens=2)
    assert routing["layers"][0]["tokens"] == 2


def test_another_base_is_refused_unless_told_otherwise(folders):
    with pytest.raises(FingerprintMismatchError):
        measure_routing(folders / "adapter", ["w1"], base_model=str(folders / "other"))
    with pytest.warns(UserWarning, match="trained on base"):
        allowed = measure_routing(
            folders / "adapter", ["w1"], base_model=str(folders / "other"), allow_base_mismatch=True
        )
    assert allowed["layers"]


@pytest.mark.parametrize("texts", [[], [""], ["   \n"]])
def test_texts_without_a_token_are_refused(folders, texts):
    with pytest.raises(DataError, match="no token"):
        measure_routing(folders / "adapter", texts, base_model=str(folders / "base"))


def test_plain_lora_has_no_routing(folders):
    with pytest.raises(ConfigError, match="LORA"):
        measure_routing(folders / "lora", ["w1"], base_model=str(folders / "base"))


def test_a_base_that_is_not_there_is_named(folders):
    with pytest.raises(AdapterError, match="absent-model"):
        measure_routing(folders / "adapter", ["w1"], base_model=str(folders / "absent-model"))


def test_blocks_cover_the_texts_up_to_the_limit():
    text = " ".join(WORDS * 20)
    whole = tokenizer()(text)["input_ids"]
    blocks = list(token_blocks(tokenizer(), [text, "w1 w2"], 10_000))
    assert [len(block) for block in blocks] == [256, 256, 256, 32, 2]
    assert list(chain(*blocks[:-1])) == whole
    short = list(token_blocks(tokenizer(), [text, "w1 w2"], BLOCK_TOKENS + 3))
    assert list(chain(*short)) == whole[: BLOCK_TOKENS + 3]
