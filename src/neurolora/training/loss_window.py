"""The losses since the last log line, kept across a resume so that no line changes.

Room: training; used by `trainer` alone.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass
class LossWindow:
    """Sums over the micro-batches since `start`, the step of the last log line."""

    start: int = 0
    task: float = 0.0
    orthogonality: float | None = None
    silence: float = 0.0
    silent_steps: float = 0.0

    def add(self, task: float, orthogonality: float | None) -> None:
        """Add what one micro-batch contributes to its step's loss, and to L where there is one."""
        self.task += task
        if orthogonality is not None:
            self.orthogonality = (self.orthogonality or 0.0) + orthogonality

    def add_silence(self, loud: float, share: float) -> None:
        """Add what one micro-batch, `share` of its step, contributes to the silence loss of a step."""
        self.silence += loud * share
        self.silent_steps += share

    def drain(self, step: int, mean: Callable[[float], float]) -> dict[str, float]:
        """Means per step up to `step`, and an empty window from there."""
        steps = max(step - self.start, 1)
        means = {"loss": mean(self.task / steps)}
        if self.orthogonality is not None:
            means["orthogonality_loss"] = mean(self.orthogonality / steps)
        if self.silent_steps:
            means["silence_loss"] = mean(self.silence / self.silent_steps)
        self.start, self.task, self.orthogonality = step, 0.0, None
        self.silence = self.silent_steps = 0.0
        return means

    def save(self, path: Path) -> None:
        """Write the sums; JSON keeps every bit of a float."""
        path.write_text(json.dumps(dataclasses.asdict(self)) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path, step: int) -> LossWindow:
        """The window of a checkpoint; a checkpoint of another trainer has none and starts an empty one."""
        if not path.is_file():
            return cls(start=step)
        return cls(**json.loads(path.read_text(encoding="utf-8")))
