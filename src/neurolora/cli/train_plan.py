"""What `neurolora train --dry-run` and `--keys` print for people.

Room: cli; text from plain values.
"""

from __future__ import annotations

import dataclasses
from typing import Any


def plan_text(plan: dict[str, Any]) -> str:
    """The resolved config as YAML that can be saved and used, then the plan as comments below it."""
    from neurolora.training.config import to_yaml

    counts, memory, steps, data = plan["parameters"], plan["memory"], plan["steps"], plan["data"]
    lines = [
        "",
        f"trainable parameters  {counts['trainable']:,} ({counts['percent_of_base']:.4f}% of the base)",
        *(f"  {name:<20}{size:,}" for name, size in counts["by_group"].items()),
        f"base parameters       {counts['base']:,}",
        f"training rows         {data['train_examples']:,}"
        + (f" of {data['train_tokens']:,} tokens" if data["train_tokens"] else ""),
        f"optimizer steps       {steps['total']:,} ({steps['per_epoch']:,} an epoch, {steps['warmup']:,} of "
        f"warmup), {steps['rows_per_step']} rows each",
        f"memory, estimated     {gigabytes(memory['total'])} (rows of {memory['row_length']} tokens; "
        "activations are rough)",
        *(
            f"  {name:<20}{gigabytes(memory[name])}"
            for name in ("weights", "gradients", "optimizer", "activations")
        ),
        "learning rates (B, gate)",
        *(
            f"  at step {row['step']:<12,}{row['learning_rate']:.3e}  {row['gate_learning_rate']:.3e}"
            for row in plan["schedule"]
        ),
        *(f"note: {note}" for note in plan["notes"]),
        "nothing was trained or written",
    ]
    comments = "".join(f"# {line}".rstrip() + "\n" for line in lines)
    return to_yaml(plan["config"]) + comments


def gigabytes(size: float) -> str:
    """A size in bytes as people read it."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size:.0f} B"


def key_rows() -> list[dict[str, str]]:
    """Every setting: its key, default and meaning; of the adapter's those of NeuroLoRA."""
    from neurolora.training.adapter_section import config_class, setting_names
    from neurolora.training.config import SECTIONS

    rows: list[dict[str, str]] = []
    for section, model in SECTIONS.items():
        for name, field in model.model_fields.items():
            default = "needed" if field.is_required() else str(field.get_default(call_default_factory=True))
            rows.append({"key": f"{section}.{name}", "default": default, "help": field.description or ""})
        if section == "adapter":
            fields = {field.name: field for field in dataclasses.fields(config_class("neurolora"))}
            rows += [
                {
                    "key": f"adapter.{name}",
                    "default": str(fields[name].default),
                    "help": str(fields[name].metadata.get("help", "")),
                }
                for name in setting_names("neurolora")
            ]
    return rows


def keys_text(rows: list[dict[str, str]]) -> str:
    """One line a setting."""
    width = max(len(row["key"]) for row in rows) + 2
    lines = [f"{row['key']:<{width}}{row['default']:<14}{row['help']}".rstrip() for row in rows]
    tail = "With adapter.method lora its settings are those of peft.LoraConfig; with full there are none."
    return "\n".join([*lines, tail]) + "\n"
