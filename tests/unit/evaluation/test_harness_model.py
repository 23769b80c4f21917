"""Our scoring and decoding against HFLM's own, request by request; what HFLM would do to a model."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from neurolora.errors import UnsupportedOperationError
from neurolora.evaluation.harness_model import CPU_BATCH, AdaptedLM

PROMPTS = ["Question: Who keeps the lamp?\nAnswer:", "A. Anna\nB. Bert\nAnswer:", "Tom has 3", "0 1 2"]
ENDINGS = [" A", " B", " C", " Anna and Bert", " 15 apples."]


def hflm(model: Any, tokenizer: Any) -> Any:
    from lm_eval.models.huggingface import HFLM

    return HFLM(pretrained=model, tokenizer=tokenizer, batch_size=3)


def request(*arguments: Any) -> Any:
    return SimpleNamespace(args=arguments, task_name="test")


@pytest.mark.parametrize("as_trained", [True, False])
def test_likelihoods_are_hflms(adapted: Any, tokenizer: Any, as_trained: bool) -> None:
    requests = [request(prompt, ending) for prompt in PROMPTS for ending in ENDINGS]
    ours = AdaptedLM(adapted, tokenizer, 3, as_trained=as_trained, progress=False).loglikelihood(requests)
    theirs = hflm(adapted, tokenizer).loglikelihood(requests, disable_tqdm=True)
    assert [one for one, _ in ours] == pytest.approx([one for one, _ in theirs], abs=1e-4)
    assert [one for _, one in ours] == [one for _, one in theirs]


@pytest.mark.parametrize("as_trained", [True, False])
def test_texts_are_hflms(adapted: Any, tokenizer: Any, as_trained: bool) -> None:
    options = {"until": ["a", "7"], "max_gen_toks": 12, "do_sample": False, "temperature": 0.0}
    requests = [request(prompt, dict(options)) for prompt in PROMPTS]
    ours = AdaptedLM(adapted, tokenizer, 3, as_trained=as_trained, progress=False).generate_until(requests)
    theirs = hflm(adapted, tokenizer).generate_until(requests, disable_tqdm=True)
    assert ours == theirs
    assert len(set(ours)) > 1


def test_requests_of_unlike_settings_keep_their_places(llama: Any, tokenizer: Any) -> None:
    lm = AdaptedLM(llama, tokenizer, 2, as_trained=True, progress=False)
    options = [{"max_gen_toks": 3}, {"max_gen_toks": 9}]
    mixed = [request(prompt, dict(options[place % 2])) for place, prompt in enumerate(PROMPTS)]
    alone = [lm.generate_until([one])[0] for one in mixed]
    assert lm.generate_until(mixed) == alone


def test_weights_that_share_memory_are_not_tied_again(llama: Any, tokenizer: Any) -> None:
    calls = []

    class Watched(torch.nn.Module):
        device, config = llama.device, llama.config

        def tie_weights(self) -> None:
            calls.append("tied")

    model = Watched().train()
    AdaptedLM(model, tokenizer, 2, as_trained=True)
    assert calls == []
    assert model.training


def test_an_encoder_decoder_model_is_refused(tokenizer: Any) -> None:
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(vocab_size=320, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
    with pytest.raises(UnsupportedOperationError, match="encoder-decoder"):
        AdaptedLM(T5ForConditionalGeneration(config), tokenizer, 2, as_trained=True)


def test_auto_batch_on_a_cpu_is_a_constant(llama: Any, tokenizer: Any) -> None:
    assert AdaptedLM(llama, tokenizer, "auto", as_trained=True)._batch_for(100) == CPU_BATCH
    assert AdaptedLM(llama, tokenizer, 5, as_trained=True)._batch_for(100) == 5


def test_an_empty_context_is_the_begin_token(llama: Any, tokenizer: Any) -> None:
    lm = AdaptedLM(llama, tokenizer, 2, as_trained=True, progress=False)
    context, continuation = lm._encode_pair("", "Anna")
    assert context == [tokenizer.bos_token_id]
    assert tokenizer.decode(continuation) == "Anna"
    assert lm.loglikelihood([request("", "Anna")])[0][0] < 0
