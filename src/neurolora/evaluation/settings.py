"""How an evaluation is to run.

Room: evaluation. The command line and training make one; it only checks itself.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neurolora.errors import ConfigError, explain


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
