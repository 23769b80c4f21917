"""`metrics.jsonl`: repeatable lines, rewritten from the history after a resume."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from neurolora.errors import OutputError
from neurolora.training.metrics import MetricsFile, metrics_line, read_metrics


def test_times_are_left_out_and_the_order_is_fixed() -> None:
    line = metrics_line(
        {"eval_loss": 1.5, "eval_runtime": 3.2, "eval_samples_per_second": 9.0, "step": 4, "epoch": 1.0}
    )
    assert line == '{"step": 4, "epoch": 1.0, "eval_loss": 1.5}\n'
    assert (
        metrics_line({"train_runtime": 3.0, "total_flos": 1.0, "train_loss": 2.0, "step": 4, "epoch": 1.0})
        is None
    )
    assert metrics_line({"b": 1, "a": 2, "step": 1}) == metrics_line({"step": 1, "a": 2, "b": 1})


def state(history: list[dict[str, float]], step: int = 1) -> SimpleNamespace:
    return SimpleNamespace(log_history=history, is_world_process_zero=True, global_step=step, max_steps=9)


def test_a_resume_rewrites_the_file_from_the_checkpoints_history(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "loss": 1.0}\n{"step": 3, "lo')
    writer, history = MetricsFile(path), [{"step": 1, "epoch": 0.5, "loss": 2.0}]
    writer.on_train_begin(None, state(history), None)
    history.append({"step": 2, "epoch": 1.0, "loss": 1.5})
    writer.on_log(None, state(history), None)
    assert read_metrics(path) == history


def test_a_half_line_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2')
    assert read_metrics(path) == [{"step": 1}]


def test_the_last_step_is_logged() -> None:
    control = SimpleNamespace(should_log=False)
    MetricsFile(Path("unused")).on_step_end(None, state([], step=8), control)
    assert not control.should_log
    MetricsFile(Path("unused")).on_step_end(None, state([], step=9), control)
    assert control.should_log


def test_a_line_that_cannot_be_written(tmp_path: Path) -> None:
    writer = MetricsFile(tmp_path)
    with pytest.raises(OutputError, match="Is a directory"):
        writer.on_log(None, state([{"step": 1, "loss": 1.0}]), None)


def test_other_processes_write_nothing(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    helper = state([{"step": 1, "loss": 1.0}])
    helper.is_world_process_zero = False
    MetricsFile(path).on_train_begin(None, helper, None)
    MetricsFile(path).on_log(None, helper, None)
    assert not path.exists()
