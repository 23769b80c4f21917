"""Reading a run folder back: metrics, config, environment, evaluations, routing. Nothing is made up.

Room: report. A piece that is absent or damaged is None (or empty) and is named in `problems`, so that the
page can say so: a report of half a run is worth more than an error.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from neurolora.errors import DataError, explain

JSON = dict[str, Any]


@dataclass
class RunFolder:
    """What could be read of a run; `problems` says what could not."""

    path: Path
    config: JSON | None = None
    environment: JSON | None = None
    adapter_config: JSON | None = None
    task: JSON | None = None
    data: JSON | None = None
    routing: JSON | None = None
    logs: list[JSON] = field(default_factory=list)
    summary: JSON = field(default_factory=dict)
    evaluations: dict[str, JSON] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def series(self, key: str) -> list[tuple[float, float]]:
        """(step, value) of every log line that has both as numbers."""
        lines = [line for line in self.logs if _number(line.get("step")) and _number(line.get(key))]
        return [(float(line["step"]), float(line[key])) for line in lines]


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def read_run(path: Path | str) -> RunFolder:
    """Read whatever is there. Raises DataError only if `path` is no folder."""
    path = Path(path)
    if not path.is_dir():
        raise DataError(explain(f"reading the run {path}", "no such folder", "Give the output_dir of a run"))
    run = RunFolder(path)
    run.config = _read_mapping(run, "config.yaml")
    run.environment = _read_mapping(run, "env.json")
    run.adapter_config = _read_mapping(run, "adapter_config.json")
    run.task = _read_mapping(run, "neurolora_task.json", expected=False)
    run.data = _read_mapping(run, "data.json", expected=False)
    method = ((run.config or {}).get("adapter") or {}).get("method")
    expected = method in (None, "neurolora", "flylora", "mole")
    run.routing = _checked_routing(run, _read_mapping(run, "routing.json", expected))
    _read_metrics(run)
    run.summary |= _read_mapping(run, "run.json", expected=False) or {}
    for file in sorted((path / "eval").rglob("*.json")):
        content = _read_mapping(run, str(file.relative_to(path)))
        if content is not None and "results" in content:
            run.evaluations[_stage(file)] = content
    return run


def _stage(file: Path) -> str:
    """`eval/before.json` and `eval/before/results.json` are both the stage `before`."""
    return file.parent.name if file.stem == "results" else file.stem


def _read_mapping(run: RunFolder, name: str, expected: bool = True) -> JSON | None:
    """A YAML or JSON file as a dict; None and a line in `problems` if that is not what it is."""
    file = run.path / name
    if not file.is_file():
        if expected:
            run.problems.append(f"{name} is missing")
        return None
    try:
        text = file.read_text(encoding="utf-8")
        value = yaml.safe_load(text) if file.suffix == ".yaml" else json.loads(text)
    except (OSError, ValueError, yaml.YAMLError) as error:
        run.problems.append(f"{name} cannot be read ({type(error).__name__})")
        return None
    if not isinstance(value, dict):
        run.problems.append(f"{name} holds no mapping")
        return None
    return value


def _read_metrics(run: RunFolder) -> None:
    """metrics.jsonl: log lines and one closing line `{"type": "summary", ...}`; the last summary counts."""
    file = run.path / "metrics.jsonl"
    if not file.is_file():
        run.problems.append("metrics.jsonl is missing")
        return
    bad = 0
    for text in file.read_bytes().decode("utf-8", errors="replace").splitlines():
        line = _json_object(text)
        if line is None:
            bad += bool(text.strip())
        elif line.get("type") == "summary":
            run.summary = line
        else:
            run.logs.append(line)
    if bad:
        run.problems.append(f"metrics.jsonl: {bad} line(s) that are no JSON object were left out")


def _json_object(text: str) -> JSON | None:
    try:
        value = json.loads(text)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _checked_routing(run: RunFolder, routing: JSON | None) -> JSON | None:
    """Routing with only those layers that can be drawn; None if there is none."""
    if routing is None:
        return None
    layers = routing.get("layers")
    if not isinstance(layers, list) or not (_number(routing.get("r")) and _number(routing.get("top_k"))):
        run.problems.append("routing.json lacks layers, r or top_k")
        return None
    good = [layer for layer in layers if drawable(layer)]
    if len(good) < len(layers):
        run.problems.append(f"routing.json: {len(layers) - len(good)} layer(s) without numbers were left out")
    return {**routing, "layers": good} if good else None


def drawable(layer: Any) -> bool:
    """Whether a layer of `routing.json` has a name and a frequency for at least one rank."""
    if not isinstance(layer, Mapping) or not isinstance(layer.get("name"), str):
        return False
    return _numbers(layer.get("active_frequency"))


def gated(layer: Mapping[str, Any]) -> bool:
    """Whether a layer has the four gate figures; an adapter without a gate has none."""
    return (
        _numbers(layer.get("gate_mean")) and _number(layer.get("gate_min")) and _number(layer.get("gate_max"))
    )


def _numbers(values: Any) -> bool:
    return isinstance(values, list) and bool(values) and all(_number(v) and math.isfinite(v) for v in values)


@dataclass(frozen=True)
class Score:
    """One metric of one task in one evaluation file; `error` is its standard error, if there is one."""

    task: str
    metric: str
    value: float
    error: float | None


def scores(evaluation: Mapping[str, Any]) -> list[Score]:
    """Every number under `results`: `{task: {metric: value, metric_stderr: error}}`.

    lm-eval's spelling, `acc,none` and `acc_stderr,none`, is understood too.
    """
    results = evaluation.get("results", {})
    found = []
    for task, metrics in results.items() if isinstance(results, dict) else ():
        for name, value in metrics.items() if isinstance(metrics, dict) else ():
            if "_stderr" in name or not _number(value):
                continue
            metric, _, filter_name = name.partition(",")
            error = metrics.get(f"{metric}_stderr" + (f",{filter_name}" if filter_name else ""))
            label = metric if filter_name in ("", "none") else f"{metric} ({filter_name})"
            found.append(Score(task, label, float(value), float(error) if _number(error) else None))
    return found
