"""NeuroLoRA in a training loop of one's own: two learning rates, the auxiliary loss, gradient accumulation.

Runs offline on the bundled model, in about half a minute on two cores.
"""

from __future__ import annotations

import math
import sys
import tempfile

import torch
from peft import PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

import neurolora
from neurolora.evaluation import answer_token_loss
from neurolora.tasks import CompletionCollator, TaskRequest, encode_all, load_examples
from neurolora.world import bundled_model_path

STEPS, ACCUMULATE, BATCH = 20, 2, 8


def main() -> None:
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(bundled_model_path())
    base = AutoModelForCausalLM.from_pretrained(bundled_model_path())
    model = get_peft_model(base, neurolora.NeuroLoraConfig(task_type="CAUSAL_LM"))
    model.print_trainable_parameters()

    rows, _ = encode_all(load_examples(TaskRequest("world-recall"), "train"), tokenizer, max_length=256)
    held_out = load_examples(TaskRequest("world-recall", limit=100), "validation")
    before = answer_token_loss(model, tokenizer, held_out, 16).value

    # B learns at one rate, the gate at another; gamma and beta are not decayed.
    groups = neurolora.create_optimizer_groups(model, lr=2e-3, gate_lr=5e-3, weight_decay=0.01)
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95))
    collate = CompletionCollator(tokenizer)
    order = torch.randperm(len(rows)).tolist()
    model.train()
    for step in range(STEPS):
        chosen = [order[(step * ACCUMULATE * BATCH + i) % len(order)] for i in range(ACCUMULATE * BATCH)]
        batches = [collate([rows[i] for i in chosen[k * BATCH : (k + 1) * BATCH]]) for k in range(ACCUMULATE)]
        labels = sum(int(batch["labels"][:, 1:].ne(-100).sum()) for batch in batches)
        step_loss = 0.0
        for batch in batches:
            # With labels the loss holds lambda * L_orth already. `num_items_in_batch` makes the losses of the
            # micro-batches add up to the loss of the whole batch, the orthogonality loss with weight one.
            loss = model(**batch, num_items_in_batch=labels).loss
            loss.backward()
            step_loss += loss.item()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        neurolora.step_load_balance(model)  # does nothing unless load_balance_rate is above 0
        optimizer.zero_grad()
        if step % 10 == 9:
            print(f"step {step + 1}: loss {step_loss:.3f}", file=sys.stderr)

    # Without labels the model adds nothing, and the auxiliary loss is yours to add:
    batch = batches[0]
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    task_loss = torch.nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten()
    )
    total = task_loss + neurolora.get_auxiliary_loss(model)
    assert math.isfinite(total.item())

    model.eval()
    after = answer_token_loss(model, tokenizer, held_out, 16).value
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        again = PeftModel.from_pretrained(
            AutoModelForCausalLM.from_pretrained(bundled_model_path()), folder
        ).eval()
        ids = batch["input_ids"]
        with torch.no_grad():
            assert torch.equal(again(ids).logits, model(ids).logits)
    print(f"loss of an answer's token on held-out rows: {before:.3f} before, {after:.3f} after")
    assert after < before


if __name__ == "__main__":
    main()
