"""Training and lm-eval see the same token ids: its own encoder is the reference."""

import pytest
from transformers import LlamaConfig, LlamaForCausalLM

from neurolora.tasks import TASKS, encode_example, encode_pair, encode_prompt, make_example
from neurolora.tasks.records import Record

PAIRS = [
    ("Question: How many pears has Mira?\nAnswer:", " 4 + 3 = 7\n#### 7"),
    ("Which planet is the largest?\nA. Mars\nB. Jupiter\nAnswer:", " B"),
    ("Translate to French: good morning ", "bonjour"),
    ("Translate to French: good morning\n", "bonjour"),
    ("Translate: good \t \n", " morning "),
    ("x", "\n"),
    ("äöü 日本 🙂:", " ✓ é"),
]


@pytest.fixture
def harness(tokenizer):
    from lm_eval.models.huggingface import HFLM

    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        intermediate_size=8,
    )
    return HFLM(pretrained=LlamaForCausalLM(config), tokenizer=tokenizer, device="cpu")


def test_pairs_are_encoded_as_lm_eval_encodes_them(harness, tokenizer):
    for prompt, completion in PAIRS:
        pair = encode_pair(tokenizer, prompt, completion)
        assert not pair.joined
        assert (pair.prompt, pair.completion) == harness._encode_pair(prompt, completion)


def test_an_empty_prompt_is_encoded_as_lm_eval_encodes_it(harness, tokenizer, monkeypatch):
    from lm_eval.api.instance import Instance

    seen = []
    monkeypatch.setattr(harness, "_loglikelihood_tokens", lambda requests, **_: seen.extend(requests) or [])
    for completion in ("hello there", "<s>hello", "</s>hello"):
        harness.loglikelihood([Instance("loglikelihood", {}, ("", completion), 0)], disable_tqdm=True)
        pair = encode_pair(tokenizer, "", completion)
        assert (pair.prompt, pair.completion) == tuple(seen[-1][1:])


def test_a_text_that_begins_with_the_first_token_gets_no_second(harness, tokenizer):
    first = tokenizer.bos_token or tokenizer.eos_token
    prompt = first + "Answer:"
    pair = encode_pair(tokenizer, prompt, " B")
    assert (pair.prompt, pair.completion) == harness._encode_pair(prompt, " B")
    assert pair.prompt.count(tokenizer.convert_tokens_to_ids(first)) == 1


def test_generation_starts_from_the_same_ids(harness, tokenizer):
    for prompt, _ in PAIRS:
        text = prompt.rstrip()  # as examples have it
        ids, mask = harness.tok_batch_encode([text])
        assert encode_prompt(text, tokenizer) == ids[0].tolist()
        assert mask.all()


@pytest.mark.parametrize("name", [name for name in TASKS if TASKS[name].kind != "chat"])
def test_every_tasks_sample_and_candidates(harness, tokenizer, name):
    task = TASKS[name]
    row = task.reader(Record(task.sample, "sample", "1"), ("bad news", "good news"))
    example = make_example(task.template, row)
    pair = encode_example(example, tokenizer)
    assert (pair.prompt, pair.completion) == harness._encode_pair(example.prompt, example.completion)
    for choice in example.choices:
        pair = encode_pair(tokenizer, example.prompt, choice)
        assert (pair.prompt, pair.completion) == harness._encode_pair(example.prompt, choice)
