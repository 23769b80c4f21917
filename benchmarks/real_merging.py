"""What is left of three real classification tasks when their adapters are merged, method by method.

    python benchmarks/real_merging.py run FOLDER --data DATA --model MODEL      # goes on where it stopped
    python benchmarks/real_merging.py table FOLDER   # Markdown: alone, merged, what is kept

MODEL is an encoder, mean-pooled under a linear head; DATA holds QQP, amazon and dbpedia, each a folder with
`[{"sentence", "label"}]` in train.json and test.json (one file alone is split). A task keeps its own head,
trained with its adapter and never merged, also where the bodies are. `run` trains the parents of a seed and
a method, scores each alone on its task and every merge on all tasks.

The adapters of a seed share one A; those named `own` have an A for each task, the first of which is the
shared one: that parent serves both. A seed sets the order of the rows, dropout, A and all starts; the rows
themselves are the same for all. One rate for each method, for the head too (a quarter of it for gates), given
before and not searched for merging. Test rows are used for the scores alone; no coefficient is chosen by
them: those listed are all there are.
"""

from __future__ import annotations

import argparse
import itertools
import math
import statistics
import time
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from merging_table import DELTAS, SIDE, WIDENED, Cell, print_table, score_cell
from torch import Tensor, nn
from torch.nn import functional

from neurolora.files import write_json
from neurolora.provenance import environment

TASKS = ("QQP", "amazon", "dbpedia")
TARGETS = ("query", "key", "value", "attention.output.dense")
RANK, ALPHA = 32, 16
TRAIN_ROWS, TEST_ROWS = 1280, 500
EPOCHS, BATCH, WINDOW = 2, 32, 48
WARMUP, WEIGHT_DECAY, MOST_NORM = 0.03, 0.01, 1.0
GATE_SHARE = 0.25  # the gate's rate, as a part of B's
HEAD, DONE = "head.safetensors", "run.json"


class Trained(NamedTuple):
    """A way to train the parents, and the merges that its adapters can go through."""

    kind: str | None
    rate: float
    merges: tuple[str, ...] = ()
    shared: bool = True


METHODS = {
    "head": Trained(None, 4e-3),
    "lora": Trained("lora", 4e-3, DELTAS),
    "dora": Trained("dora", 4e-3, DELTAS),
    "flylora": Trained("flylora", 8e-3, (*DELTAS, *SIDE)),
    "flylora-own": Trained("flylora", 8e-3, SIDE, shared=False),
    "neurolora": Trained("neurolora", 8e-3, (*DELTAS, *WIDENED, *SIDE)),
    "neurolora-own": Trained("neurolora", 8e-3, SIDE, shared=False),
}


# --- data -------------------------------------------------------------------------------------------------


class Rows(NamedTuple):
    """Token ids of texts, cut to the window, and their labels."""

    tokens: list[list[int]]
    labels: list[int]


@lru_cache(maxsize=2 * len(TASKS))
def load(data: str, model: str, task: str, split: str, limit: int) -> tuple[Rows, int]:
    """The first rows of a split and the number of labels; a task in one file is tested on its last rows."""
    from transformers import AutoTokenizer

    from neurolora.tasks import TaskRequest, load_rows

    request = TaskRequest(task="text", dataset_name=str(Path(data) / task))
    alone = not (Path(data) / task / "train.json").is_file()
    found = load_rows(request, "test" if alone else split)
    rows = found[-limit:] if alone and split == "test" else found[:limit]
    if alone and len(found) < TRAIN_ROWS + limit and split == "test":
        raise SystemExit(f"{task} has {len(found)} rows: too few to train and test on")
    tokenizer = AutoTokenizer.from_pretrained(model)
    texts = [row["sentence"] for row in rows]
    tokens = tokenizer(texts, truncation=True, max_length=WINDOW)["input_ids"]
    return Rows(tokens, [row["label"] for row in rows]), len(rows[0]["labels"])


def batch_of(rows: Rows, places: list[int], pad: int) -> tuple[dict[str, Tensor], Tensor]:
    """input_ids and attention_mask (rows, length), padded right; labels (rows,)."""
    longest = max(len(rows.tokens[place]) for place in places)
    ids = torch.full((len(places), longest), pad)
    mask = torch.zeros_like(ids)
    for row, place in enumerate(places):
        tokens = rows.tokens[place]
        ids[row, : len(tokens)] = torch.tensor(tokens)
        mask[row, : len(tokens)] = 1
    return {"input_ids": ids, "attention_mask": mask}, torch.tensor([rows.labels[place] for place in places])


# --- model ------------------------------------------------------------------------------------------------


class Classifier(nn.Module):
    """An encoder, the mean of its outputs over a text's tokens, a linear head."""

    def __init__(self, body: nn.Module, width: int, labels: int) -> None:
        super().__init__()
        self.body, self.head = body, nn.Linear(width, labels)

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        logits: Tensor = self.head(pooled(self.body, inputs))
        return logits


def pooled(body: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    """Mean over the text's tokens (rows, width)."""
    mask = inputs["attention_mask"].unsqueeze(-1)
    states = body(**inputs).last_hidden_state
    return (states * mask).sum(dim=1) / mask.sum(dim=1)


def base(model: str) -> Any:
    from transformers import AutoModel

    return AutoModel.from_pretrained(model, add_pooling_layer=False)


def adapter_config(row: Trained, seed: int, place: int) -> Any:
    from peft import LoraConfig

    from neurolora import FlyLoraConfig, NeuroLoraConfig

    common = {"r": RANK, "lora_alpha": ALPHA, "target_modules": list(TARGETS)}
    if row.kind in ("lora", "dora"):
        return LoraConfig(**common, use_dora=row.kind == "dora")
    which = {"flylora": FlyLoraConfig, "neurolora": NeuroLoraConfig}[str(row.kind)]
    projection_seed = 1000 + seed + (0 if row.shared else 100 * place)
    return which(**common, init_seed=seed, projection_seed=projection_seed)


def make(row: Trained, model: str, labels: int, seed: int, place: int) -> Classifier:
    from peft import get_peft_model

    body = base(model)
    width = body.config.hidden_size
    if row.kind is None:
        return Classifier(body.requires_grad_(False), width, labels)
    return Classifier(get_peft_model(body, adapter_config(row, seed, place)), width, labels)


# --- train ------------------------------------------------------------------------------------------------


def parent(folder: Path, name: str, place: int, seed: int) -> Path:
    """Where a task's adapter and head lie."""
    return folder / "parents" / f"{parent_method(name, place)}-{TASKS[place]}-{seed}"


def parent_method(name: str, place: int) -> str:
    """The first task's adapter with an A of its own is the one with the shared A."""
    return name.removesuffix("-own") if place == 0 else name


def train(arguments: argparse.Namespace, name: str, seed: int, place: int) -> None:
    from safetensors.torch import save_file
    from transformers import set_seed

    output = parent(arguments.folder, name, place, seed)
    if (output / DONE).is_file():
        return
    started, row = time.perf_counter(), METHODS[name]
    rows, labels = load(arguments.data, arguments.model, TASKS[place], "train", TRAIN_ROWS)
    set_seed(seed)
    model = make(row, arguments.model, labels, seed, place)
    losses = fit(model, rows, row.rate, seed)
    output.mkdir(parents=True, exist_ok=True)
    if row.kind is not None:
        model.body.save_pretrained(output)
    save_file(model.head.state_dict(), output / HEAD)
    seconds = time.perf_counter() - started
    first, last = losses[0], statistics.mean(losses[-10:])
    facts = {"rate": row.rate, "first_loss": first, "last_losses": last, "steps": len(losses)}
    facts |= {"seconds": seconds, "trainable": trainable(model), "environment": environment()}
    write_json(output / DONE, facts)
    print(f"{name} {TASKS[place]} seed {seed}: loss {first:.2f} -> {last:.2f}, {seconds:.0f} s", flush=True)


def fit(model: Classifier, rows: Rows, rate: float, seed: int) -> list[float]:
    """AdamW with a cosine; the losses of all steps."""
    from transformers import get_cosine_schedule_with_warmup

    from neurolora.training import create_optimizer_groups
    from neurolora.tuner import get_auxiliary_loss

    groups = create_optimizer_groups(model, rate, rate * GATE_SHARE, WEIGHT_DECAY)
    optimizer = torch.optim.AdamW(groups)
    order = batches(len(rows.labels), seed)
    schedule = get_cosine_schedule_with_warmup(optimizer, math.ceil(WARMUP * len(order)), len(order))
    losses = []
    for places in order:
        inputs, labels = batch_of(rows, places, pad_of(model.body))
        model.train()
        if not any(p.requires_grad for p in model.body.parameters()):
            model.body.eval()  # no dropout where only the head learns
        loss = functional.cross_entropy(model(inputs), labels)
        losses.append(float(loss.detach()))
        (loss + get_auxiliary_loss(model)).backward()
        nn.utils.clip_grad_norm_(model.parameters(), MOST_NORM)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    return losses


def batches(count: int, seed: int) -> list[list[int]]:
    """Places of the rows of each step, shuffled anew in each epoch."""
    generator = torch.Generator().manual_seed(seed)
    epochs = (torch.randperm(count, generator=generator).tolist() for _ in range(EPOCHS))
    return [order[start : start + BATCH] for order in epochs for start in range(0, count, BATCH)]


def pad_of(body: nn.Module) -> int:
    return int(body.config.pad_token_id or 0)


def trainable(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


# --- score ------------------------------------------------------------------------------------------------


@torch.no_grad()
def accuracy(arguments: argparse.Namespace, body: nn.Module, home: Path, task: str) -> float:
    """Percent of test rows that `body` gets right under the head that lies in `home`."""
    from safetensors.torch import load_file

    rows, _ = load(arguments.data, arguments.model, task, "test", arguments.rows)
    head = load_file(home / HEAD)
    order = sorted(range(len(rows.labels)), key=lambda place: len(rows.tokens[place]))
    right = 0
    body.eval()
    for start in range(0, len(order), BATCH):
        inputs, labels = batch_of(rows, order[start : start + BATCH], pad_of(body))
        logits = functional.linear(pooled(body, inputs), head["weight"], head["bias"])
        right += int((logits.argmax(dim=-1) == labels).sum())
    return 100 * right / len(order)


def adapted(arguments: argparse.Namespace, folder: Path) -> nn.Module:
    """The base with the adapter of this folder, or bare where there is none."""
    from peft import PeftModel

    body = base(arguments.model)
    return PeftModel.from_pretrained(body, folder) if (folder / "adapter_config.json").is_file() else body


def score(arguments: argparse.Namespace, name: str, seed: int) -> None:
    homes = {task: parent(arguments.folder, name, place, seed) for place, task in enumerate(TASKS)}

    def merged(output: Path) -> dict[str, float]:
        body = adapted(arguments, output)
        return {task: accuracy(arguments, body, home, task) for task, home in homes.items()}

    score_cell(
        Cell(arguments.folder, name, seed, arguments.rows),
        list(homes.values()),
        METHODS[name].merges,
        alone=lambda: {
            task: accuracy(arguments, adapted(arguments, home), home, task) for task, home in homes.items()
        },
        merged=merged,
    )


def run(arguments: argparse.Namespace) -> None:
    if not (arguments.data and arguments.model):
        raise SystemExit("run needs --data and --model")
    for seed, name in itertools.product(arguments.seeds, arguments.methods):
        for place in range(len(TASKS)):
            train(arguments, parent_method(name, place), seed, place)
        score(arguments, name, seed)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("stage", choices=("run", "table"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data", help="folder with QQP/, amazon/ and dbpedia/")
    parser.add_argument("--model", help="folder of the encoder, with model.safetensors")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--rows", type=int, default=TEST_ROWS, help="test rows of each task")
    arguments = parser.parse_args()
    if arguments.stage == "run":
        run(arguments)
    else:
        print_table(arguments.folder, TASKS, {name: row.merges for name, row in METHODS.items()})


if __name__ == "__main__":
    main()
