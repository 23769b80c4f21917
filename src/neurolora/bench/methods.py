"""The methods that are measured, each a row; the peers come from PEFT itself.

Room: bench.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from neurolora.bench.shapes import RANK, TARGETS
from neurolora.core.kernels import Kernels
from neurolora.errors import ConfigError, explain

BASE, LORA = "frozen", "lora"


@dataclass(frozen=True)
class Method:
    """A method by its configuration; None is the frozen base. kernels: which path computes our updates."""

    name: str
    about: str
    config: Callable[[], Any] | None
    kernels: Kernels = "auto"


def _peft(name: str, **settings: Any) -> Callable[[], Any]:
    def make() -> Any:
        import peft

        return getattr(peft, name)(r=RANK, target_modules=list(TARGETS), **settings)

    return make


def _ours(name: str, **settings: Any) -> Callable[[], Any]:
    def make() -> Any:
        from neurolora import tuner

        common = {"r": RANK, "target_modules": list(TARGETS), "init_weights": False}
        return getattr(tuner, name)(**common, **settings)

    return make


METHODS = {
    row.name: row
    for row in (
        Method(BASE, "the base alone, gradient to its input", None),
        Method(LORA, "PEFT's LoRA, r 32", _peft("LoraConfig", lora_alpha=16, init_lora_weights=False)),
        Method("dora", "PEFT's DoRA", _peft("LoraConfig", lora_alpha=16, use_dora=True)),
        Method("vera", "PEFT's VeRA", _peft("VeraConfig")),
        Method("randlora", "PEFT's RandLoRA", _peft("RandLoraConfig")),
        Method("neurolora", "NeuroLoRA, a gate for each module", _ours("NeuroLoraConfig")),
        Method(
            "neurolora-input", "the same, q, k, v share W1", _ours("NeuroLoraConfig", gate_sharing="input")
        ),
        Method("neurolora-kind", "the same, a gate a kind", _ours("NeuroLoraConfig", gate_sharing="kind")),
        Method("flylora", "FlyLoRA", _ours("FlyLoraConfig")),
        Method("neurolora-eager", "NeuroLoRA, plain PyTorch", _ours("NeuroLoraConfig"), "reference"),
        Method("flylora-eager", "FlyLoRA, plain PyTorch", _ours("FlyLoraConfig"), "reference"),
    )
}


def choose(names: list[str] | None) -> list[Method]:
    """The rows of these names, base and LoRA first since all others are compared with them; None: all."""
    wanted = list(METHODS) if names is None else [BASE, LORA, *names]
    unknown = [name for name in wanted if name not in METHODS]
    if unknown:
        found, do = f"unknown: {', '.join(unknown)}", f"Choose among {', '.join(METHODS)}"
        raise ConfigError(explain("choosing methods to measure", found, do))
    return [METHODS[name] for name in dict.fromkeys(wanted)]


def adapted(base: nn.Module, method: Method, **changes: Any) -> nn.Module:
    """`base` with the method's adapter on it; `changes` go over the row's settings."""
    if method.config is None:
        return base
    from peft import get_peft_model

    config = method.config()
    for name, value in changes.items():
        setattr(config, name, value)
    model: nn.Module = get_peft_model(base, config)
    return model
