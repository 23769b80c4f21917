"""Fly-inspired, routed low-rank adapters: NeuroLoRA and FlyLoRA as a drop-in PEFT method."""

__version__ = "0.1.0"
