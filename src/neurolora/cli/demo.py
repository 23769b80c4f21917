"""`neurolora demo`: the main job from end to end on the embedded default, with nothing to download.

Room: cli. It is `neurolora train` with a config of its own, then a check that a new process, which loads the
saved adapter, computes the same outputs to the bit.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from neurolora.cli.console import messages, print_json, results
from neurolora.cli.reload_check import OUTPUTS, use_one_thread, write_outputs
from neurolora.errors import AdapterError, explain

if TYPE_CHECKING:
    from neurolora.training import RunResult

OutputDir = Annotated[
    Path, typer.Option("--output-dir", help="The run folder; an old demo in it is replaced.")
]
TaskName = Annotated[str, typer.Option("--task", help="world-recall, world-passage or world-sums.")]
Method = Annotated[str, typer.Option("--method", help="neurolora, flylora or lora.")]
Seed = Annotated[int, typer.Option("--seed", help="Seed of the run.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]

# B of a routed adapter wants a higher rate on so small a model than Table 5 gives for one of 8B.
SETTINGS: dict[str, Any] = {
    "model_name_or_path": "world",
    "learning_rate": 6e-3,
    "gate_learning_rate": 2e-3,
    "per_device_train_batch_size": 32,
    "gradient_accumulation_steps": 1,
    "eval_strategy": "no",
    "save_strategy": "no",
    "eval.batch_size": 64,
    "eval.split": "test",
    "eval.before": True,
}
EPOCHS = 3.0


def demo_command(
    output_dir: OutputDir = Path("runs/demo"),
    task: TaskName = "world-recall",
    method: Method = "neurolora",
    seed: Seed = 42,
    as_json: AsJson = False,
) -> None:
    """Fine-tune the bundled model on a bundled task, score it before and after, and load it again.

    Takes about two minutes on two cores. The bundled model has read texts of a small invented world; the
    task asks about that world in a form it has never seen.
    """
    use_one_thread()
    started = time.perf_counter()
    result, scores = _train_and_score(output_dir, task, method, seed)
    _check_in_new_process(result)
    document = _document(result, scores, task, time.perf_counter() - started)
    if as_json:
        print_json(document)
    else:
        results().print(_table(document))


def _train_and_score(
    output_dir: Path, task: str, method: str, seed: int
) -> tuple[RunResult, dict[str, dict[str, Any]]]:
    from neurolora.cli.train import after_training, train
    from neurolora.training import load_config

    settings = {
        **SETTINGS,
        "task": task,
        "eval.tasks": [task],
        "method": method,
        "num_train_epochs": EPOCHS,
        "seed": seed,
        "output_dir": str(output_dir),
    }
    config = load_config(None, settings)
    messages().print(f"fine-tuning the bundled model on {task} with {method}")
    result = train(config, resume=False, overwrite=True)
    return result, after_training(config, result)


def _check_in_new_process(result: RunResult) -> None:
    """Raise `AdapterError` unless the adapter, loaded by a new process, gives the same outputs to the bit."""
    write_outputs(result.output_dir, result.model, result.tokenizer)
    command = [sys.executable, "-m", "neurolora.cli.reload_check", str(result.output_dir)]
    child = subprocess.run(command, capture_output=True, text=True, check=False)
    if child.returncode != 0:
        found = child.stderr.strip().splitlines()[-1:] or ["it failed without a word"]
        asked = f"loading the adapter in {result.output_dir} in a new process"
        raise AdapterError(explain(asked, found[0], f"Compare with {OUTPUTS} in that folder"))
    messages().print("loaded again in a new process: outputs are equal to the bit")


def _document(
    result: RunResult, scores: dict[str, dict[str, Any]], task: str, seconds: float
) -> dict[str, Any]:
    folder = result.output_dir
    rows = json.loads((folder / "eval" / "after.json").read_text(encoding="utf-8"))["n_samples"][task]
    return {
        "task": task,
        "method": result.summary["method"],
        "held_out_examples": rows,
        "before": scores["before"][task],
        "after": scores["after"][task],
        "trainable_parameters": result.summary["trainable_parameters"],
        "total_parameters": result.summary["total_parameters"],
        "training_seconds": result.summary["seconds"],
        "seconds": round(seconds, 1),
        "outputs_equal_after_reload": True,
        "adapter": str(folder),
        "report": str(folder / "report.html"),
    }


def _table(document: dict[str, Any]) -> Any:
    from rich.table import Table

    table = Table(title=f"{document['method']} on {document['task']}", show_header=False)
    for name, value in _lines(document):
        table.add_row(name, value)
    return table


def _lines(document: dict[str, Any]) -> list[tuple[str, str]]:
    trainable, total = document["trainable_parameters"], document["total_parameters"]
    examples = f"{document['held_out_examples']:,} held-out examples"
    return [
        (f"accuracy before ({examples})", _score(document["before"])),
        ("accuracy after", _score(document["after"])),
        ("trainable parameters", f"{trainable:,} of {total:,} ({100 * trainable / total:.1f}%)"),
        ("time", f"{document['seconds']:.0f} s, of it training {document['training_seconds']:.0f} s"),
        ("loaded in a new process", "outputs equal to the bit"),
        ("adapter", document["adapter"]),
        ("report", document["report"]),
    ]


def _score(metrics: dict[str, float]) -> str:
    """The task's main figure: accuracy, or exact match of the final answer."""
    name = next(n for n in ("acc", "exact_match,strict-match", "exact_match") if n in metrics)
    stem, _, detail = name.partition(",")
    error = metrics.get(f"{stem}_stderr,{detail}" if detail else f"{stem}_stderr", float("nan"))
    return f"{100 * metrics[name]:.1f}% ± {100 * error:.1f} (standard error)"
