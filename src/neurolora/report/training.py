"""`report.html` of a run folder: what was run, what came out, how training went, how tokens were routed.

Room: report. `training` (through the command line) and people call `write_training_report`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from neurolora.errors import AdapterError
from neurolora.report.drawing import Picture
from neurolora.report.figures import curve, gate_spread, rank_use, routing_heatmap, short_names
from neurolora.report.inspection import AdapterFacts, inspect_adapter
from neurolora.report.page import ABSENT, flatten, number, spell, write_page
from neurolora.report.run_folder import RunFolder, Score, gated, read_run, scores

REPORT = "report.html"
Rows = list[tuple[str, str]]
METHOD_NAMES = {
    "neurolora": "NeuroLoRA",
    "flylora": "FlyLoRA",
    "mole": "MoLE",
    "lora": "LoRA",
    "dora": "DoRA",
    "adalora": "AdaLoRA",
    "full": "Full fine-tuning",
}
#: Evaluations in the order of a run; any other file follows in alphabetical order.
FIRST = ("before", "base", "after")


def write_training_report(run_folder: Path | str) -> Path:
    """Write `report.html` into a run folder and give its path.

    Reads config.yaml, env.json, metrics.jsonl, routing.json, eval/*.json and the adapter; what is absent is
    named on the page. Equal folders give equal bytes. Raises DataError if `run_folder` is no folder,
    OutputError if the page cannot be written.
    """
    run = read_run(run_folder)
    adapter = _adapter(run)
    values = {
        "title": _title(run, adapter),
        "subtitle": _subtitle(run),
        "problems": run.problems,
        "run": _what_was_run(run, adapter),
        "results": result_table(run.evaluations),
        "curves": _curves(run),
        "routing": routing_pictures(run.routing),
        "layers": layer_table(run.routing),
        "fingerprints": fingerprint_rows(adapter),
        "data": flatten(run.data or {}),
        "environment": flatten(run.environment or {}),
        "config": flatten(run.config or {}),
        "prompt": flatten(run.task or {}),
    }
    return write_page("training.html.j2", run.path / REPORT, values)


def _adapter(run: RunFolder) -> AdapterFacts | None:
    """The adapter's own counts; its absence is a line on the page (a full fine-tuning has none)."""
    if _setting(run, "adapter", "method") == "full":
        run.problems = [problem for problem in run.problems if not problem.startswith("adapter_config")]
        return None
    if run.adapter_config is None:
        return None
    try:
        return inspect_adapter(run.path)
    except AdapterError as error:
        run.problems.append(str(error))
        return None


def _setting(run: RunFolder, section: str, name: str) -> Any:
    found = (run.config or {}).get(section)
    return found.get(name) if isinstance(found, Mapping) else None


def _title(run: RunFolder, adapter: AdapterFacts | None) -> str:
    method = METHOD_NAMES.get(
        str(_setting(run, "adapter", "method")), adapter.method if adapter else "Training"
    )
    data = _setting(run, "data", "task") or _setting(run, "data", "dataset_name")
    return f"{method} on {data}" if data else f"{method}: {run.path.resolve().name}"


def _subtitle(run: RunFolder) -> str:
    time = (run.environment or {}).get("time")
    return f"Training run {run.path.resolve().name}" + (f", {time}" if time else "")


def _what_was_run(run: RunFolder, adapter: AdapterFacts | None) -> Rows:
    rows = [
        ("Base model", spell(_setting(run, "model", "model_name_or_path"))),
        ("Data", _data(run)),
        ("Adapter", describe_adapter(adapter.config) if adapter else ABSENT),
        *(parameter_rows(adapter) or _trained(run.summary)),
        ("Optimizer steps", _steps(run)),
        ("Batch", _batch(run)),
        ("Learning rates", _rates(run)),
        ("Seed", spell(_setting(run, "train", "seed"))),
        *_summary_rows(run.summary),
    ]
    return [(name, value) for name, value in rows if value != ABSENT]


def _data(run: RunFolder) -> str:
    parts = [_setting(run, "data", key) for key in ("task", "dataset_name", "dataset_config")]
    return ", ".join(str(part) for part in parts if part) or ABSENT


def describe_adapter(config: Mapping[str, Any]) -> str:
    """The adapter's shape in one line, from its own config."""
    names = (
        "r",
        "top_k",
        "blocks",
        "lora_alpha",
        "density",
        "projection",
        "gate",
        "gate_dim",
        "gate_sharing",
    )
    shown = [f"{name} {spell(config[name])}" for name in names if config.get(name) is not None]
    if config.get("gate") == "none":
        shown = [part for part in shown if not part.startswith("gate_")]
    if config.get("orthogonality_weight"):
        shown.append(f"orthogonality weight {spell(config['orthogonality_weight'])}")
    return ", ".join(shown) or ABSENT


def parameter_rows(adapter: AdapterFacts | None) -> Rows:
    """Counted from the tensors in the file, never quoted."""
    if adapter is None:
        return []
    counts = adapter.parameters
    return [
        ("Trainable parameters", number(counts.trainable)),
        ("Stored entries", f"{number(counts.stored)} in {number(adapter.file_bytes)} bytes"),
        ("Active for one token", number(counts.active)),
        ("Adapted modules", number(len(adapter.modules))),
    ]


def _trained(summary: Mapping[str, Any]) -> Rows:
    """Without an adapter's file, what the run itself counted."""
    return [("Trainable parameters", number(summary.get("trainable_parameters")))]


def _steps(run: RunFolder) -> str:
    steps = [line["step"] for line in run.logs if isinstance(line.get("step"), int)]
    return number(max(steps)) if steps else ABSENT


def _batch(run: RunFolder) -> str:
    size = _setting(run, "train", "per_device_train_batch_size")
    times = _setting(run, "train", "gradient_accumulation_steps")
    if not size:
        return ABSENT
    return f"{size} x {times} accumulated" if times and times > 1 else str(size)


def _rates(run: RunFolder) -> str:
    rate, gate = (_setting(run, "train", key) for key in ("learning_rate", "gate_learning_rate"))
    routed = _setting(run, "adapter", "method") in (None, "neurolora")
    return ABSENT if rate is None else f"{rate} for B" + (f", {gate} for the gate" if gate and routed else "")


#: What the closing summary (`run.json`) says beyond the files: key, label, unit.
SUMMARY = (
    ("epochs", "Epochs", ""),
    ("train_examples", "Training examples", ""),
    ("train_tokens", "Training tokens an epoch", ""),
    ("total_parameters", "Parameters with the base", ""),
    ("seconds", "Training time", " s"),
    ("processes", "Processes", ""),
    ("resumed_from", "Resumed from", ""),
)


def _summary_rows(summary: Mapping[str, Any]) -> Rows:
    return [
        (label, number(summary.get(key)) + unit)
        for key, label, unit in SUMMARY
        if summary.get(key) is not None
    ]


def result_table(evaluations: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """One row a task and metric, a column an evaluation; with both `before` and `after`, their difference."""
    stages = sorted(evaluations, key=lambda name: (FIRST.index(name) if name in FIRST else len(FIRST), name))
    found = {stage: {(s.task, s.metric): s for s in scores(evaluations[stage])} for stage in stages}
    keys = list(dict.fromkeys(key for stage in stages for key in found[stage]))
    change = {"before", "after"} <= set(stages)
    columns = ["task, metric", *stages, *(["change"] if change else [])]
    rows = []
    for key in keys:
        cells = [spell_score(found[stage].get(key)) for stage in stages]
        if change:
            cells.append(_difference(found["before"].get(key), found["after"].get(key)))
        rows.append([", ".join(key), *cells])
    return {"columns": columns, "rows": rows, "change": change}


def spell_score(score: Score | None) -> str:
    """`0.7312 ± 0.0142`; a dash where there is none."""
    if score is None:
        return ABSENT
    return _with_error(f"{score.value:.4f}", score.error)


def _difference(before: Score | None, after: Score | None) -> str:
    if before is None or after is None:
        return ABSENT
    error = None
    if before.error is not None and after.error is not None:
        error = math.hypot(before.error, after.error)
    return _with_error(f"{after.value - before.value:+.4f}", error)


def _with_error(text: str, error: float | None) -> str:
    return text if error is None or not math.isfinite(error) else f"{text} ± {error:.4f}"


def _curves(run: RunFolder) -> list[Picture]:
    rates = {
        "B": run.series("learning_rate_B") or run.series("learning_rate"),
        "gate": run.series("learning_rate_gate") or run.series("gate_learning_rate"),
    }
    losses = {"training": run.series("loss"), "held out": run.series("eval_loss")}
    orthogonality = {"training": run.series("orthogonality_loss")}
    drawn = [
        curve("Task loss", "mean loss of an answer's token", losses, noisy=True),
        curve("Orthogonality loss (unweighted)", "mean over modules", orthogonality, noisy=True),
        curve("Learning rates", "learning rate", rates),
        curve("Gradient norm", "norm before clipping", {"norm": run.series("grad_norm")}),
    ]
    return [picture for picture in drawn if picture is not None]


def routing_pictures(routing: Mapping[str, Any] | None) -> list[Picture]:
    """Heatmap, evenness, and (for a gated adapter) gate spread, from the contents of `routing.json`."""
    if routing is None:
        return []
    layers: Sequence[Mapping[str, Any]] = routing["layers"]
    names = short_names([layer["name"] for layer in layers])
    frequencies = [layer["active_frequency"] for layer in layers]
    k, r = int(routing["top_k"]), int(routing["r"])
    pictures = [routing_heatmap(names, frequencies, k, r)]
    with_gate = [(layer, name) for layer, name in zip(layers, names, strict=True) if gated(layer)]
    if with_gate:
        pictures.append(gate_spread([layer for layer, _ in with_gate], [name for _, name in with_gate]))
    return [*pictures, rank_use(frequencies, k, r)]


def layer_table(routing: Mapping[str, Any] | None) -> dict[str, Any]:
    """The pictures' figures, one row a layer."""
    columns = ["layer", "tokens", "least used rank", "most used rank", "gate mean", "gate min", "gate max",
               "mean squared cosine of B"]  # fmt: skip
    rows = []
    for layer in (routing or {}).get("layers", ()):
        use = layer["active_frequency"]
        gate: list[Any] = [None, None, None]
        if gated(layer):
            gate = [
                math.fsum(layer["gate_mean"]) / len(layer["gate_mean"]),
                layer["gate_min"],
                layer["gate_max"],
            ]
        figures = [layer.get("tokens"), min(use), max(use), *gate, layer.get("orthogonality")]
        rows.append([layer["name"], *figures])
    return {"columns": columns, "rows": rows}


def fingerprint_rows(adapter: AdapterFacts | None) -> Rows:
    """What identifies the adapter: A, the base, the file, the versions."""
    if adapter is None:
        return []
    labels = {
        "projection": "Projection A",
        "base": "Base model",
        "file_sha256": "Adapter file (SHA-256)",
        "neurolora_version": "neurolora",
        "peft_version": "peft",
    }
    rows: Rows = []
    for key, label in labels.items():
        value = adapter.fingerprints.get(key)
        if isinstance(value, Mapping):
            rows += [(f"{label}: {name}", spell(part)) for name, part in value.items() if name != "sample"]
        elif value is not None:
            rows.append((label, spell(value)))
    return rows
