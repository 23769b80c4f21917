"""From lm-eval's samples to one flat row a document, and to scores by task and by group.

Room: evaluation. Pure functions on plain data; the harness calls them.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from neurolora.evaluation.results import metric_names, stderr_name
from neurolora.evaluation.scores import TokenLoss
from neurolora.evaluation.statistics import mean, mean_stderr
from neurolora.tasks import Example

Sample = dict[str, Any]


@dataclass(frozen=True)
class Outcome:
    """What one task gave."""

    scores: dict[str, float]
    samples: list[dict[str, Any]]
    details: dict[str, Any]
    seconds: float = 0.0
    shortened: int = 0


def task_scores(found: dict[str, Any]) -> dict[str, float]:
    """lm-eval's numbers under its names, less the filter's where it is `none`; "N/A" is NaN."""
    kept = {key: value for key, value in found.items() if "," in key}
    return {
        key.removesuffix(",none"): float(value) if isinstance(value, int | float) else math.nan
        for key, value in kept.items()
    }


def merge_filters(samples: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    """One flat row for each document, where lm-eval has one for each document and filter."""
    rows: dict[int, dict[str, Any]] = {}
    for sample in samples:
        document = sample["doc"]
        row = rows.setdefault(
            sample["doc_id"],
            {"index": sample["doc_id"], "source": document["source"], "group": document["group"]}
            | {"prompt": sample["arguments"][0][0]},
        )
        suffix = "" if sample["filter"] == "none" else f",{sample['filter']}"
        row |= {f"{metric}{suffix}": float(sample[metric]) for metric in sample["metrics"]}
        row |= _generated(sample) if kind == "generation" else _chosen(sample)
    return [rows[index] for index in sorted(rows)]


def _generated(sample: dict[str, Any]) -> dict[str, Any]:
    return {
        "completion": sample["target"],
        "response": sample["resps"][0][0],
        f"extracted,{sample['filter']}": sample["filtered_resps"][0],
    }


def _chosen(sample: dict[str, Any]) -> dict[str, Any]:
    likelihoods = [float(response[0]) for response in sample["filtered_resps"]]
    return {
        "choices": sample["doc"]["choices"],
        "answer": sample["target"],
        "prediction": max(range(len(likelihoods)), key=likelihoods.__getitem__),
        "log_likelihoods": likelihoods,
    }


def completion_samples(examples: Sequence[Example], loss: TokenLoss) -> list[Sample]:
    """One row for each example of a completion or chat task."""
    return [
        {
            "index": index,
            "source": example.source,
            "group": example.group,
            "prompt": example.prompt,
            "completion": example.completion,
            "loss": loss.per_example[index],
            "tokens": loss.tokens[index],
            "acc": float(loss.greedy[index]),
        }
        for index, example in enumerate(examples)
    ]


def group_scores(samples: Sequence[Sample], scores: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """Means of each per-row metric within each group (subject); nothing where rows have no groups."""
    members: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in samples:
        if row.get("group"):
            members[row["group"]].append(row)
    found: dict[str, dict[str, float]] = {}
    for group, rows in sorted(members.items()):
        found[group] = {"n": len(rows)}
        for metric in metric_names(scores):
            values = [row[metric] for row in rows if metric in row]
            if values:
                found[group] |= {metric: mean(values), stderr_name(metric): mean_stderr(values)}
    return found
