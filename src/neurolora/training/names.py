"""Names that people type, and the nearest ones that exist.

Room: training; pure functions.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

#: What people write for these settings elsewhere.
HABITS = {
    "lr": "learning_rate",
    "epochs": "num_train_epochs",
    "num_epochs": "num_train_epochs",
    "train_batch_size": "per_device_train_batch_size",
    "rank": "r",
    "lora_r": "r",
    "k": "top_k",
    "alpha": "lora_alpha",
    "rho": "density",
    "sparsity": "density",
    "lambda": "orthogonality_weight",
    "orth_weight": "orthogonality_weight",
    "peft_type": "method",
    "dataset": "dataset_name",
    "model_name": "model_name_or_path",
    "base_model": "model_name_or_path",
    "torch_dtype": "dtype",
    "max_seq_length": "max_length",
    "evaluation_strategy": "eval_strategy",
    "gate_lr": "gate_learning_rate",
    "output_path": "output_dir",
    "grad_accum": "gradient_accumulation_steps",
}


def nearest(name: str, known: Iterable[str]) -> str:
    """`; did you mean X?`, or nothing when no known name is like `name`."""
    names = list(known)
    wanted = name.replace("-", "_").lower()
    habit = HABITS.get(wanted)
    exact = [full for full in names if habit and full.rpartition(".")[2] == habit]
    if exact:
        return f"; did you mean {exact[0]}?"
    by_key: dict[str, str] = {}
    for full in names:
        by_key.setdefault(full.rpartition(".")[2], full)
    close = difflib.get_close_matches(wanted, by_key, n=1, cutoff=0.6)
    return f"; did you mean {by_key[close[0]]}?" if close else ""
