"""What PEFT's AdaLoRA needs from a Trainer: the length of the run, and a step of its rank allocator.

Room: training; used by `run`. PEFT leaves both to the training loop. Source: arXiv 2303.10512.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from neurolora.errors import ConfigError, explain
from neurolora.training.adapter_section import UNKNOWN_STEPS

#: The schedule where the config has none: ranks are let go between these shares of the run.
FIRST, LAST, ALLOCATIONS = 0.1, 0.6, 50


class AdaLoraCallback(TrainerCallback):
    """Gives each AdaLoRA adapter the number of steps, and moves ranks after each optimizer step.

    PEFT adds the regulariser to the loss of every micro-batch, and of every process; so that it counts once
    in an optimizer step, as in the paper, its weight is divided while training lasts.
    """

    def __init__(self) -> None:
        self._weights: dict[str, float] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """Fill in what follows from the length of the run."""
        processes = args.world_size if args.average_tokens_across_devices else 1
        for name, config in model.peft_config.items():
            fit_schedule(config, state.max_steps)
            self._weights[name] = config.orth_reg_weight
            config.orth_reg_weight /= args.gradient_accumulation_steps * processes

    def on_train_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """Put the weight back, which is saved with the adapter."""
        for name, config in model.peft_config.items():
            config.orth_reg_weight = self._weights[name]

    def on_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """The Trainer calls this before the gradients are cleared, which the allocator reads."""
        model.base_model.update_and_allocate(state.global_step + 1)


def fit_schedule(config: Any, steps: int) -> None:
    """total_step, and where none of them was given: tinit, tfinal, deltaT as shares of it.

    Raises ConfigError for a schedule that leaves no step to let ranks go.
    """
    if config.total_step == UNKNOWN_STEPS:
        config.total_step = steps
    if (config.tinit, config.tfinal, config.deltaT) == (0, 0, 1):
        config.tinit, config.tfinal = int(FIRST * steps), steps - int(LAST * steps)
        config.deltaT = max(1, steps // ALLOCATIONS)
    if config.tinit + 2 > config.total_step - config.tfinal:  # one step to weigh ranks by, one to choose
        found = f"total_step {config.total_step}, tinit {config.tinit}, tfinal {config.tfinal}"
        do = "Choose tinit + tfinal below total_step, or train for more steps"
        raise ConfigError(explain("the schedule of AdaLoRA", found, do))


def refuse_to_go_on(checkpoint: Path) -> None:
    """Raises ConfigError: PEFT keeps neither the allocator's state nor the masked ranks in a checkpoint."""
    found = "PEFT does not save the state of AdaLoRA's rank allocator, so the run would not be the same"
    raise ConfigError(explain(f"going on from {checkpoint}", found, "Start again with --overwrite"))
