"""What an evaluation found, with everything needed to trust or repeat it, and how it is written down.

Room: evaluation. Anybody above may read a result; only the paths it is told are written.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from neurolora.files import write_json, write_text

#: The metric to show when there is room for one, the first that a task has.
HEADLINES = ("acc", "exact_match,strict-match", "exact_match", "loss")
LOWER_IS_BETTER = frozenset({"loss", "perplexity", "word_perplexity", "byte_perplexity", "bits_per_byte"})


@dataclass(frozen=True)
class EvaluationResult:
    """Scores by task, and where they come from.

    - `results`: task -> {metric: value, metric_stderr: its standard error}. lm-eval's names, without the
      filter where there is only one: `acc`, `exact_match,strict-match`, `exact_match_stderr,strict-match`.
    - `groups`: task -> group (an MMLU subject) -> {"n", the headline metric, its standard error}.
    - `samples`: task -> one dict a row; empty unless asked for.
    - `n_samples`: task -> rows evaluated.
    - `config`: the settings of the run, each task's request, template and data fingerprint.
    - `environment`: versions, machine, code state. `seconds`: task -> time it took.
    """

    results: dict[str, dict[str, float]]
    n_samples: dict[str, int]
    config: dict[str, Any]
    environment: dict[str, Any] = field(repr=False)
    groups: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict, repr=False)
    samples: dict[str, list[dict[str, Any]]] = field(default_factory=dict, repr=False)
    seconds: dict[str, float] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    def headline(self, task: str) -> tuple[str, float, float]:
        """(metric, value, standard error) that stands for a task."""
        scores = self.results[task]
        metric = next((name for name in HEADLINES if name in scores), None) or next(iter(scores))
        return metric, scores[metric], scores.get(stderr_name(metric), math.nan)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, without the samples; what is not a number is null."""
        return {
            "results": plain(self.results),
            "groups": plain(self.groups),
            "n_samples": self.n_samples,
            "seconds": self.seconds,
            "warnings": self.warnings,
            "config": plain(self.config),
            "environment": self.environment,
        }

    def write(self, folder: Path | str, document: dict[str, Any] | None = None) -> list[Path]:
        """Write `results.json`, and `samples_TASK.jsonl` for each task with samples; the paths written.

        `document` in place of `to_dict()`, for a caller that adds to it.
        """
        folder = Path(folder)
        paths = [folder / "results.json"]
        write_json(paths[0], self.to_dict() if document is None else document)
        for task, rows in self.samples.items():
            paths.append(folder / f"samples_{safe_name(task)}.jsonl")
            lines = (json.dumps(plain(row), ensure_ascii=False) for row in rows)
            write_text(paths[-1], "".join(f"{line}\n" for line in lines))
        return paths


def stderr_name(metric: str) -> str:
    """`acc` -> `acc_stderr`; `exact_match,strict-match` -> `exact_match_stderr,strict-match`."""
    name, comma, chosen_filter = metric.partition(",")
    return f"{name}_stderr{comma}{chosen_filter}"


def metric_names(scores: Mapping[str, float]) -> list[str]:
    """The metrics among a task's scores, without their standard errors."""
    return [name for name in scores if not name.partition(",")[0].endswith("_stderr")]


def safe_name(task: str) -> str:
    """A task's name as a part of a file's name."""
    return "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in task)


def plain(value: Any) -> Any:
    """`value` as JSON knows it: tuples become lists, odd objects texts, NaN and infinities null."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int | str):
        return value
    if hasattr(value, "item"):
        return plain(value.item())
    return str(value)
