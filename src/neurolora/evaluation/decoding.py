"""Text from prompts by the model's own `generate`: batched, cached, stopped at texts as well as tokens.

Room: evaluation. Called by the lm-eval bridge and by the `generate` command. It runs the model it is
given, as it is, and changes nothing of it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from neurolora.errors import ConfigError, DataError, explain
from neurolora.evaluation.likelihood import model_window


@dataclass(frozen=True)
class DecodingSettings:
    """Options of `transformers`' `generate`, by its names; greedy unless `do_sample`.

    `stop` are texts that end a completion and are cut off with all behind them; the end token always
    does. `seed` makes sampling repeatable for one batch size, since the rows of a batch share the draws.
    """

    max_new_tokens: int = 64
    do_sample: bool = False
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    num_beams: int = 1
    repetition_penalty: float | None = None
    use_cache: bool = True
    stop: tuple[str, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        problems = [message for holds, message in self._rules() if not holds]
        if problems:
            found = "; ".join(problems)
            raise ConfigError(explain("generation settings", found, "Change the settings named"))

    def _rules(self) -> Iterator[tuple[bool, str]]:
        sampling = [name for name in ("temperature", "top_p", "top_k") if getattr(self, name) is not None]
        yield self.max_new_tokens >= 1, f"max_new_tokens is {self.max_new_tokens}, needs at least 1"
        yield self.num_beams >= 1, f"num_beams is {self.num_beams}, needs at least 1"
        yield (
            self.temperature is None or self.temperature > 0,
            f"temperature is {self.temperature}, needs > 0",
        )
        yield self.top_p is None or 0 < self.top_p <= 1, f"top_p is {self.top_p}, needs to be in (0, 1]"
        yield self.top_k is None or self.top_k >= 1, f"top_k is {self.top_k}, needs at least 1"
        penalty = self.repetition_penalty
        yield penalty is None or penalty > 0, f"repetition_penalty is {penalty}, needs > 0"
        yield self.do_sample or not sampling, f"{', '.join(sampling)} set, but do_sample is off"

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for result files."""
        return asdict(self)


@dataclass(frozen=True)
class Completion:
    """A completion's text, how many tokens were decoded for it, and why it ended.

    `finish` is "end" (the end token), "stop" (one of the stop texts) or "length" (`max_new_tokens`);
    `shortened` counts the prompt's tokens that were dropped on the left to make room.
    """

    text: str
    tokens: int
    finish: str
    shortened: int


def generate_completions(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Sequence[int]],
    settings: DecodingSettings,
    batch_size: int = 8,
    advance: Callable[[int], object] | None = None,
) -> list[Completion]:
    """Complete each prompt, given as token ids, in the order given.

    Rows are padded on the left and prompts of like length share a batch. A prompt that leaves no room
    for `max_new_tokens` in the model's window loses tokens on its left, which is counted. `advance` is
    told how many prompts each batch finished. Raises `DataError` for an empty prompt, `ConfigError` if
    `max_new_tokens` alone fill the window.
    """
    room = _room_for_prompt(model, tokenizer, settings)
    empty = next((index for index, prompt in enumerate(prompts) if not len(prompt)), None)
    if empty is not None:
        raise DataError(explain(f"prompt {empty + 1}", "it has no tokens", "Write at least one character"))
    order = sorted(range(len(prompts)), key=lambda index: -len(prompts[index]))
    done: dict[int, Completion] = {}
    with torch.no_grad(), _seeded(settings):
        for start in range(0, len(order), batch_size):
            batch = order[start : start + batch_size]
            found = _complete_batch(model, tokenizer, [prompts[index] for index in batch], settings, room)
            done.update(zip(batch, found, strict=True))
            if advance is not None:
                advance(len(batch))
    return [done[index] for index in range(len(prompts))]


def _room_for_prompt(model: Any, tokenizer: Any, settings: DecodingSettings) -> int | None:
    window = model_window(model, tokenizer)
    if window is None:
        return None
    if settings.max_new_tokens >= window:
        found = f"the model reads {window} tokens in all, prompt included"
        raise ConfigError(explain(f"max_new_tokens {settings.max_new_tokens}", found, "Ask for fewer tokens"))
    return window - settings.max_new_tokens


@contextlib.contextmanager
def _seeded(settings: DecodingSettings) -> Iterator[None]:
    """Sampling draws from the global generator, which is put back afterwards; greedy draws nothing."""
    if not settings.do_sample:
        yield
        return
    devices = range(torch.cuda.device_count()) if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(settings.seed)
        yield


def _complete_batch(
    model: Any, tokenizer: Any, prompts: list[Sequence[int]], settings: DecodingSettings, room: int | None
) -> list[Completion]:
    kept = [list(prompt) if room is None else list(prompt)[-room:] for prompt in prompts]
    ends = end_token_ids(model, tokenizer)
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else ends[0]
    width = max(map(len, kept))
    inputs = torch.tensor([[pad] * (width - len(ids)) + ids for ids in kept], device=model.device)
    mask = torch.tensor([[0] * (width - len(ids)) + [1] * len(ids) for ids in kept], device=model.device)
    stopping = [_StopAtText(tokenizer, settings.stop, width)] if settings.stop else []
    with _quiet_transformers():
        output = model.generate(
            input_ids=inputs,
            attention_mask=mask,
            generation_config=_generation_config(settings, ends, pad),
            stopping_criteria=stopping,
        )
    written = output[:, width:].tolist()
    return [
        _completion(tokenizer, ids, tokens, ends, settings, len(prompt) - len(ids))
        for tokens, prompt, ids in zip(written, prompts, kept, strict=True)
    ]


def end_token_ids(model: Any, tokenizer: Any) -> list[int]:
    """Every token that ends a text: the tokenizer's and those of the model's generation config."""
    configured = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    listed = configured if isinstance(configured, list) else [configured]
    return list(dict.fromkeys(end for end in [tokenizer.eos_token_id, *listed] if end is not None))


def _generation_config(settings: DecodingSettings, ends: list[int], pad: int) -> Any:
    from transformers import GenerationConfig

    options = settings.to_dict()
    del options["stop"], options["seed"]
    given = {name: value for name, value in options.items() if value is not None}
    return GenerationConfig(**given, eos_token_id=ends, pad_token_id=pad)


def _completion(
    tokenizer: Any,
    prompt: list[int],
    tokens: list[int],
    ends: list[int],
    settings: DecodingSettings,
    shortened: int,
) -> Completion:
    """Cut one row at its end: rows that ended before their neighbours are filled up with padding."""
    finish = "length"
    while tokens and tokens[-1] == tokenizer.pad_token_id and tokens[-1] not in ends:
        tokens = tokens[:-1]
    end = next((place for place, token in enumerate(tokens) if token in ends), None)
    if end is not None:
        tokens, finish = tokens[:end], "end"
    text = _continuation_text(tokenizer, prompt, tokens)
    for stop in settings.stop:
        if stop in text:
            text, finish = text.split(stop, 1)[0], "stop"
    return Completion(text, len(tokens) + (finish == "end"), finish, shortened)


def _continuation_text(tokenizer: Any, prompt: list[int], tokens: list[int]) -> str:
    """What `tokens` add to the prompt's text. Decoded alone, some tokenizers drop a first word's space."""
    before = tokenizer.decode(prompt, skip_special_tokens=True)
    whole = tokenizer.decode(prompt + tokens, skip_special_tokens=True)
    if whole.startswith(before):
        return str(whole[len(before) :])
    return str(tokenizer.decode(tokens, skip_special_tokens=True))


class _StopAtText:
    """Marks the rows whose newly written tail holds one of the stop texts.

    Only as many tokens are decoded as the longest stop text can span, plus two, since a text may be
    split into tokens otherwise than its tokenizer would.
    """

    def __init__(self, tokenizer: Any, stop: Sequence[str], start: int) -> None:
        spans = [len(tokenizer.encode(text, add_special_tokens=False)) for text in stop]
        self.tokenizer, self.stop, self.start, self.tail = tokenizer, tuple(stop), start, max(spans) + 2

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Tensor:
        written = input_ids[:, self.start :][:, -self.tail :].tolist()
        found = [any(stop in text for stop in self.stop) for text in self.tokenizer.batch_decode(written)]
        return torch.tensor(found, device=input_ids.device)


@contextlib.contextmanager
def _quiet_transformers() -> Iterator[None]:
    """Errors only: `generate` warns of every model default that a greedy run leaves unused."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)
