"""Token ids and labels: loss on the completion alone, the end learned, no answer cut off."""

import re

import pytest

from neurolora.errors import ConfigError, DataError
from neurolora.tasks import (
    IGNORED,
    CompletionCollator,
    Example,
    encode,
    encode_all,
    encode_pair,
    encode_prompt,
    prompt_text,
)

PROMPT, COMPLETION = "Question: How many pears has Mira?\nAnswer:", " 4 + 3 = 7\n#### 7"
EXAMPLE = Example(PROMPT, COMPLETION, source="a.jsonl, line 3")
LONG = Example("The trains run on time again. " * 20 + PROMPT, COMPLETION, source="a.jsonl, line 4")


def test_loss_is_on_the_completion_and_the_end_token_alone(tokenizer):
    row = encode(EXAMPLE, tokenizer, 200)
    learned = [label for label in row["labels"] if label != IGNORED]
    start = len(row["labels"]) - len(learned)
    assert row["labels"] == [IGNORED] * start + row["input_ids"][start:]
    assert learned[-1] == tokenizer.eos_token_id
    assert tokenizer.eos_token_id not in row["input_ids"][:-1]
    assert tokenizer.decode(learned[:-1]).lstrip() == COMPLETION.lstrip()
    assert row["input_ids"][:start] == tokenizer.encode(PROMPT)
    assert row["input_ids"][:-1] == tokenizer.encode(PROMPT + COMPLETION)


def test_the_end_token_stays_learned_when_it_is_the_pad_token(tokenizer):
    tokenizer.pad_token = tokenizer.eos_token
    rows = [encode(EXAMPLE, tokenizer, 200), encode(LONG, tokenizer, 400)]
    batch = CompletionCollator(tokenizer)(rows)
    for number, row in enumerate(rows):
        size = len(row["input_ids"])
        assert batch["labels"][number, size - 1] == tokenizer.eos_token_id
        assert batch["attention_mask"][number].tolist() == [1] * size + [0] * (
            batch["labels"].shape[1] - size
        )
        assert (batch["labels"][number, size:] == IGNORED).all()


def test_an_end_token_that_is_written_is_not_doubled(tokenizer):
    row = encode(Example(PROMPT, " 7</s>"), tokenizer, 200)
    assert row["input_ids"].count(tokenizer.eos_token_id) == 1


@pytest.mark.parametrize("cut", [1, 5, 60])
def test_an_overlong_row_loses_only_the_left_of_its_prompt(tokenizer, cut):
    whole = encode(LONG, tokenizer, 10_000)
    size = len(whole["input_ids"]) - cut
    row = encode(LONG, tokenizer, size)
    first = 1 if tokenizer.bos_token_id is not None else 0
    assert len(row["input_ids"]) == len(row["labels"]) == size
    assert row["input_ids"] == whole["input_ids"][:first] + whole["input_ids"][first + cut :]
    assert row["labels"] == whole["labels"][:first] + whole["labels"][first + cut :]
    assert encode(LONG, tokenizer, size, overlong="drop") is None
    assert encode(LONG, tokenizer, size + cut, overlong="drop") == whole


def test_the_smallest_length_keeps_one_token_before_the_completion(tokenizer):
    whole = encode(LONG, tokenizer, 10_000)
    completion = [label for label in whole["labels"] if label != IGNORED]
    row = encode(LONG, tokenizer, len(completion) + 1)
    before = (
        whole["input_ids"][0] if tokenizer.bos_token_id is not None else tokenizer.encode(LONG.prompt)[-1]
    )
    assert row == {"input_ids": [before, *completion], "labels": [IGNORED, *completion]}


def test_a_completion_that_alone_does_not_fit_is_an_error_or_dropped(tokenizer):
    size = sum(label != IGNORED for label in encode(EXAMPLE, tokenizer, 200)["labels"])
    said = (
        f"encoding a.jsonl, line 3: the completion alone has {size} tokens with its end, max_length is {size}"
    )
    with pytest.raises(DataError, match=re.escape(said)):
        encode(EXAMPLE, tokenizer, size)
    assert encode(EXAMPLE, tokenizer, size, overlong="drop") is None


def test_encode_all_counts(tokenizer):
    size = len(encode(EXAMPLE, tokenizer, 10_000)["input_ids"])
    examples = [EXAMPLE, LONG, EXAMPLE, LONG, LONG]
    rows, report = encode_all(examples, tokenizer, size, "shorten")
    assert rows == [encode(one, tokenizer, size) for one in examples]
    assert (report.total, report.kept, report.shortened, report.dropped) == (5, 5, 3, 0)
    assert (report.longest, report.tokens) == (size, 5 * size)
    assert report.completion_tokens == sum(label != IGNORED for row in rows for label in row["labels"])
    rows, report = encode_all(examples, tokenizer, size, "drop")
    assert (report.total, report.kept, report.shortened, report.dropped) == (5, 2, 0, 3)
    with pytest.raises(DataError, match="none of 3 rows fits into max_length 5"):
        encode_all([LONG] * 3, tokenizer, 5, "drop")
    with pytest.raises(ConfigError, match="unknown choice 'cut'"):
        encode(EXAMPLE, tokenizer, 5, "cut")


def test_a_completion_that_melts_into_its_prompt_is_encoded_by_itself(tokenizer):
    whole = tokenizer.encode("hellobonjour")
    assert whole[: len(tokenizer.encode("hello"))] != tokenizer.encode("hello"), "the case must be one"
    pair = encode_pair(tokenizer, "hello", "bonjour")
    assert pair.joined
    assert pair.prompt == tokenizer.encode("hello")
    assert tokenizer.decode(pair.prompt + pair.completion, skip_special_tokens=True) == "hellobonjour"
    _, report = encode_all([Example("hello", "bonjour"), EXAMPLE], tokenizer, 200)
    assert report.joined == 1


def test_what_is_generated_from_is_what_was_trained_on(tokenizer):
    for prompt in (PROMPT, PROMPT + " ", "hello", ""):
        pair = encode_pair(tokenizer, prompt, " 7")
        assert encode_prompt(prompt, tokenizer) == pair.prompt


def test_an_empty_prompt_is_the_first_token(tokenizer):
    first = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    row = encode(Example("", "hello there"), tokenizer, 50)
    assert row["input_ids"][0] == first
    assert row["labels"][0] == IGNORED
    assert row["labels"][1:] == row["input_ids"][1:]


def test_a_tokenizer_without_an_end_token_is_sent_to_prepare(make_tokenizer):
    bare = make_tokenizer(bos=False)
    with pytest.raises(ConfigError, match="Call prepare_tokenizer"):
        encode(EXAMPLE, bare, 200)


def test_a_tokenizer_that_ends_every_text_itself_changes_nothing(make_tokenizer):
    names = {"bos_token": "<s>", "eos_token": "</s>"}
    plain = make_tokenizer(bos=True, **names)
    ending = make_tokenizer(bos=True, eos_after=True, **names)
    assert ending.encode("a")[-1] == ending.eos_token_id, "the case must be one"
    assert encode(EXAMPLE, ending, 200) == encode(EXAMPLE, plain, 200)
    assert encode_prompt(PROMPT, ending) == encode_prompt(PROMPT, plain)


# ---- chat

TURNS = [{"role": "system", "content": "be kind"}, {"role": "user", "content": "good morning"}]
CHAT = Example(TURNS, "bonjour")


def test_chat_learns_the_answer_and_the_end_of_its_turn(chat_tokenizer):
    row = encode(CHAT, chat_tokenizer, 200)
    learned = [label for label in row["labels"] if label != IGNORED]
    assert chat_tokenizer.decode(learned) == "bonjour<|im_end|>"
    assert chat_tokenizer.decode(row["input_ids"]) == (
        "<|im_start|>system\nbe kind<|im_end|>\n<|im_start|>user\ngood morning<|im_end|>\n"
        "<|im_start|>assistant\nbonjour<|im_end|>"
    )
    start = row["input_ids"][: -len(learned)]
    assert start == encode_prompt(TURNS, chat_tokenizer)
    assert start == chat_tokenizer.apply_chat_template(TURNS, add_generation_prompt=True, return_dict=False)


def test_chat_without_an_end_in_the_template_gets_the_end_token(chat_tokenizer):
    chat_tokenizer.chat_template = (
        "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant:{% endif %}"
    )
    learned = [label for label in encode(CHAT, chat_tokenizer, 200)["labels"] if label != IGNORED]
    assert learned[-1] == chat_tokenizer.eos_token_id
    assert chat_tokenizer.decode(learned[:-1]) == " bonjour"


def test_chat_whose_generation_prompt_is_not_in_the_transcript_learns_answer_and_end(chat_tokenizer):
    chat_tokenizer.chat_template = (
        "{% for m in messages %}{{ m.role }}: {{ m.content }}<|im_end|>{% endfor %}"
        "{% if add_generation_prompt %}assistant: <think></think>{% endif %}"
    )
    learned = [label for label in encode(CHAT, chat_tokenizer, 200)["labels"] if label != IGNORED]
    assert chat_tokenizer.decode(learned) == "bonjour<|im_end|>"
    assert prompt_text(TURNS, chat_tokenizer).endswith("<think></think>")


def test_chat_begins_with_one_first_token_whether_the_template_writes_it_or_not(make_tokenizer):
    tokenizer = make_tokenizer(bos=True, bos_token="<s>", eos_token="</s>")
    body = "{% for m in messages %}{{ m.content }}</s>{% endfor %}"
    for template in (body, "{{ bos_token }}" + body):
        tokenizer.chat_template = template
        ids = encode(CHAT, tokenizer, 200)["input_ids"]
        assert ids[0] == tokenizer.bos_token_id
        assert ids.count(tokenizer.bos_token_id) == 1


def test_chat_errors_are_clear(tokenizer, chat_tokenizer):
    with pytest.raises(ConfigError, match="the tokenizer has no chat template"):
        encode(CHAT, tokenizer, 200)
    chat_tokenizer.chat_template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(DataError, match=r"refused it \(roles must alternate\)"):
        encode(CHAT, chat_tokenizer, 200)


# ---- the collator


def test_the_collator_pads_right_to_a_multiple(tokenizer):
    tokenizer.padding_side = "left"
    rows = [{"input_ids": [5, 6, 7], "labels": [IGNORED, 6, 7]}, {"input_ids": [8], "labels": [8]}]
    batch = CompletionCollator(tokenizer, pad_to_multiple_of=4)(rows)
    pad = tokenizer.pad_token_id
    assert batch["input_ids"].tolist() == [[5, 6, 7, pad], [8, pad, pad, pad]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 0], [1, 0, 0, 0]]
    assert batch["labels"].tolist() == [[IGNORED, 6, 7, IGNORED], [8, IGNORED, IGNORED, IGNORED]]
    assert {str(value.dtype) for value in batch.values()} == {"torch.int64"}
    assert CompletionCollator(tokenizer)(rows)["input_ids"].shape == (2, 3)


def test_the_collator_wants_a_pad_token(make_tokenizer):
    with pytest.raises(ConfigError, match="Call prepare_tokenizer"):
        CompletionCollator(make_tokenizer(bos=False))
