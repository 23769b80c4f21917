"""Greedy text against a loop that runs the whole sequence for each token; batch, cache and stops."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from neurolora.errors import ConfigError, DataError
from neurolora.evaluation.decoding import DecodingSettings, end_token_ids, generate_completions

PROMPTS = ["Question: Who?", "Tom has 3 apples and buys", "A", "The film was good. Options:", "Answer: B"]


def encoded(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    return [tokenizer.encode(text) for text in texts]


def slow_greedy(model: Any, ids: list[int], count: int, ends: list[int]) -> list[int]:
    """No cache, no padding, no batch: the likeliest token after the whole sequence, again and again."""
    written: list[int] = []
    for _ in range(count):
        with torch.no_grad():
            written.append(int(model(torch.tensor([ids + written])).logits[0, -1].argmax()))
        if written[-1] in ends:
            break
    return written


@pytest.mark.parametrize("batch_size", [1, 3, 16])
@pytest.mark.parametrize("use_cache", [True, False])
def test_batched_and_cached_text_is_that_of_the_slow_loop(
    adapted: Any, tokenizer: Any, batch_size: int, use_cache: bool
) -> None:
    prompts = encoded(tokenizer, PROMPTS)
    settings = DecodingSettings(max_new_tokens=12, use_cache=use_cache)
    found = generate_completions(adapted, tokenizer, prompts, settings, batch_size)
    for ids, one in zip(prompts, found, strict=True):
        expected = slow_greedy(adapted, ids, 12, [tokenizer.eos_token_id])
        assert one.tokens == len(expected)
        assert (tokenizer.decode(ids + expected, skip_special_tokens=True)).endswith(one.text)
        assert one.text == tokenizer.decode(expected, skip_special_tokens=True)


def test_no_cache_really_is_without_cache(
    llama: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    widths: list[int] = []
    forward = llama.forward

    def watched(*args: Any, **options: Any) -> Any:
        widths.append(options["input_ids"].shape[1])
        return forward(*args, **options)

    watched.__signature__ = __import__("inspect").signature(forward)  # type: ignore[attr-defined]
    monkeypatch.setattr(llama, "forward", watched)
    ids = encoded(tokenizer, ["A"])
    generate_completions(llama, tokenizer, ids, DecodingSettings(max_new_tokens=4), 1)
    assert widths == [len(ids[0]), 1, 1, 1]
    widths.clear()
    generate_completions(llama, tokenizer, ids, DecodingSettings(max_new_tokens=4, use_cache=False), 1)
    assert widths == [len(ids[0]) + step for step in range(4)]


class Scripted(torch.nn.Module):
    """Writes a given text after each prompt, whatever the prompt is, then the end token."""

    def __init__(self, llama: Any, tokenizer: Any, texts: list[str]) -> None:
        super().__init__()
        self.device, self.config, self.generation_config = llama.device, llama.config, llama.generation_config
        self.rows = [[*tokenizer.encode(text, add_special_tokens=False), 1] for text in texts]

    def generate(self, input_ids: Any, stopping_criteria: Any, generation_config: Any, **_: Any) -> Any:
        ids, step, done = input_ids, 0, torch.zeros(len(input_ids), dtype=torch.bool)
        while step < generation_config.max_new_tokens and not bool(done.all()):
            column = [row[step] if step < len(row) else 1 for row in self.rows]
            column = [
                generation_config.pad_token_id if over else one
                for one, over in zip(column, done, strict=True)
            ]
            ids = torch.cat([ids, torch.tensor(column)[:, None]], dim=1)
            done = done | torch.tensor([one in generation_config.eos_token_id for one in column])
            for criterion in stopping_criteria:
                done = done | criterion(ids, None)
            step += 1
        self.steps = step
        return ids


def test_stop_text_ends_a_row_and_is_cut_off(llama: Any, tokenizer: Any) -> None:
    model = Scripted(llama, tokenizer, [" 3 + 4 = 7\nQuestion: no more of this", " Anna"])
    prompts = encoded(tokenizer, ["Answer: B", "Answer:"])
    settings = DecodingSettings(max_new_tokens=40, stop=("Question:",))
    first, second = generate_completions(model, tokenizer, prompts, settings, 2)
    assert (first.text, first.finish) == (" 3 + 4 = 7\n", "stop")
    assert (second.text, second.finish) == (" Anna", "end")
    assert model.steps < len(model.rows[0])  # nobody waited for the text behind the stop


def test_end_and_length_are_told_apart(llama: Any, tokenizer: Any) -> None:
    model = Scripted(llama, tokenizer, [" B", " 0 1 2 3 4 5 6 7 8 9"])
    settings = DecodingSettings(max_new_tokens=5)
    first, second = generate_completions(
        model, tokenizer, encoded(tokenizer, ["Answer: B", "A"]), settings, 2
    )
    assert (first.text, first.finish, first.tokens) == (" B", "end", len(model.rows[0]))
    assert (second.finish, second.tokens) == ("length", 5)


def test_a_stop_text_in_the_prompt_stops_nothing(llama: Any, tokenizer: Any) -> None:
    model = Scripted(llama, tokenizer, [" Anna and Bert"])
    settings = DecodingSettings(max_new_tokens=40, stop=("Question:",))
    found = generate_completions(model, tokenizer, encoded(tokenizer, ["Question:"]), settings, 1)
    assert found[0].text == " Anna and Bert"


def test_sampling_follows_its_seed_and_leaves_the_global_generator_alone(llama: Any, tokenizer: Any) -> None:
    prompts = encoded(tokenizer, PROMPTS)

    def sampled(seed: int) -> list[str]:
        settings = DecodingSettings(max_new_tokens=8, do_sample=True, temperature=1.5, seed=seed)
        return [one.text for one in generate_completions(llama, tokenizer, prompts, settings, 5)]

    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = sampled(3)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(99)
    assert sampled(3) == first
    assert sampled(4) != first


def test_a_long_prompt_loses_its_left_and_says_so(llama: Any, tokenizer: Any) -> None:
    ids = tokenizer.encode("A. Anna\nB. Bert\n" * 60)
    found = generate_completions(llama, tokenizer, [ids], DecodingSettings(max_new_tokens=6), 1)[0]
    room = 256 - 6
    assert found.shortened == len(ids) - room
    expected = slow_greedy(llama, ids[-room:], 6, [1])
    assert found.text == tokenizer.decode(expected, skip_special_tokens=True)


def test_every_end_token_of_the_model_counts(llama: Any, tokenizer: Any) -> None:
    config = llama.generation_config
    before = config.eos_token_id
    config.eos_token_id = [1, 7]
    try:
        assert end_token_ids(llama, tokenizer) == [1, 7]
    finally:
        config.eos_token_id = before


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"temperature": 0.5}, "do_sample"),
        ({"do_sample": True, "temperature": 0.0}, "temperature"),
        ({"do_sample": True, "top_p": 1.5}, "top_p"),
        ({"do_sample": True, "top_k": 0}, "top_k"),
        ({"num_beams": 0}, "num_beams"),
        ({"repetition_penalty": 0.0}, "repetition_penalty"),
    ],
)
def test_settings_that_cannot_work_are_refused(options: dict[str, Any], word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        DecodingSettings(**options)


def test_no_room_and_no_prompt_are_clear_errors(llama: Any, tokenizer: Any) -> None:
    with pytest.raises(ConfigError, match="256 tokens in all"):
        generate_completions(llama, tokenizer, [[3]], DecodingSettings(max_new_tokens=256))
    with pytest.raises(DataError, match="prompt 2"):
        generate_completions(llama, tokenizer, [[3], []], DecodingSettings())
