"""Fly-inspired, routed low-rank adapters: NeuroLoRA and FlyLoRA as a drop-in PEFT method.

`import neurolora` makes PEFT know the method; `from neurolora import NeuroLoraConfig` is all that a training
script needs. Nothing heavy is imported until it is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from neurolora.autoregister import register_with_peft
from neurolora.lazy import lazy_attributes
from neurolora.version import __version__

if TYPE_CHECKING:
    from neurolora.training import NeuroLoraCallback, NeuroLoraTrainer, create_optimizer_groups
    from neurolora.tuner import (
        FlyLoraConfig,
        MoleConfig,
        NeuroLoraConfig,
        NeuroLoraModel,
        get_auxiliary_loss,
        routing_statistics,
        step_load_balance,
    )

# Public name -> the room it lives in.
_HOMES = {
    "FlyLoraConfig": "neurolora.tuner",
    "MoleConfig": "neurolora.tuner",
    "NeuroLoraConfig": "neurolora.tuner",
    "NeuroLoraModel": "neurolora.tuner",
    "get_auxiliary_loss": "neurolora.tuner",
    "routing_statistics": "neurolora.tuner",
    "step_load_balance": "neurolora.tuner",
    "NeuroLoraCallback": "neurolora.training",
    "NeuroLoraTrainer": "neurolora.training",
    "create_optimizer_groups": "neurolora.training",
}

__all__ = [
    "FlyLoraConfig",
    "MoleConfig",
    "NeuroLoraCallback",
    "NeuroLoraConfig",
    "NeuroLoraModel",
    "NeuroLoraTrainer",
    "__version__",
    "create_optimizer_groups",
    "get_auxiliary_loss",
    "routing_statistics",
    "step_load_balance",
]


__getattr__ = lazy_attributes(__name__, _HOMES)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


register_with_peft()
