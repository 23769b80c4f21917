"""Running an adapted model over texts to see its routing: how often each rank is used, what the gate does.

Room: report. Called by the command `inspect`; it loads the base model, and nothing is trained or written.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from neurolora.errors import ConfigError, DataError, explain
from neurolora.report.adapter_file import read_adapter_config

#: PEFT's task type -> the transformers class that loads such a base.
MODEL_CLASSES = {
    None: "AutoModelForCausalLM",
    "CAUSAL_LM": "AutoModelForCausalLM",
    "SEQ_CLS": "AutoModelForSequenceClassification",
    "TOKEN_CLS": "AutoModelForTokenClassification",
    "QUESTION_ANS": "AutoModelForQuestionAnswering",
    "FEATURE_EXTRACTION": "AutoModel",
}
BLOCK_TOKENS = 256


def measure_routing(
    adapter: Path | str,
    texts: Sequence[str],
    *,
    base_model: str | None = None,
    max_tokens: int = 8192,
    allow_other_base: bool = False,
) -> dict[str, Any]:
    """Routing over the first `max_tokens` tokens of the texts, in the form of `routing.json`.

    base_model: a folder or a hub name; the adapter's own base if left out. Raises AdapterError for a broken
    adapter, FingerprintMismatchError for another base (unless allowed), ConfigError for an adapter
    without routing or a base that cannot be loaded, DataError for texts without a token.
    """
    import torch

    from neurolora.tuner import routing_statistics

    folder = Path(adapter)
    config = read_adapter_config(folder)
    _require_routing(folder, config)
    model, tokenizer = load_adapted(folder, config, base_model, allow_other_base)
    blocks = list(token_blocks(tokenizer, texts, max_tokens))
    if not blocks:
        raise DataError(explain("measuring the routing", "the texts hold no token", "Give a file with text"))
    with torch.inference_mode(), routing_statistics(model) as statistics:
        for block in blocks:
            ids = torch.tensor([block])
            model(input_ids=ids, attention_mask=torch.ones_like(ids))
    return statistics.summary()


def _require_routing(folder: Path, config: dict[str, Any]) -> None:
    if config["peft_type"] != "NEUROLORA":
        found = f"it is a {config['peft_type']} adapter, which uses all its ranks for every token"
        raise ConfigError(explain(f"measuring the routing of {folder}", found, "Leave out --text"))
    if config.get("task_type") not in MODEL_CLASSES:
        found = f"its task type is {config['task_type']}"
        raise ConfigError(
            explain(f"measuring the routing of {folder}", found, "Use routing_statistics yourself")
        )


def load_adapted(
    folder: Path, config: dict[str, Any], base_model: str | None, allow_other_base: bool
) -> tuple[Any, Any]:
    """The base with the adapter on it, and the tokenizer; raises as `measure_routing` does."""
    import peft
    import transformers

    from neurolora.tuner import require_same_base
    from neurolora.world import resolve_model_name

    name = resolve_model_name(base_model or config.get("base_model_name_or_path") or "")
    tokenizer_home = str(folder) if (folder / "tokenizer_config.json").is_file() else name
    try:
        model_class = getattr(transformers, MODEL_CLASSES[config.get("task_type")])
        base = model_class.from_pretrained(name)
        tokenizer = transformers.AutoTokenizer.from_pretrained(tokenizer_home)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        do = "Give a folder or hub name with --base-model"
        raise ConfigError(explain(f"loading the base model {name!r}", reason, do)) from error
    if not allow_other_base:
        require_same_base(config.get("base_fingerprint"), base)
    model = peft.PeftModel.from_pretrained(base, str(folder))
    return model.eval(), tokenizer


def token_blocks(tokenizer: Any, texts: Sequence[str], max_tokens: int) -> Iterator[list[int]]:
    """The texts as blocks of at most `BLOCK_TOKENS` tokens, `max_tokens` of them in all."""
    left = max_tokens
    for text in texts:
        ids = tokenizer(text, verbose=False)["input_ids"]
        for start in range(0, len(ids), BLOCK_TOKENS):
            block = ids[start : start + BLOCK_TOKENS][:left]
            if block:
                yield block
            left -= len(block)
