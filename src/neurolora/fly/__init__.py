"""The Fly Model and Fly-CL: continual learning on frozen features, as scikit-learn estimators.

Room: fly. Knows arrays, and backbones for features; imports nothing of adapters. Each name below is loaded
when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from neurolora.lazy import lazy_attributes

if TYPE_CHECKING:
    from neurolora.fly.classifier import FlyClassifier
    from neurolora.fly.projection import FlyProjection

# Public name -> the file of this room that holds it.
_HOMES = {"FlyClassifier": "classifier", "FlyProjection": "projection"}

__all__ = ["FlyClassifier", "FlyProjection"]
__getattr__ = lazy_attributes(__name__, _HOMES)
