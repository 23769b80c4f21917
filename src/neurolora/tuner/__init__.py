"""NeuroLoRA and FlyLoRA as a PEFT method. Importing this room registers the method with PEFT."""

from neurolora.tuner.auxiliary import adapter_layers, get_auxiliary_loss, step_load_balance
from neurolora.tuner.config import FlyLoraConfig, MoleConfig, NeuroLoraConfig
from neurolora.tuner.fingerprint import base_difference, base_fingerprint, require_same_base
from neurolora.tuner.model import NeuroLoraModel
from neurolora.tuner.registration import register
from neurolora.tuner.silence import listening, take_silence_loss
from neurolora.tuner.statistics import RoutingStatistics, routing_statistics

register(NeuroLoraConfig, NeuroLoraModel)

__all__ = [
    "FlyLoraConfig",
    "MoleConfig",
    "NeuroLoraConfig",
    "NeuroLoraModel",
    "RoutingStatistics",
    "adapter_layers",
    "base_difference",
    "base_fingerprint",
    "get_auxiliary_loss",
    "listening",
    "require_same_base",
    "routing_statistics",
    "step_load_balance",
    "take_silence_loss",
]
