"""Measure the world's tasks: the bundled model before and after a plain LoRA, task by task.

Run from the project's root:  python scripts/calibrate_world.py --tasks world-recall world-sums
A loop of its own and PEFT's LoRA on q, k, v, o; multiple choice is scored by the likelihood of the choice's
text (or letter), sums by greedy generation and exact match. It prints a JSON line a task and writes nothing.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from neurolora.world import WORLD_TASKS, bundled_model_path, generate_rows

LETTERS = "ABCDE"
Pair = tuple[str, str]


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default=str(bundled_model_path()))
    parser.add_argument("--tasks", nargs="+", default=list(WORLD_TASKS))
    parser.add_argument("--rates", nargs="+", type=float, default=[3e-3])
    parser.add_argument("--epochs", type=float, nargs="+", default=[3])
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--alpha", type=int, default=16)
    parser.add_argument("--rows", type=int, default=None, help="train rows at most")
    parser.add_argument("--test-rows", type=int, default=None)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--style", choices=("letter", "text"), default="text")
    parser.add_argument("--no-before", action="store_true")
    return parser.parse_args()


def prompt_of(row: dict[str, Any], style: str) -> str:
    """A canonical row's prompt: with lettered lines, or (style text) the question alone."""
    lines = [row["context"]] if row.get("context") else []
    lines.append(row["question"])
    if style == "letter" and "choices" in row:
        lines += [f"{letter}. {choice}" for letter, choice in zip(LETTERS, row["choices"], strict=False)]
    return "\n".join([*lines, "Answer:"])


def completion_of(row: dict[str, Any], style: str, index: int | None = None) -> str:
    """The right completion, or that of choice `index`."""
    if "choices" not in row:
        return f" {row['answer']}"
    index = row["answer"] if index is None else index
    return f" {LETTERS[index] if style == 'letter' else row['choices'][index]}"


def encode(tokenizer: Any, pairs: list[Pair]) -> list[tuple[list[int], int]]:
    """Token ids with the end token, and how many of them are prompt."""
    rows = []
    for prompt, completion in pairs:
        head = tokenizer(prompt, add_special_tokens=False)["input_ids"]
        tail = tokenizer(completion, add_special_tokens=False)["input_ids"]
        rows.append(([*head, *tail, tokenizer.eos_token_id], len(head)))
    return rows


def batch_of(rows: list[tuple[list[int], int]], pad: int) -> dict[str, torch.Tensor]:
    """Right-padded ids, mask, and labels on the completion alone."""
    width = max(len(ids) for ids, _ in rows)
    ids = torch.full((len(rows), width), pad)
    labels = torch.full((len(rows), width), -100)
    mask = torch.zeros((len(rows), width), dtype=torch.long)
    for i, (row, head) in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row)
        mask[i, : len(row)] = 1
        labels[i, head : len(row)] = torch.tensor(row[head:])
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def finetune(
    model: Any, rows: list[tuple[list[int], int]], pad: int, args: Any, lr: float, epochs: float
) -> float:
    """AdamW with a 3% warm-up and a cosine; gives the seconds it took."""
    params = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(params, lr=lr, betas=(0.9, 0.95), weight_decay=0.01)
    per_epoch = math.ceil(len(rows) / args.batch)
    steps = max(1, round(per_epoch * epochs))
    order = random.Random(args.seed)
    began, step = time.time(), 0
    model.train()
    while step < steps:
        shuffled = order.sample(rows, len(rows))
        for start in range(0, len(rows), args.batch):
            if step >= steps:
                break
            share = min(1.0, (step + 1) / (0.03 * steps)) * 0.5 * (1 + math.cos(math.pi * step / steps))
            for group in optimizer.param_groups:
                group["lr"] = lr * share
            model(**batch_of(shuffled[start : start + args.batch], pad)).loss.backward()
            torch.nn.utils.clip_grad_norm_(params, 1.0)
            optimizer.step()
            optimizer.zero_grad()
            step += 1
    return time.time() - began


@torch.no_grad()
def choice_accuracy(model: Any, tokenizer: Any, rows: list[dict[str, Any]], style: str) -> dict[str, float]:
    """Share of rows whose right completion has the greatest log-likelihood, whole and by group."""
    pairs = [
        (prompt_of(row, style), completion_of(row, style, index))
        for row in rows
        for index in range(len(row["choices"]))
    ]
    encoded = [(ids[:-1], head) for ids, head in encode(tokenizer, pairs)]
    scores: list[float] = []
    for start in range(0, len(encoded), 256):
        batch = batch_of(encoded[start : start + 256], tokenizer.pad_token_id)
        labels = batch.pop("labels")[:, 1:]
        hidden = (
            model.get_base_model().model(**batch)
            if hasattr(model, "get_base_model")
            else model.model(**batch)
        )
        kept = labels != -100
        logits = model.get_output_embeddings()(hidden.last_hidden_state[:, :-1][kept])
        each = torch.zeros(labels.shape)
        each[kept] = logits.log_softmax(-1).gather(-1, labels[kept][:, None])[:, 0]
        scores += each.sum(-1).tolist()
    hits: dict[str, list[bool]] = {"all": []}
    taken = iter(scores)
    for row in rows:
        options = [next(taken) for _ in row["choices"]]
        right = options.index(max(options)) == row["answer"]
        hits["all"].append(right)
        hits.setdefault(row["group"], []).append(right)
    return {name: round(sum(values) / len(values), 4) for name, values in sorted(hits.items())}


@torch.no_grad()
def sums_accuracy(model: Any, tokenizer: Any, rows: list[dict[str, Any]]) -> dict[str, float]:
    """Share of rows whose greedy text ends in the right `#### number`, whole and by count of steps."""
    hits: dict[str, list[bool]] = {"all": []}
    ranked = sorted(rows, key=lambda r: len(r["question"]))
    tokenizer.padding_side = "left"
    for start in range(0, len(ranked), 128):
        part = ranked[start : start + 128]
        batch = tokenizer(
            [prompt_of(r, "text") for r in part], return_tensors="pt", padding=True, add_special_tokens=False
        )
        out = model.generate(
            input_ids=batch["input_ids"], attention_mask=batch["attention_mask"],
            max_new_tokens=64, do_sample=False,
        )  # fmt: skip
        texts = tokenizer.batch_decode(out[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
        for row, text in zip(part, texts, strict=True):
            right = (
                text.split("####")[-1].strip() == row["answer"].split("####")[-1].strip() and "####" in text
            )
            hits["all"].append(right)
            hits.setdefault(f"{row['answer'].count('=')} steps", []).append(right)
    return {name: round(sum(values) / len(values), 4) for name, values in sorted(hits.items())}


def score(model: Any, tokenizer: Any, task: str, rows: list[dict[str, Any]], style: str) -> dict[str, float]:
    """The task's own measure."""
    model.eval()
    if task == "world-sums":
        return sums_accuracy(model, tokenizer, rows)
    return choice_accuracy(model, tokenizer, rows, style)


def main() -> None:
    """For each task: score, train, score."""
    args = arguments()
    torch.set_num_threads(args.threads)
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    for task in args.tasks:
        train, test = generate_rows(task, "train")[: args.rows], generate_rows(task, "test")[: args.test_rows]
        encoded = encode(tokenizer, [(prompt_of(r, args.style), completion_of(r, args.style)) for r in train])
        for lr, epochs in [(lr, epochs) for lr in args.rates for epochs in args.epochs]:
            torch.manual_seed(args.seed)
            model = AutoModelForCausalLM.from_pretrained(args.model)
            before = None if args.no_before else score(model, tokenizer, task, test, args.style)
            config = LoraConfig(
                r=args.rank, lora_alpha=args.alpha, target_modules=["q_proj", "k_proj", "v_proj", "o_proj"],
                task_type="CAUSAL_LM",
            )  # fmt: skip
            model = get_peft_model(model, config)
            seconds = finetune(model, encoded, tokenizer.pad_token_id, args, lr, epochs)
            row = {"task": task, "lr": lr, "epochs": epochs, "train_rows": len(train), "before": before}
            row |= {"longest": max(len(ids) for ids, _ in encoded), "seconds": round(seconds, 1)}
            print(json.dumps(row | {"after": score(model, tokenizer, task, test, args.style)}), flush=True)


if __name__ == "__main__":
    main()
