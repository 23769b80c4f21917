"""NeuroLoRA beside PEFT's LoRA on real data, with real small models; nothing of either is bundled.

    python benchmarks/real_data.py language --data FOLDER --model FOLDER --out real_language.json
    python benchmarks/real_data.py classification --data FOLDER --model FOLDER --out real_classification.json

language: a causal language model on GSM8K and ScienceQA (text only), scored before and after by the loss
of the answer's tokens and, for ScienceQA, by the likelihood of the choices. classification: an encoder with
a head on AG News and SST-2, scored by accuracy. Same rank, same rows, same steps, learning rates searched
alike on validation rows (seed 0 alone); test rows are scored once for every seed, with the rate found.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from neurolora.files import write_json
from neurolora.provenance import environment

# Rates tried for each method, and four times the best while it is the highest; B of a routed adapter wants
# about twice LoRA's.
GRID = {"lora": (1e-3, 4e-3), "neurolora": (2e-3, 8e-3)}
MOST_RATES = 5
GATE_SHARE = 0.25  # the gate's rate, as a part of B's
LANGUAGE = {
    "gsm8k": {"dataset_name": "gsm8k", "validation_fraction": 0.05},
    "scienceqa": {"dataset_name": "scienceqa"},
}
CLASSIFICATION = {"agnews": "textcls/agnews", "SST-2": "textcls/SST-2"}
STEPS, BATCH, TEST_ROWS = 150, 16, 500
WINDOW = 512  # tokens; rows that do not fit are left out, in training and in scores


def rate_settings(method: str, rate: float) -> dict[str, float]:
    return {
        "learning_rate": rate,
        **({"gate_learning_rate": rate * GATE_SHARE} if method == "neurolora" else {}),
    }


# --- language ---------------------------------------------------------------------------------------------


def language_request(arguments: argparse.Namespace, task: str, limit: int | None) -> Any:
    from neurolora.tasks import TaskRequest

    row = LANGUAGE[task]
    return TaskRequest(
        task=task,
        dataset_name=str(Path(arguments.data) / row["dataset_name"]),
        validation_fraction=row.get("validation_fraction", 0.0),
        limit=limit,
    )


def language_scores(
    model: Any, tokenizer: Any, arguments: argparse.Namespace, task: str, split: str
) -> dict[str, float]:
    from neurolora.evaluation import answer_token_loss, label_likelihood_accuracy
    from neurolora.tasks import encode, load_examples

    examples = load_examples(language_request(arguments, task, arguments.test_rows), split)
    examples = [example for example in examples if encode(example, tokenizer, WINDOW, "drop") is not None]
    loss = answer_token_loss(model, tokenizer, examples, batch_size=16)
    scores = {"answer_token_loss": loss.value, "answer_token_loss_stderr": loss.stderr, "rows": len(examples)}
    if examples[0].choices:
        accuracy = label_likelihood_accuracy(model, tokenizer, examples, batch_size=16)
        scores |= {"likelihood_accuracy": accuracy.value, "likelihood_accuracy_stderr": accuracy.stderr}
    return scores


def language_run(
    arguments: argparse.Namespace, task: str, method: str, rate: float, seed: int, split: str
) -> dict[str, Any]:
    from neurolora.training import RunHooks, load_config, run_training

    before: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        row = LANGUAGE[task]
        settings = {
            "model_name_or_path": arguments.model,
            "task": task,
            "dataset_name": str(Path(arguments.data) / row["dataset_name"]),
            "validation_fraction": row.get("validation_fraction", 0.0),
            "max_length": WINDOW,
            "overlong": "drop",
            "max_train_samples": 2400,
            "method": method,
            "max_steps": arguments.steps,
            "per_device_train_batch_size": BATCH,
            "gradient_accumulation_steps": 1,
            "eval_strategy": "no",
            "save_strategy": "no",
            "use_cpu": True,
            "seed": seed,
            "output_dir": folder,
            **rate_settings(method, rate),
        }
        result = run_training(
            load_config(None, settings),
            overwrite=True,
            progress=False,
            hooks=RunHooks(lambda m, t: before.update(language_scores(m, t, arguments, task, split))),
        )
    after = language_scores(result.model, result.tokenizer, arguments, task, split)
    return {"before": before, "after": after, "trainable": trainable(result.model)}


# --- classification ---------------------------------------------------------------------------------------


def classification_rows(arguments: argparse.Namespace, task: str) -> dict[str, list[dict[str, Any]]]:
    from neurolora.tasks import TaskRequest, load_rows

    name = str(Path(arguments.data) / CLASSIFICATION[task])
    request = TaskRequest(task="text", dataset_name=name, validation_fraction=0.2)
    limits = {"train": 1600, "validation": 400, "test": arguments.test_rows}
    return {
        split: load_rows(dataclasses.replace(request, limit=limit), split) for split, limit in limits.items()
    }


def classifier(arguments: argparse.Namespace, method: str, labels: int, seed: int) -> tuple[Any, Any]:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, set_seed

    from neurolora import NeuroLoraConfig

    set_seed(seed)
    tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    model = AutoModelForSequenceClassification.from_pretrained(arguments.model, num_labels=labels)
    targets = ["query", "key", "value", "attention.output.dense"]
    if method == "lora":
        config: Any = LoraConfig(r=32, lora_alpha=16, target_modules=targets, task_type="SEQ_CLS")
    else:
        config = NeuroLoraConfig(target_modules=targets, init_seed=seed, task_type="SEQ_CLS")
    return get_peft_model(model, config), tokenizer


def classification_run(
    arguments: argparse.Namespace, task: str, method: str, rate: float, seed: int, split: str
) -> dict[str, Any]:
    from transformers import DataCollatorWithPadding, TrainingArguments

    from neurolora import NeuroLoraTrainer
    from neurolora.evaluation import classification_accuracy

    rows = classification_rows(arguments, task)
    model, tokenizer = classifier(arguments, method, len(rows["train"][0]["labels"]), seed)
    before = classification_accuracy(model, tokenizer, rows[split], max_length=48)
    encoded = [
        {**tokenizer(row["sentence"], truncation=True, max_length=48), "labels": row["label"]}
        for row in rows["train"]
    ]
    with tempfile.TemporaryDirectory() as folder:
        settings = TrainingArguments(
            folder,
            per_device_train_batch_size=32,
            num_train_epochs=2,
            learning_rate=rate,
            lr_scheduler_type="cosine",
            warmup_steps=0.03,
            weight_decay=0.01,
            seed=seed,
            save_strategy="no",
            report_to="none",
            use_cpu=True,
            disable_tqdm=True,
        )
        trainer = NeuroLoraTrainer(
            model,
            settings,
            gate_learning_rate=rate * GATE_SHARE,
            train_dataset=encoded,
            data_collator=DataCollatorWithPadding(tokenizer),
        )
        trainer.train()
    after = classification_accuracy(model, tokenizer, rows[split], max_length=48)
    return {
        "before": {"accuracy": before.value, "rows": len(rows[split])},
        "after": {"accuracy": after.value, "accuracy_stderr": after.stderr, "loss": after.loss},
        "trainable": trainable(model),
    }


# --- both -------------------------------------------------------------------------------------------------


def trainable(model: Any) -> int:
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


PARTS = {
    "language": (LANGUAGE, language_run, lambda r: -r["after"]["answer_token_loss"]),
    "classification": (CLASSIFICATION, classification_run, lambda r: r["after"]["accuracy"]),
}


def study(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    tasks, run, goodness = PARTS[arguments.part]
    rows = []
    for task in arguments.tasks or tasks:
        for method, rates in GRID.items():
            tried = {rate: goodness(run(arguments, task, method, rate, 0, "validation")) for rate in rates}
            best = max(tried, key=tried.__getitem__)
            while best == max(tried) and len(tried) < MOST_RATES:  # the best may lie beyond the edge
                tried[4 * best] = goodness(run(arguments, task, method, 4 * best, 0, "validation"))
                best = max(tried, key=tried.__getitem__)
            print(f"{task} {method}: validation {tried}, taking {best:g}", flush=True)
            for seed in arguments.seeds:
                started = time.perf_counter()
                result = run(arguments, task, method, best, seed, "test")
                seconds = time.perf_counter() - started
                rows.append({"task": task, "method": method, "seed": seed, "rate": best, "tried": tried,
                             "seconds": seconds, **result})  # fmt: skip
                print(f"{task} {method} seed {seed}: {result['before']} -> {result['after']}", flush=True)
                write_json(
                    arguments.out, {"rows": rows, "arguments": vars(arguments), "environment": environment()}
                )
    return rows


def summarise(rows: list[dict[str, Any]]) -> str:
    """A Markdown table: mean over seeds, and their standard deviation in brackets."""
    lines = ["| task | method | rate | trainable | score | before | after |", "|---|---|---|---|---|---|---|"]
    for task, method in dict.fromkeys((row["task"], row["method"]) for row in rows):
        mine = [row for row in rows if (row["task"], row["method"]) == (task, method)]
        for score in ("answer_token_loss", "likelihood_accuracy", "accuracy"):
            if score in mine[0]["after"]:
                before = statistics.mean(row["before"][score] for row in mine)
                after = [row["after"][score] for row in mine]
                spread = statistics.stdev(after) if len(after) > 1 else float("nan")
                who = f"| {task} | {method} | {mine[0]['rate']:g} | {mine[0]['trainable']:,} "
                lines.append(f"{who}| {score} | {before:.3f} | {statistics.mean(after):.3f} ({spread:.3f}) |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=list(PARTS))
    parser.add_argument("--data", required=True, help="folder with gsm8k/, scienceqa/ and textcls/")
    parser.add_argument("--model", required=True, help="folder or hub name of the base model")
    parser.add_argument("--out", required=True, help="JSON file of the results")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--tasks", nargs="+", help="only these of the part's")
    parser.add_argument("--steps", type=int, default=STEPS, help="optimizer steps of a language run")
    parser.add_argument("--test-rows", type=int, default=TEST_ROWS)
    arguments = parser.parse_args()
    print(summarise(study(arguments)))


if __name__ == "__main__":
    main()
