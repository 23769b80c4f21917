"""The model card of a merged adapter: what it was made of, how, and what was overridden.

Room: merging. Text from plain values; `merge.py` writes it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from neurolora.markdown import cell, markdown_templates
from neurolora.world import MODEL_IN_WORDS, is_bundled_model

CARD = "README.md"
TEMPLATES = Path(__file__).parent / "templates"
ABSENT = "not recorded"
SHORT = 16
#: PEFT's loader for each kind of task.
LOADERS = {
    "CAUSAL_LM": "AutoPeftModelForCausalLM",
    "SEQ_CLS": "AutoPeftModelForSequenceClassification",
    "SEQ_2_SEQ_LM": "AutoPeftModelForSeq2SeqLM",
    "TOKEN_CLS": "AutoPeftModelForTokenClassification",
}


def merge_card(
    recipe: Mapping[str, Any], provenance: Mapping[str, Any], config: Mapping[str, Any], name: str
) -> str:
    """The card, from the recipe in mergekit's layout and what `merge.json` holds; `name` is the folder's."""
    base, loader = config.get("base_model_name_or_path"), LOADERS.get(str(config.get("task_type")))
    values = {
        "front": front_matter(config),
        "name": name,
        "kind": _kind(config),
        "how": _how(_kind(config), recipe["merge_method"]),
        "loader": loader or "AutoPeftModel",
        "bundled": is_bundled_model(base),
        "base_loader": (loader or LOADERS["CAUSAL_LM"]).replace("AutoPeft", "Auto"),
        "method": recipe["merge_method"],
        "base": _public(base),
        "recipe": yaml.safe_dump(dict(recipe), sort_keys=False, allow_unicode=True).rstrip(),
        "parents": [_parent_row(parent) for parent in provenance["parents"]],
        "forced": provenance["forced"],
        "notes": provenance["notes"],
    }
    text: str = markdown_templates(TEMPLATES).get_template("model_card.md.j2").render(**values)
    return text


def _how(kind: str, method: str) -> str:
    """What became of the parents' tensors, in a sentence."""
    if kind == "LoRA":
        return "What was merged are the parents' deltas s B A, not A and B apart; the scaling s is in B."
    if method == "concat":
        return "Each parent is a block with an A, a gate and active ranks of its own; outputs are added."
    return "The up-projections B were merged by the method; gates were averaged, A is the parents' own."


def _kind(config: Mapping[str, Any]) -> str:
    if config["peft_type"] == "LORA":
        return "LoRA"
    return "FlyLoRA" if config.get("gate") == "none" else "NeuroLoRA"


def front_matter(config: Mapping[str, Any]) -> str:
    """The YAML block on top, without its `---` lines; a base that is no name on the hub is left out."""
    values: dict[str, Any] = {"library_name": "peft", "tags": ["neurolora", "peft", "merge"]}
    base = config.get("base_model_name_or_path")
    if base and not Path(base).is_absolute() and not Path(base).exists() and not is_bundled_model(base):
        values["base_model"] = base
    return yaml.safe_dump(values, sort_keys=True, allow_unicode=True).rstrip()


def _public(base: str | None) -> str | None:
    """The base's name as others can use it: of a path on this machine only the last part."""
    if is_bundled_model(base):
        return MODEL_IN_WORDS
    return Path(base).name if base and Path(base).is_absolute() else base


def _parent_row(parent: Mapping[str, Any]) -> list[str]:
    digests = (parent["sha256"], parent["projection_fingerprint"], parent["base_fingerprint"])
    shown = [f"`{cell(digest[:SHORT])}`" if digest else ABSENT for digest in digests]
    return [cell(parent["path"]), f"{parent['weight']:g}", f"{parent['density']:g}", *shown]
