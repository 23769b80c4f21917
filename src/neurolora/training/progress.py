"""A progress bar on stderr, so that stdout stays free for results.

Room: training; used by `run`.
"""

from __future__ import annotations

import sys
from typing import Any

from tqdm.auto import tqdm
from transformers import TrainerCallback

_SHOWN = {"loss": "loss", "orthogonality_loss": "orth", "eval_loss": "eval"}


class ProgressBar(TrainerCallback):
    """Steps done, and the newest task loss, orthogonality loss and validation loss."""

    def __init__(self) -> None:
        self.bar: Any = None
        self.shown: dict[str, str] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Open the bar where the run (or its checkpoint) starts."""
        if state.is_world_process_zero:
            self.bar = tqdm(
                total=state.max_steps,
                initial=state.global_step,
                desc="training",
                file=sys.stderr,
                unit="step",
            )

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """One optimizer step further."""
        if self.bar is not None:
            self.bar.update(state.global_step - self.bar.n)

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any
    ) -> None:
        """Show the newest losses."""
        if self.bar is not None and logs:
            self.shown |= {
                short: f"{logs[name]:.3f}"
                for name, short in _SHOWN.items()
                if isinstance(logs.get(name), float)
            }
            self.bar.set_postfix(self.shown, refresh=False)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Close the bar."""
        if self.bar is not None:
            self.bar.close()
            self.bar = None
