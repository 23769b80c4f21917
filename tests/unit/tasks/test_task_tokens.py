"""Tokenizers without a pad or an end token are given one from their own vocabulary."""

from types import SimpleNamespace

import pytest

from neurolora.errors import ConfigError
from neurolora.tasks import CompletionCollator, Example, encode, prepare_tokenizer


def config(**values):
    return SimpleNamespace(**{"vocab_size": 10_000, "eos_token_id": None, "pad_token_id": None} | values)


def test_a_complete_tokenizer_is_left_alone(tokenizer):
    before = (tokenizer.eos_token_id, tokenizer.pad_token_id, len(tokenizer))
    assert prepare_tokenizer(tokenizer, config()) == ()
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id, len(tokenizer)) == before


@pytest.mark.parametrize("eos_id", [5, [5, 2]])
def test_the_end_token_comes_from_the_models_config_first(make_tokenizer, eos_id):
    tokenizer = make_tokenizer(bos=False, pad_token="<pad>")
    notes = prepare_tokenizer(tokenizer, config(eos_token_id=eos_id))
    assert tokenizer.eos_token == "<|im_end|>"
    assert notes == ("no end token: '<|im_end|>' (id 5) takes its place",)


def test_else_a_usual_name_and_a_reserved_pad_of_the_vocabulary(make_tokenizer):
    tokenizer = make_tokenizer(bos=False)
    size = len(tokenizer)
    notes = prepare_tokenizer(tokenizer)
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("</s>", "<pad>")
    assert len(notes) == 2
    assert len(tokenizer) == size
    row = encode(Example("a", " b"), tokenizer, 10)
    assert row["labels"][-1] == tokenizer.convert_tokens_to_ids("</s>")
    assert CompletionCollator(tokenizer).pad_id == tokenizer.convert_tokens_to_ids("<pad>")


def tiny(vocabulary, **special):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {word: number for number, word in enumerate(vocabulary)}
    backend = Tokenizer(models.WordLevel(words, unk_token=vocabulary[0]))
    backend.pre_tokenizer = pre_tokenizers.Split(" ", "removed")
    return PreTrainedTokenizerFast(tokenizer_object=backend, **special)


@pytest.mark.parametrize(
    ("vocabulary", "special", "end", "pad"),
    [
        (["a", "\n", "b"], {}, "\n", "\n"),
        (["a", "b", "c"], {}, "c", "c"),
        (["?", "a", "b"], {"unk_token": "?"}, "?", "?"),
        (["?", "a", "b", "<|endoftext|>"], {"unk_token": "?"}, "<|endoftext|>", "?"),
        (
            ["a", "b", "<|endoftext|>", "<|im_end|>"],
            {"eos_token": "<|im_end|>"},
            "<|im_end|>",
            "<|endoftext|>",
        ),
    ],
)
def test_poor_vocabularies_are_solved_too(vocabulary, special, end, pad):
    tokenizer = tiny(vocabulary, **special)
    notes = prepare_tokenizer(tokenizer, config())
    assert (tokenizer.eos_token, tokenizer.pad_token) == (end, pad)
    assert len(tokenizer) == len(vocabulary)
    assert tokenizer.eos_token_id == vocabulary.index(end)
    assert notes


def test_a_pad_of_the_config_that_is_the_end_token_is_the_last_choice(make_tokenizer):
    tokenizer = make_tokenizer(bos=False, eos_token="</s>")
    prepare_tokenizer(tokenizer, config(pad_token_id=2))
    assert tokenizer.pad_token == "<pad>"


def test_a_token_the_model_has_no_embedding_for_is_an_error(make_tokenizer):
    tokenizer = make_tokenizer(bos=False, eos_token="</s>")
    with pytest.raises(ConfigError, match="its pad_token has id 3, the model only 3 embeddings"):
        prepare_tokenizer(tokenizer, config(vocab_size=3))


def test_a_tokenizer_that_adds_end_tokens_is_told_not_to(tokenizer):
    tokenizer.add_bos_token = tokenizer.bos_token is not None
    tokenizer.add_eos_token = True
    assert tokenizer.encode("a")[-1] == tokenizer.eos_token_id, "the case must be one"
    (note,) = prepare_tokenizer(tokenizer, config())
    assert "no longer adds an end token" in note
    assert tokenizer.encode("a")[-1] != tokenizer.eos_token_id
