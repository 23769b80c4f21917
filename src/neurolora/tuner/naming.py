"""Names of modules: which are adapted by default, who shares a gate, and what A's seed is keyed by.

Room: tuner. Pure functions on strings and tables of data; imports torch for no more than a type.
"""

from __future__ import annotations

import re

# Wrappers that add a segment to a module's path without changing what the module is.
WRAPPERS = ("base_model", "model", "module", "_orig_mod", "_fsdp_wrapped_module", "base_layer")

# Projections that read the same tensor, by the names that architectures give them.
SAME_INPUT: tuple[tuple[str, ...], ...] = (
    ("q_proj", "k_proj", "v_proj"),
    ("query", "key", "value"),
    ("query_proj", "key_proj", "value_proj"),
    ("q_lin", "k_lin", "v_lin"),
    ("q", "k", "v"),
    ("to_q", "to_k", "to_v"),
    ("gate_proj", "up_proj"),
    ("w1", "w3"),
    ("wi_0", "wi_1"),
)
QUERIES = frozenset(names[0] for names in SAME_INPUT[:6])
CROSS_ATTENTION = re.compile(
    r"(^|\.)(encoder_attn|EncDecAttention|crossattention|cross_attn|cross_attention)(\.|$)"
)

_LLAMA_LIKE = ("q_proj", "k_proj", "v_proj", "o_proj")
_BERT_LIKE = ("query", "key", "value", "attention.output.dense")
_OUT_PROJ = ("q_proj", "k_proj", "v_proj", "out_proj")

# Query, key, value and output projection of the attention, for every architecture that PEFT's LoRA knows.
ATTENTION_MODULES: dict[str, tuple[str, ...] | str] = {
    **dict.fromkeys(
        (
            "llama", "llama4", "mistral", "mixtral", "stablelm", "gemma", "gemma2", "gemma3_text",
            "qwen2", "qwen3", "qwen2_moe", "qwen3_moe", "olmo", "olmo2", "phi3_small", "cohere", "granite",
            "smollm3", "ministral", "nemotron_h",
        ),
        _LLAMA_LIKE,
    ),
    **dict.fromkeys(("bert", "roberta", "xlm-roberta", "electra", "layoutlm"), _BERT_LIKE),
    **dict.fromkeys(("bart", "mbart", "opt", "gpt_neo", "gptj", "whisper"), _OUT_PROJ),
    **dict.fromkeys(("t5", "mt5", "umt5"), ("q", "k", "v", "o")),
    **dict.fromkeys(("falcon", "RefinedWeb", "RefinedWebModel", "bloom"), (
        "query_key_value", "self_attention.dense")),
    **dict.fromkeys(("gpt2", "gpt_bigcode", "btlm"), ("c_attn", "attn.c_proj")),
    "blip-2": ("q", "k", "v", "o", "q_proj", "k_proj", "v_proj", "out_proj"),
    "gpt_neox": ("query_key_value", "attention.dense"),
    "distilbert": ("q_lin", "k_lin", "v_lin", "out_lin"),
    "deberta-v2": ("query_proj", "key_proj", "value_proj", "attention.output.dense"),
    "deberta": ("in_proj", "attention.output.dense"),
    "chatglm": ("query_key_value", "self_attention.dense"),
    "mpt": ("Wqkv", "out_proj"),
    "codegen": ("qkv_proj", "out_proj"),
    "phi": ("q_proj", "k_proj", "v_proj", "dense"),
    "phi3": ("qkv_proj", "o_proj"),
    "gemma4": r".*language_model\..*\.(q_proj|k_proj|v_proj|o_proj)",
    "rwkv": ("key", "value", "receptance", "output"),
    "rwkv7": ("r_proj", "k_proj", "v_proj", "o_proj", "key", "value"),
    "vit": ("query", "key", "value", "attention.output.dense"),
}  # fmt: skip


def canonical_name(path: str, base_model_prefix: str = "") -> str:
    """The module's path without the wrappers around it, so that nesting does not change A.

    `base_model.model.model.layers.0.self_attn.q_proj`, `model.layers.0.self_attn.q_proj` and
    `layers.0.self_attn.q_proj` all give the last of them. `base_model_prefix` is the name under which a
    transformers head keeps its body (`model`, `bert`, `transformer`).
    """
    parts = [
        part for part in path.split(".") if part not in ("_orig_mod", "_fsdp_wrapped_module", "base_layer")
    ]
    wrappers = {*WRAPPERS, base_model_prefix}
    while len(parts) > 1 and parts[0] in wrappers:
        parts = parts[1:]
    return ".".join(parts)


def gate_group(name: str, in_features: int, sharing: str) -> tuple[object, ...]:
    """What the modules that share a gate have in common (docs/method.md, gate sharing).

    `name` is the module's path in the model. Two modules with equal groups share: the whole gate for
    `"kind"` and `"model"`, W1 alone for `"input"`, nothing for `"module"`.
    """
    parent, _, last = name.rpartition(".")
    if sharing == "kind":
        return ("kind", last, in_features)
    if sharing == "model":
        return ("model", in_features)
    if sharing == "input":
        return ("input", parent, *_reads(parent, last), in_features)
    return ("module", name)


def _reads(parent: str, last: str) -> tuple[str, ...]:
    """The tensor that a projection reads, named by the siblings that read it too."""
    if last in QUERIES and CROSS_ATTENTION.search(parent):
        return (last,)  # reads the decoder, while key and value read the encoder
    return next((family for family in SAME_INPUT if last in family), (last,))


def reads_encoder(name: str) -> bool:
    """Whether a module of an encoder-decoder works on the encoder's tokens rather than the decoder's."""
    _, _, last = name.rpartition(".")
    if CROSS_ATTENTION.search(name):
        return last in {member for family in SAME_INPUT[:6] for member in family} - QUERIES
    return "encoder" in canonical_name(name).split(".")
