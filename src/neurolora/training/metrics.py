"""`metrics.jsonl`: one line for each moment that something was measured, the same bits on every run.

Room: training. A line holds `step`, `epoch` and what was measured there:
training lines `loss` (the task's alone), `orthogonality_loss` (unweighted, routed methods only),
`learning_rate`, `gate_learning_rate`, `grad_norm`; validation lines `eval_loss`.
Times are left out, since they differ between equal runs; they stand in `run.json`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from neurolora.errors import OutputError, explain
from neurolora.files import write_text

METRICS = "metrics.jsonl"
_NOT_REPEATABLE = ("_runtime", "_per_second")
_SUMMARY = frozenset({"total_flos", "train_loss", "num_input_tokens_seen"})


def metrics_line(logged: dict[str, Any]) -> str | None:
    """One JSON line of what the trainer logged; None if nothing repeatable is in it."""
    kept = {
        name: value
        for name, value in logged.items()
        if name not in _SUMMARY and not name.endswith(_NOT_REPEATABLE)
    }
    if set(kept) <= {"step", "epoch"}:
        return None
    ordered = {"step": kept.pop("step", None), "epoch": kept.pop("epoch", None), **dict(sorted(kept.items()))}
    return json.dumps(ordered) + "\n"  # sorted, since a checkpoint's history does not keep the order


class MetricsFile(TrainerCallback):
    """Writes the file; after a resume it starts from the checkpoint's own history.

    So no line is lost or doubled, whatever the killed process had written past its last checkpoint.
    """

    def __init__(self, path: Path):
        self.path = path

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Rewrite the file as it was at this step."""
        if state.is_world_process_zero:
            lines = [metrics_line(entry) for entry in state.log_history]
            write_text(self.path, "".join(line for line in lines if line))

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """The last step is always logged, whatever `logging_steps` is."""
        if state.global_step >= state.max_steps:
            control.should_log = True

    def on_log(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Append the newest entry."""
        line = metrics_line(state.log_history[-1])
        if line is None or not state.is_world_process_zero:
            return
        try:
            with self.path.open("a", encoding="utf-8") as handle:
                handle.write(line)
        except OSError as error:
            reason = error.strerror or str(error)
            do = "Free some space, then go on with --resume"
            raise OutputError(explain(f"writing {self.path}", reason, do)) from error


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics file; a half-written last line is left out."""
    lines = path.read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines[:-1] if line]
