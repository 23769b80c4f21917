"""How well accuracy is estimated without labels: Meta-Distribution Energy beside its rivals.

    python benchmarks/label_free.py real FOLDER --data DATA --model MODEL   # FOLDER: that of real_merging.py
    python benchmarks/label_free.py world FOLDER    # FOLDER: that of world_merging.py, or run folders in it
    python benchmarks/label_free.py table FOLDER    # Markdown: error, rank correlation, by measure

Each adapter's line from measure to accuracy is calibrated on validation rows as they are and under two kinds
of noise, and judged on test rows: as they are, under the same kinds (seen), and under others (unseen).
Strengths are the same; no test row calibrates. Measures that are estimates by themselves are also judged
without a line. Confidences and entropies are taken at a temperature that is fitted to the validation rows as
they are (temperature scaling, as these measures were published); MDE at T = 1, as its paper has it, and at
that temperature too. Under a line a difference to the source is the same as what it is a difference of, so it
has no row of its own there. Correlations are of estimates before they are cut to [0, 1]. Of a language model
on a task with choices the logits are those of the choices, else those of the first answer token; it has no
features, so no Frechet distance. The world's run folders may be those of `neurolora reproduce` (its cells'
`adapter`); the seed of its search, 100, is none of --seeds.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from merging_table import interval

from neurolora.estimation import (
    MEASURES,
    PERTURBATIONS,
    AccuracyEstimator,
    correlations,
    fit_temperature,
    measure_set,
    perturb_rows,
)
from neurolora.files import write_json
from neurolora.provenance import environment

CALIBRATED, UNSEEN = ("typos", "dropped_words"), ("swapped_words", "shortened", "typo_substitutions")
STRENGTHS = (0.05, 0.1, 0.2, 0.4)
METHODS = ("lora", "neurolora")
WORLD_TASKS = ("world-recall", "world-passage", "world-sums")
ROWS = 500


class Answers(NamedTuple):
    """What a model makes of a set: logits (N, C), features (N, d) or none, and which answers are right."""

    logits: Any
    features: Any
    right: Any

    @property
    def accuracy(self) -> float:
        return float((self.logits.argmax(axis=1) == self.right).mean())


Answer = Callable[[list[dict[str, Any]]], Answers]


class Version(NamedTuple):
    """A set of rows under a perturbation; group: calibration, clean, seen or unseen."""

    group: str
    name: str
    strength: float
    answers: Answers


def versions(answer: Answer, known: list[Any], new: list[Any], seed: int) -> Iterator[Version]:
    """Every set on which a line is fitted or judged."""
    yield Version("calibration", "as it is", 0.0, answer(known))
    yield Version("clean", "as it is", 0.0, answer(new))
    plan = [("calibration", known, CALIBRATED), ("seen", new, CALIBRATED), ("unseen", new, UNSEEN)]
    for group, rows, kinds in plan:
        for kind in kinds:
            for strength in STRENGTHS if _reaches(kind, rows) else ():
                yield Version(group, kind, strength, answer(perturb_rows(rows, kind, strength, seed)))


def _reaches(kind: str, rows: list[Any]) -> bool:
    """Whether any row has a text that this noise changes: questions without a passage cannot be shortened."""
    return any(str(row.get(field) or "").strip() for row in rows for field in PERTURBATIONS[kind].fields)


class Rival(NamedTuple):
    """A row of the table. scaled: whether at the fitted temperature; line: whether there is one."""

    label: str
    measure: str
    scaled: bool = True
    line: bool = True


RIVALS = (
    Rival("mde", "mde", scaled=False),
    Rival("mde, T fitted", "mde"),
    Rival("average_confidence", "average_confidence"),
    Rival("confidence_difference", "confidence_difference", line=False),
    Rival("atc_confidence", "atc_confidence"),
    Rival("atc_entropy", "atc_entropy"),
    Rival("mean_entropy", "mean_entropy"),
    Rival("frechet", "frechet", scaled=False),
)


def assess(found: Sequence[Version]) -> list[dict[str, Any]]:
    """For each rival and group of sets: errors of the estimates, and correlations with the truth."""
    fitted = [one for one in found if one.group == "calibration"]
    source = fitted[0].answers
    temperature = fit_temperature(source.logits, source.right)
    rows = []
    for rival in RIVALS:
        if MEASURES[rival.measure].takes == "features" and source.features is None:
            continue
        own = temperature if rival.scaled else 1.0
        estimator = _fitted(rival, fitted, own) if rival.line else None
        for group in ("clean", "seen", "unseen"):
            if sets := [one for one in found if one.group == group]:
                row = {"measure": rival.label, "temperature": own, "group": group, "sets": len(sets)}
                rows.append(row | _by_line(estimator, rival, sets) | _plain(rival, source, sets, own))
    return rows


def _fitted(rival: Rival, fitted: Sequence[Version], temperature: float) -> AccuracyEstimator:
    """All sets are versions of the same rows; of features, which are kept whole, only figures are."""
    estimator = AccuracyEstimator(rival.measure, temperature=temperature)
    if MEASURES[rival.measure].takes == "features":
        sets, truth = [one.answers.features for one in fitted], [one.answers.accuracy for one in fitted]
        return estimator.fit(sets, truth, source=sets[0])
    right = [one.answers.logits.argmax(axis=1) == one.answers.right for one in fitted]
    return estimator.fit_versions(
        [estimator.row_scores(one.answers.logits) for one in fitted], np.stack(right)
    )


def _by_line(estimator: AccuracyEstimator | None, rival: Rival, sets: Sequence[Version]) -> dict[str, float]:
    if estimator is None:
        return {}
    estimates = [estimator.predict(_taken(rival, one)) for one in sets]
    true = [one.answers.accuracy for one in sets]
    pairs = list(zip(estimates, true, strict=True))
    told = {
        "inside": float(np.mean([each.low <= value <= each.high for each, value in pairs])),
        "width_points": 100 * float(np.mean([each.high - each.low for each in estimates])),
        "error_points": 100 * float(np.mean([abs(float(each) - value) for each, value in pairs])),
    }
    if len(sets) > 2:
        agreement = correlations(estimates, true)
        told |= {"spearman": agreement.spearman, "pearson": agreement.pearson}
    return told


def _plain(rival: Rival, source: Answers, sets: Sequence[Version], temperature: float) -> dict[str, float]:
    """The error of a measure that is itself an estimate."""
    if not MEASURES[rival.measure].is_accuracy:
        return {}
    known = {"source": source.logits, "source_labels": source.right, "temperature": temperature}
    errors = [
        abs(measure_set(rival.measure, one.answers.logits, **known) - one.answers.accuracy) for one in sets
    ]
    return {"plain_error_points": 100 * float(np.mean(errors))}


def _taken(rival: Rival, one: Version) -> Any:
    return one.answers.features if MEASURES[rival.measure].takes == "features" else one.answers.logits


# --- classifiers on real text ------------------------------------------------------------------------------


def real_cells(arguments: argparse.Namespace) -> Iterator[tuple[str, str, int, Answer, list[Any], list[Any]]]:
    from real_tasks import TASKS, raw_rows

    for seed in arguments.seeds:
        for method in arguments.methods:
            for place, task in enumerate(TASKS):
                known = raw_rows(arguments.data, task, "validation", arguments.rows)
                new = raw_rows(arguments.data, task, "test", arguments.rows)
                answer = _classifier_answer(arguments, method, place, seed)
                yield f"{method}-{task}", task, seed, answer, known, new


def _classifier_answer(arguments: argparse.Namespace, method: str, place: int, seed: int) -> Answer:
    """The parent of the benchmark of merging, under its own head; it is loaded when it is first asked."""
    from real_merging import HEAD, adapted, parent
    from real_tasks import BATCH, Classifier, batch_of, encode, pad_of, pooled
    from safetensors.torch import load_file

    folder = parent(arguments.folder, method, place, seed)
    loaded: list[Classifier] = []

    def model() -> Classifier:
        if not loaded:
            head = load_file(folder / HEAD)
            one = Classifier(adapted(arguments, folder), head["weight"].shape[1], len(head["bias"]))
            one.head.load_state_dict(head)
            loaded.append(one.eval())
        return loaded[0]

    @torch.no_grad()
    def answer(rows: list[dict[str, Any]]) -> Answers:
        encoded, one = encode(arguments.model, rows), model()
        order = sorted(range(len(rows)), key=lambda place: len(encoded.tokens[place]))
        features = torch.empty(len(rows), one.head.in_features)
        for start in range(0, len(order), BATCH):
            places = order[start : start + BATCH]
            features[places] = pooled(one.body, batch_of(encoded, places, pad_of(one.body))[0])
        return Answers(one.head(features).numpy(), features.numpy(), np.array(encoded.labels))

    return answer


# --- adapters of the bundled world -----------------------------------------------------------------------


def world_cells(
    arguments: argparse.Namespace,
) -> Iterator[tuple[str, str, int, Answer, list[Any], list[Any]]]:
    """Every run folder on a task of the world: `run.json` says which, `config.yaml` with which seed."""
    from neurolora.tasks import TaskRequest, load_rows

    for (method, task, seed), folder in _world_runs(arguments).items():
        request = TaskRequest(task=task, limit=arguments.rows)
        known, new = (load_rows(request, split) for split in ("validation", "test"))
        yield f"{method}-{task}", task, seed, _language_answer(folder, request), known, new


def _world_runs(arguments: argparse.Namespace) -> dict[tuple[str, str, int], Path]:
    """(method, task, seed) -> its run folder. Which of two is meant is not for us to choose."""
    import yaml

    found: dict[tuple[str, str, int], Path] = {}
    for path in sorted(arguments.folder.rglob("run.json")):
        facts, config = json.loads(path.read_text()), path.parent / "config.yaml"
        if facts.get("task") not in WORLD_TASKS or facts.get("method") not in arguments.methods:
            continue
        key = (facts["method"], facts["task"], yaml.safe_load(config.read_text())["train"]["seed"])
        # Beside the plain ones `world_merging.py` has variants: NeuroLoRA with an A each, or with silence.
        is_variant = path.parts[-3] == "parents" and path.parent.name != "-".join(map(str, key))
        if key[2] not in arguments.seeds or is_variant:
            continue
        if key in found:
            raise SystemExit(f"{' '.join(map(str, key))}: both {found[key]} and {path.parent}; give one")
        found[key] = path.parent
    return found


def _language_answer(folder: Path, request: Any) -> Answer:
    from neurolora.evaluation import answer_logits, load_for_inference

    loaded: list[Any] = []

    def answer(rows: list[dict[str, Any]]) -> Answers:
        if not loaded:
            loaded.append(load_for_inference(str(folder)))
        found = answer_logits(loaded[0].model, loaded[0].tokenizer, request, rows)
        return Answers(found.logits, None, found.gold)

    return answer


# --- run and table ----------------------------------------------------------------------------------------


def run(arguments: argparse.Namespace) -> None:
    """Assess every adapter that is not assessed yet."""
    cells = {"real": real_cells, "world": world_cells}[arguments.stage]
    for name, task, seed, answer, known, new in cells(arguments):
        target = arguments.folder / "label-free" / f"{arguments.stage}-{name}-{seed}.json"
        if target.is_file():
            continue
        started = time.perf_counter()
        found = list(versions(answer, known, new, seed))
        told = [(one.group, one.name, one.strength, one.answers.accuracy) for one in found]
        facts = {"benchmark": arguments.stage, "name": name, "task": task, "seed": seed, "sets": told}
        facts |= {"rows": assess(found), "size": arguments.rows, "seconds": time.perf_counter() - started}
        write_json(target, {**facts, "environment": environment()})
        print(f"{name} seed {seed}: {facts['seconds']:.0f} s", flush=True)


#: Column -> the group of sets and the figure that stands in it.
COLUMNS = {
    "error, clean": ("clean", "error_points"),
    "seen": ("seen", "error_points"),
    "unseen": ("unseen", "error_points"),
    "unseen, no line": ("unseen", "plain_error_points"),
    "Spearman, unseen": ("unseen", "spearman"),
    "Pearson": ("unseen", "pearson"),
    "inside, %": ("unseen", "inside"),
    "width": ("unseen", "width_points"),
}


def print_table(folder: Path) -> None:
    """Markdown: means over seeds of the means over adapters and tasks, with 95% intervals over seeds."""
    cells = [json.loads(path.read_text()) for path in sorted((folder / "label-free").glob("*.json"))]
    write_json(folder / "label-free.json", {"cells": cells})
    for benchmark in dict.fromkeys(cell["benchmark"] for cell in cells):
        mine = [cell for cell in cells if cell["benchmark"] == benchmark]
        print(f"\n{benchmark}: {len(mine)} adapters, seeds {sorted({cell['seed'] for cell in mine})}\n")
        print(f"| measure | {' | '.join(COLUMNS)} |\n" + "|---" * (1 + len(COLUMNS)) + "|")
        for rival in RIVALS:
            told = [_of_seeds(mine, rival.label, *place) for place in COLUMNS.values()]
            if any(told):
                print(f"| {rival.label} | {' | '.join(told)} |")


def _of_seeds(cells: list[Any], measure: str, group: str, key: str) -> str:
    """The interval over seeds; a correlation is undefined where a side is constant, and left out."""
    by_seed: dict[int, list[float]] = {}
    for cell in cells:
        for row in cell["rows"]:
            if (row["measure"], row["group"]) == (measure, group) and _is_number(row.get(key)):
                factor = 100 if key == "inside" else 1
                by_seed.setdefault(cell["seed"], []).append(factor * row[key])
    if not by_seed:
        return ""
    means = [float(np.mean(values)) for values in by_seed.values()]
    if key in ("spearman", "pearson"):
        return f"{np.mean(means):.2f}"
    return interval(means)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def main() -> None:
    from real_tasks import add_arguments

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("stage", choices=("real", "world", "table"))
    add_arguments(parser)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    arguments = parser.parse_args()
    if arguments.stage == "table":
        print_table(arguments.folder)
        return
    if arguments.stage == "real" and not (arguments.data and arguments.model):
        raise SystemExit("real needs --data and --model")
    run(arguments)


if __name__ == "__main__":
    main()
