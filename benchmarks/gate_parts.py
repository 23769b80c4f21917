"""What a trained gate does: runs scored as they are, and with parts of their gate taken away.

    python benchmarks/gate_parts.py RUN [RUN ...] -o OUT.json     # run folders
    python benchmarks/gate_parts.py --table OUT.json              # Markdown: means by task over runs

Nothing is trained. Run folders are those of `neurolora train`, or the cells' `adapter` of `neurolora
reproduce`. Of each NeuroLoRA run the test rows of its own task are scored

- as it is;
- `constant`: m is its mean over the tokens of training rows; what is lost is what the gate owes to the token;
- `choice only`: m chooses the ranks, but what is added is without it; `scale only`: the other way round;
- `none`: no m at all. B was trained beside m, so that this loses more than a gate is worth.

Beside the scores, over the tokens of the same training rows, as means over modules: the standard deviation of
m over tokens (of a rank), that of its mean over ranks, and how many of the chosen ranks m has brought in.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from neurolora import markdown
from neurolora.continual.scoring import load_as_trained
from neurolora.core.routing import block_top_k_mask, routing_score
from neurolora.core.update import adapter_update, low_rank_activations
from neurolora.evaluation import task_score
from neurolora.evaluation.scores import answer_token_loss
from neurolora.files import write_json
from neurolora.intervals import interval, with_half
from neurolora.provenance import environment
from neurolora.tasks import load_examples
from neurolora.training import load_config, setup
from neurolora.training.run_folder import CONFIG
from neurolora.tuner.linear import NeuroLoraLinear

PARTS = ("as it is", "constant", "choice only", "scale only", "none")
SHOWN = {"spread_over_tokens": "over tokens", "spread_over_ranks": "over ranks", "brought_in": "% brought in"}


class Means:
    """Sums over tokens of what is told of each module's m."""

    def __init__(self) -> None:
        self.tokens = 0
        self.total: Any = 0.0
        self.squares: Any = 0.0
        self.brought_in = 0

    def add(self, m: Tensor, brought_in: Tensor, keep: Tensor | None) -> None:
        kept = slice(None) if keep is None else keep.reshape(-1).to(torch.bool)
        rows = m.reshape(-1, m.shape[-1])[kept].to(torch.float64)
        self.tokens += len(rows)
        self.total = self.total + rows.sum(0)
        self.squares = self.squares + rows.square().sum(0)
        self.brought_in += int(brought_in.reshape(-1, m.shape[-1])[kept].sum())

    @property
    def mean(self) -> Tensor:
        mean: Tensor = self.total / self.tokens
        return mean

    def facts(self, k: int) -> dict[str, float]:
        variance = (self.squares / self.tokens - self.mean.square()).clamp(min=0)
        return {
            "spread_over_tokens": float(variance.sqrt().mean()),
            "spread_over_ranks": float(self.mean.std()),
            "brought_in": 100 * self.brought_in / (self.tokens * k),
        }


@contextmanager
def changed(part: str, means: dict[str, Means], *, is_measuring: bool = False) -> Iterator[None]:
    """Every module's update by the readable path, its gate as `part` has it."""

    def update(layer: NeuroLoraLinear, x: Tensor, adapter: str) -> Tensor:
        settings, B = layer.settings[adapter], layer.neurolora_B[adapter]
        A = layer.projection_matrix(adapter, B.dtype)
        m: Any = layer.modulation(x, adapter)

        def chosen(by: Tensor | None) -> Tensor:
            score = routing_score(
                low_rank_activations(x, A, by), settings.routing, layer.routing_bias(adapter)
            )
            return block_top_k_mask(score, settings.top_k, settings.blocks)

        if is_measuring:
            keep = layer.context.keep(x.shape[:-1], layer.from_encoder)
            means[layer.name].add(m, chosen(m) & ~chosen(None), keep)
        if part == "constant":
            m = means[layer.name].mean.to(x.dtype)
        choice = None if part in ("none", "scale only") else m
        scale = None if part in ("none", "choice only") else m
        dy, _ = adapter_update(
            x, A, B, modulation=scale, top_k=settings.top_k, scaling=settings.scaling, mask=chosen(choice)
        )
        return dy

    with patch.multiple(NeuroLoraLinear, update=update, _has_fast_path=_never, _decodes=_never):
        yield


def _never(*_: Any) -> bool:
    return False


def probe(run: Path, rows: int, trained_rows: int) -> dict[str, Any]:
    """One run's scores and the facts of its gates."""
    config = load_config(run / CONFIG)
    loaded = load_as_trained(run, config)
    request = setup.task_request(config)
    layers = [module for module in loaded.model.modules() if isinstance(module, NeuroLoraLinear)]
    if not any(layer.settings["default"].gate == "token" for layer in layers):
        raise SystemExit(f"{run}: nothing to take away, no gate of it reads tokens. Give runs of NeuroLoRA.")
    means: dict[str, Means] = defaultdict(Means)
    examples = load_examples(request, "train")[:trained_rows]
    with torch.no_grad(), changed("as it is", means, is_measuring=True):
        answer_token_loss(loaded.model, loaded.tokenizer, examples, 32)
    scores = {}
    for part in PARTS:
        with torch.no_grad(), changed(part, means):
            found = task_score(loaded, request, metric="accuracy", split="test", limit=rows, batch_size=64)
        scores[part] = found["value"]
    facts = [means[layer.name].facts(layer.settings["default"].top_k) for layer in layers]
    told = {name: statistics.mean(one[name] for one in facts) for name in SHOWN}
    return {"task": request.task, "seed": config.train.seed, "scores": scores, **told}


def print_table(found: list[dict[str, Any]]) -> None:
    rows = []
    for task in dict.fromkeys(one["task"] for one in found):
        mine = [one for one in found if one["task"] == task]
        scores = [with_half(interval([one["scores"][part] for one in mine])) for part in PARTS]
        facts = [f"{statistics.mean(one[name] for one in mine):.2f}" for name in SHOWN]
        rows.append([task, str(len(mine)), *scores, *facts])
    print(markdown.table(["task", "runs", *PARTS, *SHOWN.values()], rows))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", type=Path, nargs="*")
    parser.add_argument("-o", "--out", type=Path)
    parser.add_argument("--rows", type=int, default=500, help="test rows to score")
    parser.add_argument("--train-rows", type=int, default=200, help="training rows whose m is looked at")
    parser.add_argument("--table", type=Path, help="print what such a file holds, and run nothing")
    asked = parser.parse_args()
    if asked.table:
        print_table(json.loads(asked.table.read_text(encoding="utf-8"))["runs"])
        return
    if not asked.runs:
        parser.error("no run folder is given")
    found = []
    for run in asked.runs:
        found.append(probe(run, asked.rows, asked.train_rows))
        print(run, found[-1], flush=True)
    if asked.out:
        write_json(asked.out, {"rows": asked.rows, "environment": environment(), "runs": found})
    print_table(found)


if __name__ == "__main__":
    main()
