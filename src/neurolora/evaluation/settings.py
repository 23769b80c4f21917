"""How an evaluation is to run, and on which rows.

Room: evaluation. The harness makes one and hands it to whoever runs a task; it checks itself.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neurolora.errors import ConfigError, DataError, explain
from neurolora.tasks import Row, TaskRequest, load_rows


@dataclass(frozen=True)
class EvaluationSettings:
    """The options of `evaluate`, under lm-eval's names where lm-eval has them."""

    batch_size: int | str = 8
    limit: int | float | None = None
    num_fewshot: int | None = None
    log_samples: bool = True
    apply_chat_template: bool = False
    split: str = "test"
    seed: int = 0
    include_path: Path | str | None = None
    max_new_tokens: int | None = None
    progress: bool = True

    def __post_init__(self) -> None:
        size = self.batch_size
        if size != "auto" and (isinstance(size, str) or size < 1):
            raise ConfigError(
                explain("batch_size", f"{size!r}", "Give a whole number of at least 1, or auto")
            )
        if self.limit is not None and (self.limit <= 0 or (self.limit > 1 and self.limit != int(self.limit))):
            do = "Give a whole number of rows, or a part between 0 and 1"
            raise ConfigError(explain("limit", f"{self.limit}", do))
        if self.num_fewshot is not None and self.num_fewshot < 0:
            raise ConfigError(explain("num_fewshot", f"{self.num_fewshot}", "Give 0 or more"))

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for result files."""
        path = None if self.include_path is None else str(self.include_path)
        return {**dataclasses.asdict(self), "include_path": path}


def limited_rows(request: TaskRequest, settings: EvaluationSettings) -> list[Row]:
    """The rows to evaluate on: all of the split, `limit` of them drawn by the request's seed, or (below 1) a
    first part. Raises `DataError` for a split without rows."""
    limit = settings.limit
    if limit is not None and limit >= 1:
        most = int(limit) if request.limit is None else min(int(limit), request.limit)
        request = dataclasses.replace(request, limit=most)
    rows = load_rows(request, settings.split)
    if limit is not None and limit < 1:
        rows = rows[: math.ceil(len(rows) * limit)]
    if not rows:
        found = f"its {settings.split} split has no rows"
        raise DataError(explain(f"evaluating {request.task}", found, "Give data with rows in this split"))
    return rows
