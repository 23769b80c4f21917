"""What a routed adapter needs from any Trainer: one step of the load balancing after each optimizer step.

Room: training. Public: `NeuroLoraTrainer` has it built in; give it to TRL's or transformers' own trainer when
`load_balance_rate` is above 0. Without load balancing it does nothing.
"""

from __future__ import annotations

from typing import Any

from transformers import TrainerCallback

from neurolora.tuner import step_load_balance


class NeuroLoraCallback(TrainerCallback):
    """Moves the routing biases once for each optimizer step, whatever the number of micro-batches."""

    def on_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """The Trainer calls this when the optimizer has stepped."""
        if model is not None:
            step_load_balance(model)
