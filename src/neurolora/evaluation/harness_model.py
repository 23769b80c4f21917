"""The bridge's model side: lm-eval's HFLM over a given model, with this room's scoring and decoding.

Room: evaluation. Only `harness.py` imports this file, and only when something is evaluated, since it
imports lm-eval. HFLM keeps the request protocol, the chat template and the window; likelihoods come from
`score_continuations` and texts from `generate_completions`, so that the harness and the rest of the house
cannot disagree. `tests/unit/evaluation/test_harness_model.py` holds both against HFLM's own.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

from lm_eval.models.huggingface import HFLM
from tqdm import tqdm

from neurolora.errors import UnsupportedOperationError, explain
from neurolora.evaluation.decoding import Completion, DecodingSettings, generate_completions
from neurolora.evaluation.encoding import encode_continuation
from neurolora.evaluation.likelihood import TokenPair, score_continuations
from neurolora.tasks import Example, encode_prompt

CPU_BATCH = 16  # measured: beyond this a small model on two cores gains nothing
SAMPLING_ALIASES = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")


class AdaptedLM(HFLM):
    """A causal model with or without adapters, as lm-eval sees one.

    `as_trained` encodes prompts and answers as training did (our own tasks); without it the encoding is
    lm-eval's, for tasks that are not ours and are to be comparable with other people's numbers.
    """

    def __init__(
        self, model: Any, tokenizer: Any, batch_size: int | str, *, as_trained: bool, progress: bool = True
    ) -> None:
        # HFLM would switch the model to eval mode and tie its weights again, which is not its business here
        # (the head may be a trained copy): it sees a description of the model first, then the model.
        described = SimpleNamespace(device=model.device, config=model.config)
        super().__init__(pretrained=described, tokenizer=tokenizer, batch_size=batch_size)
        self._model = model
        if self.backend != "causal":
            found = f"{type(model).__name__} is an encoder-decoder model"
            raise UnsupportedOperationError(explain("evaluating", found, "Evaluate a decoder-only model"))
        self.as_trained = as_trained
        self.progress = progress
        self.shortened = 0

    def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        if not self.as_trained:
            return super()._encode_pair(context, continuation)  # type: ignore[no-any-return]
        pair = encode_continuation(Example(context, continuation), self.tokenizer, None)
        if _total(pair) > self.max_length + 1:
            self.shortened += 1
            pair = encode_continuation(Example(context, continuation), self.tokenizer, self.max_length)
        return list(pair.context), list(pair.continuation)

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """(log-likelihood, is greedy) of each request's continuation after its context."""
        if not self.as_trained:
            return super().loglikelihood(requests, disable_tqdm=True)  # type: ignore[no-any-return]
        texts = [request.args for request in requests]
        return self._loglikelihood_tokens([(pair, *self._encode_pair(*pair)) for pair in texts])

    def _loglikelihood_tokens(
        self, requests: list[Any], disable_tqdm: bool = False, override_bs: int | None = None
    ) -> list[tuple[float, bool]]:
        pairs = [TokenPair(tuple(context), tuple(continuation)) for _, context, continuation in requests]
        if not self.as_trained:
            self.shortened += sum(_total(pair) > self.max_length + 1 for pair in pairs)
        batch = override_bs or self._batch_for(max(map(_total, pairs), default=1))
        with self._bar(len(pairs), "scoring") as bar:
            scores = score_continuations(self.model, pairs, batch, self.max_length, bar.update)
        return [(score.log_likelihood, score.greedy) for score in scores]

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """Completions of each request's prompt; requests of equal settings share batches."""
        texts: list[str] = [""] * len(requests)
        kinds: dict[DecodingSettings, list[int]] = defaultdict(list)
        for index, request in enumerate(requests):
            kinds[self._settings(request.args[1])].append(index)
        with self._bar(len(requests), "generating") as bar:
            for settings, members in kinds.items():
                prompts = [self._prompt_ids(requests[index].args[0]) for index in members]
                for index, found in zip(members, self._complete(prompts, settings, bar), strict=True):
                    texts[index] = found.text
                    self.shortened += found.shortened > 0
        return texts

    def _complete(
        self, prompts: Sequence[list[int]], settings: DecodingSettings, bar: Any
    ) -> list[Completion]:
        batch = self._batch_for(max(map(len, prompts)) + settings.max_new_tokens)
        return generate_completions(self.model, self.tokenizer, prompts, settings, batch, bar.update)

    def _prompt_ids(self, prompt: str) -> list[int]:
        if self.as_trained:
            return encode_prompt(prompt, self.tokenizer)
        return self.tok_encode(prompt)  # type: ignore[no-any-return]

    def _settings(self, options: dict[str, Any]) -> DecodingSettings:
        """lm-eval's generation options under its rules: greedy unless told, `until` a text or several."""
        given = dict(options)
        limits = [given.pop(name, None) for name in SAMPLING_ALIASES]
        most = next((limit for limit in limits if limit is not None), self.max_gen_toks)
        until = given.pop("until", None) or []
        stop = (until,) if isinstance(until, str) else tuple(until)
        if not given.get("do_sample"):
            given = {
                name: value for name, value in given.items() if name not in ("temperature", "top_p", "top_k")
            }
        return DecodingSettings(max_new_tokens=int(most), stop=stop, **given)

    def _batch_for(self, length: int) -> int:
        """The batch size asked for; `auto` tries on a GPU, and is a constant on a CPU, which runs no risk."""
        if self.batch_size != "auto":
            return int(self.batch_size)
        if self.device.type == "cpu":
            return CPU_BATCH
        probe = [1] * min(length, self.max_length)
        return int(self._detect_batch_size([(None, probe, [1])]))

    def _bar(self, total: int, what: str) -> Any:
        return tqdm(total=total, desc=what, disable=not self.progress, file=sys.stderr, leave=False)

    def get_model_info(self) -> dict[str, Any]:
        """Nothing: HFLM's own asks the hub for the model's revision."""
        return {}


def _total(pair: TokenPair) -> int:
    return len(pair.context) + len(pair.continuation)
