"""Training: configs, `NeuroLoraTrainer`, parameter groups, runs that resume to the same bits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from neurolora.lazy import lazy_attributes

if TYPE_CHECKING:
    from neurolora.training.callback import NeuroLoraCallback
    from neurolora.training.config import TrainingConfig, load_config
    from neurolora.training.optim import create_optimizer_groups
    from neurolora.training.plan import make_plan
    from neurolora.training.run import RunHooks, RunResult, run_training
    from neurolora.training.trainer import NeuroLoraTrainer

_HOMES = {
    "NeuroLoraCallback": "callback",
    "NeuroLoraTrainer": "trainer",
    "RunHooks": "run",
    "RunResult": "run",
    "TrainingConfig": "config",
    "create_optimizer_groups": "optim",
    "load_config": "config",
    "make_plan": "plan",
    "run_training": "run",
}

__all__ = [
    "NeuroLoraCallback",
    "NeuroLoraTrainer",
    "RunHooks",
    "RunResult",
    "TrainingConfig",
    "create_optimizer_groups",
    "load_config",
    "make_plan",
    "run_training",
]

__getattr__ = lazy_attributes(__name__, _HOMES)
