"""What is asked for: the parents, the method and its numbers, as plain values.

Room: merging. Made by `merge_adapters`, by `recipe.py` from a YAML file, and by the command; `methods.py`
says whether it makes sense.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from neurolora.adapter_file import known_as
from neurolora.errors import ConfigError, explain


@dataclass(frozen=True)
class Parent:
    """One adapter folder. weight, density: None where the method's default is meant."""

    path: str
    weight: float | None = None
    density: float | None = None


@dataclass(frozen=True)
class MergeRequest:
    """One merge; None stands for the default of the method's row.

    base_model: written into the merged adapter in place of the first parent's. dtype: float32, bfloat16 or
    float16 of what is merged; by default that of the first parent. gates: see `gates.py`.
    """

    parents: tuple[Parent, ...]
    method: str = "linear"
    lambda_: float | None = None
    normalize: bool | None = None
    seed: int | None = None
    t: float | None = None
    dtype: str | None = None
    base_model: str | None = None
    gates: str = "average"

    def to_recipe(self) -> dict[str, Any]:
        """The same in mergekit's layout, without what was left out; `load_recipe` reads it back."""
        models = [_model(parent) for parent in self.parents]
        numbers: dict[str, Any] = {
            "lambda": self.lambda_,
            "normalize": self.normalize,
            "seed": self.seed,
            "t": self.t,
        }
        numbers["gates"] = None if self.gates == "average" else self.gates
        values = {
            "merge_method": self.method,
            "base_model": self.base_model,
            "models": models,
            "parameters": _given(numbers) or None,
            "dtype": self.dtype,
        }
        return _given(values)


def _model(parent: Parent) -> dict[str, Any]:
    parameters = _given({"weight": parent.weight, "density": parent.density})
    return {"model": known_as(parent.path)} | ({"parameters": parameters} if parameters else {})


def _given(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def make_parents(
    paths: Sequence[str], weights: Sequence[float] | None, density: float | Sequence[float] | None
) -> tuple[Parent, ...]:
    """Paths with their weights, and their densities, one for all or one each. Raises ConfigError."""
    count = len(paths)
    densities: Sequence[float | None] = density if isinstance(density, Sequence) else [density] * count
    shares: Sequence[float | None] = [None] * count if weights is None else weights
    for name, values in (("weights", shares), ("densities", densities)):
        if len(values) != count:
            found = f"{len(values)} {name} for {count} adapters"
            raise ConfigError(explain("merging adapters", found, "Give one for each adapter"))
    return tuple(
        Parent(str(path), weight, own) for path, weight, own in zip(paths, shares, densities, strict=True)
    )
