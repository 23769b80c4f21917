"""Make the bundled tokenizer and model: pre-train a small Llama on the general text of world 0.

Run from the project's root:  python scripts/pretrain_world.py --out src/neurolora/world/bundled
It reads `neurolora.world.generate_text` alone, never a task's rows, and writes the model, the tokenizer,
`pretraining_log.jsonl` and `provenance.json` into the folder named by --out. Float32 on the CPU.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from neurolora.files import write_json, write_text
from neurolora.provenance import environment
from neurolora.world import generate_text
from neurolora.world.text import FOURTH_MIX_FROM, SECOND_MIX_FROM, THIRD_MIX_FROM

BOS, EOS, PAD = "<bos>", "<eos>", "<pad>"
PIECES = r" ?\p{L}+| ?\d| ?[^\s\p{L}\d]| +(?= )|\s"
"""A word, one digit, or one sign, each with the space before it."""


def arguments() -> argparse.Namespace:
    """The command line; its values go into provenance.json."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--passes", type=int, default=36)
    parser.add_argument("--steps", type=int, default=1300)
    parser.add_argument("--stop", type=int, default=None, help="end here, before the rate has fallen to zero")
    parser.add_argument("--batch", type=int, default=24)
    parser.add_argument("--context", type=int, default=128)
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--mlp", type=int, default=320)
    parser.add_argument("--layers", type=int, default=5)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--vocab", type=int, default=1536)
    parser.add_argument("--lr", type=float, default=3e-3, help="AdamW, for embeddings and norms")
    parser.add_argument("--lr-matrix", type=float, default=0.02, help="orthogonalised momentum, for matrices")
    parser.add_argument("--decay", type=float, default=0.45, help="last share of the steps, falling to zero")
    parser.add_argument("--first-pass", type=int, default=0)
    parser.add_argument("--continue-run", action="store_true", help="go on from the model that is in --out")
    parser.add_argument("--revive", action="store_true", help="train nothing; make unseen tokens usable")
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


def train_tokenizer(texts: Iterator[str], vocab: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE: digits one by one, any UTF-8 text comes back as it was."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(PIECES), behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])  # fmt: skip
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=[PAD, BOS, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        model_max_length=512,
        clean_up_tokenization_spaces=False,
    )


def packed_tokens(tokenizer: PreTrainedTokenizerFast, args: argparse.Namespace) -> tuple[torch.Tensor, str]:
    """All documents in one row of token ids, an end token after each, and the text's SHA-256."""
    digest = hashlib.sha256()
    ids: list[int] = []
    texts = generate_text(args.seed, args.passes, args.first_pass)
    while batch := list(islice(texts, 4096)):
        for text in batch:
            digest.update(text.encode() + b"\0")
        for row in tokenizer(batch)["input_ids"]:
            ids += [*row, tokenizer.eos_token_id]
    return torch.tensor(ids, dtype=torch.int32), digest.hexdigest()


def digest_of(texts: Iterator[str]) -> str:
    """SHA-256 of documents, each closed by a zero byte."""
    digest = hashlib.sha256()
    for text in texts:
        digest.update(text.encode() + b"\0")
    return digest.hexdigest()


def small_llama(args: argparse.Namespace, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """A Llama with tied embeddings, its weights drawn from --seed."""
    torch.manual_seed(args.seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=args.hidden,
        intermediate_size=args.mlp,
        num_hidden_layers=args.layers,
        num_attention_heads=args.heads,
        num_key_value_heads=args.heads,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config)


def seen_tokens(tokenizer: PreTrainedTokenizerFast, seed: int) -> torch.Tensor:
    """Which tokens (vocabulary,) occur in the text: one pass of each mix is looked through."""
    seen = torch.zeros(len(tokenizer), dtype=torch.bool)
    seen[tokenizer.eos_token_id] = True
    for first in (0, SECOND_MIX_FROM, THIRD_MIX_FROM, FOURTH_MIX_FROM):
        for ids in tokenizer(list(generate_text(seed, 1, first)))["input_ids"]:
            seen[ids] = True
    return seen


@torch.no_grad()
def revive_unseen_rows(model: LlamaForCausalLM, seen: torch.Tensor, seed: int) -> int:
    """Draw the embeddings of tokens that the text never shows from the seen rows' mean and deviation.

    Tied to the head, such rows are only ever pushed away; a frozen base could never be taught to say them,
    the signs of `####` among them. Gives how many there were.
    """
    rows = model.get_input_embeddings().weight
    count = int((~seen).sum())
    noise = torch.randn(count, rows.shape[1], generator=torch.Generator().manual_seed(seed))
    rows[~seen] = rows[seen].mean(0) + rows[seen].std(0) * noise
    return count


class MatrixOptimizer(torch.optim.Optimizer):
    """Momentum made orthogonal by Newton-Schulz steps (Muon, Jordan 2024), in float32."""

    def __init__(
        self, params: list[torch.nn.Parameter], lr: float, momentum: float = 0.95, decay: float = 0.02
    ):
        super().__init__(params, {"lr": lr, "momentum": momentum, "decay": decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update; matrices of one shape are done together."""
        for group in self.param_groups:
            shapes: dict[torch.Size, list[torch.nn.Parameter]] = {}
            for p in group["params"]:
                shapes.setdefault(p.shape, []).append(p)
            for shape, params in shapes.items():
                updates = orthogonal(torch.stack([self._momentum(p, group["momentum"]) for p in params]))
                scale = group["lr"] * math.sqrt(max(1.0, shape[0] / shape[1]))
                for p, update in zip(params, updates, strict=True):
                    p.mul_(1 - group["lr"] * group["decay"]).add_(update, alpha=-scale)

    def _momentum(self, p: torch.nn.Parameter, momentum: float) -> torch.Tensor:
        buffer = self.state[p].setdefault("buffer", torch.zeros_like(p))
        buffer.lerp_(p.grad, 1 - momentum)
        return torch.lerp(p.grad, buffer, momentum)


def orthogonal(x: torch.Tensor, steps: int = 5) -> torch.Tensor:
    """The nearest (semi-)orthogonal matrices, roughly, of a stack (n, rows, columns)."""
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x


def optimizers(model: LlamaForCausalLM, args: argparse.Namespace) -> list[torch.optim.Optimizer]:
    """Orthogonalised momentum for the blocks' matrices, AdamW for the rest."""
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    rest = [p for n, p in model.named_parameters() if p.ndim != 2 or "embed" in n]
    adamw = torch.optim.AdamW(rest, lr=args.lr, betas=(0.9, 0.95), weight_decay=0.01)
    return [MatrixOptimizer(matrices, lr=args.lr_matrix), adamw]


def rate(step: int, steps: int, decay: float) -> float:
    """Linear warm-up over 3%, level, then linear to zero over the last share `decay`."""
    return min(1.0, (step + 1) / (0.03 * steps), (steps - step) / (decay * steps))


def backward_in_halves(model: LlamaForCausalLM, ids: torch.Tensor, workers: ThreadPoolExecutor) -> float:
    """The gradient of a batch as the mean over its two halves, a thread each; gives the loss."""
    params = list(model.parameters())

    def half(rows: torch.Tensor) -> tuple[float, tuple[torch.Tensor, ...]]:
        loss = model(input_ids=rows, labels=rows).loss
        return loss.item(), torch.autograd.grad(loss, params)

    (loss_a, grads_a), (loss_b, grads_b) = workers.map(half, ids.chunk(2))
    for p, a, b in zip(params, grads_a, grads_b, strict=True):
        p.grad = (a + b) / 2
    return (loss_a + loss_b) / 2


def pretrain(
    model: LlamaForCausalLM, tokens: torch.Tensor, args: argparse.Namespace
) -> list[dict[str, float]]:
    """Next-token training on windows in the text's order; gives the log's rows."""
    windows = tokens[: len(tokens) // args.context * args.context].view(-1, args.context)
    order = torch.arange(len(windows))  # the text comes shuffled, its rhymes mostly first
    both = optimizers(model, args)
    base_rates = [[g["lr"] for g in o.param_groups] for o in both]
    log: list[dict[str, float]] = []
    began, losses = time.time(), []
    model.train()
    workers = ThreadPoolExecutor(args.threads, initializer=lambda: torch.set_num_threads(1))
    last = args.stop or args.steps
    for step in range(last):
        chosen = order[torch.arange(step * args.batch, (step + 1) * args.batch) % len(order)]
        ids = windows[chosen].long()
        loss = backward_in_halves(model, ids, workers)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, rates in zip(both, base_rates, strict=True):
            for group, lr in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = lr * rate(step, args.steps, args.decay)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        losses.append(loss)
        if (step + 1) % 50 == 0 or step + 1 == last:
            row = {
                "step": step + 1,
                "tokens": (step + 1) * ids.numel(),
                "loss": round(sum(losses) / len(losses), 4),
            }
            log.append({**row, "seconds": round(time.time() - began, 1)})
            print(json.dumps(log[-1]), flush=True)
            losses = []
        if (step + 1) % 200 == 0:
            model.save_pretrained(args.out)
    return log


def revive(args: argparse.Namespace) -> None:
    """The last step: unseen tokens made usable in the finished model of --out."""
    provenance = json.loads((args.out / "provenance.json").read_text())
    tokenizer = AutoTokenizer.from_pretrained(args.out)
    model = LlamaForCausalLM.from_pretrained(args.out)
    provenance["revived_rows"] = revive_unseen_rows(model, seen_tokens(tokenizer, args.seed), args.seed)
    save(model, args.out, provenance)


def save(model: LlamaForCausalLM, out: Path, provenance: dict[str, Any]) -> None:
    """The model, and what made it with the weights' fingerprint."""
    model.eval().save_pretrained(out)
    (out / "model.safetensors").chmod(0o644)
    provenance["model_sha256"] = hashlib.sha256((out / "model.safetensors").read_bytes()).hexdigest()
    write_json(out / "provenance.json", provenance)


def start(args: argparse.Namespace) -> tuple[PreTrainedTokenizerFast, LlamaForCausalLM, list[dict[str, Any]]]:
    """Tokenizer, model and the runs before this one: new ones, or those of --out."""
    if args.continue_run:
        runs = json.loads((args.out / "provenance.json").read_text())["runs"]
        return AutoTokenizer.from_pretrained(args.out), LlamaForCausalLM.from_pretrained(args.out), runs
    tokenizer = train_tokenizer(generate_text(args.seed, 3), args.vocab)
    tokenizer.save_pretrained(args.out)
    write_text(args.out / "pretraining_log.jsonl", "")
    return tokenizer, small_llama(args, tokenizer), []


def run(args: argparse.Namespace) -> None:
    """One run of pre-training, its log and its place in provenance.json."""
    tokenizer, model, runs = start(args)
    tokens, text_digest = packed_tokens(tokenizer, args)
    count = sum(p.numel() for p in model.parameters())
    print(f"{count:,} parameters, {len(tokens):,} tokens of text, {len(tokenizer)} kinds", flush=True)
    log = pretrain(model, tokens, args)
    log_path = args.out / "pretraining_log.jsonl"
    lines = [json.dumps({"run": len(runs), **row}) + "\n" for row in log]
    write_text(log_path, log_path.read_text() + "".join(lines))
    this_run = {
        "arguments": {k: v for k, v in vars(args).items() if k not in ("out", "revive")},
        "text_tokens": len(tokens),
        "text_sha256": text_digest,
        "seconds": log[-1]["seconds"],
        "environment": environment(),
    }
    provenance = {
        "made_by": "scripts/pretrain_world.py",
        "parameters": count,
        "first_pass_sha256": digest_of(generate_text(args.seed, 1)),
        "runs": [*runs, this_run],
    }
    save(model, args.out, provenance)


def main() -> None:
    """A run, or the last step after all runs."""
    args = arguments()
    torch.set_num_threads(1)
    (revive if args.revive else run)(args)


if __name__ == "__main__":
    main()
