"""The losses since the last log line, kept across a resume so that no line changes.

Room: training; used by `trainer` alone.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class LossWindow:
    """Sums over the micro-batches since `start`, the step of the last log line.

    extra: of each extra loss by name, its sum over steps and the number of steps that had it.
    """

    start: int = 0
    task: float = 0.0
    orthogonality: float | None = None
    extra: dict[str, list[float]] = field(default_factory=dict)

    def add(self, task: float, orthogonality: float | None) -> None:
        """Add what one micro-batch contributes to its step's loss, and to L where there is one."""
        self.task += task
        if orthogonality is not None:
            self.orthogonality = (self.orthogonality or 0.0) + orthogonality

    def add_extra(self, name: str, value: float, share: float) -> None:
        """Add what one micro-batch, `share` of its step, contributes to an extra loss of a step."""
        sums = self.extra.setdefault(name, [0.0, 0.0])
        sums[0] += value * share
        sums[1] += share

    def drain(self, step: int, mean: Callable[[float], float]) -> dict[str, float]:
        """Means per step up to `step`, and an empty window from there."""
        steps = max(step - self.start, 1)
        means = {"loss": mean(self.task / steps)}
        if self.orthogonality is not None:
            means["orthogonality_loss"] = mean(self.orthogonality / steps)
        for name, (total, count) in self.extra.items():
            means[f"{name}_loss"] = mean(total / count)
        self.start, self.task, self.orthogonality = step, 0.0, None
        self.extra = {}
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
