"""What the estimators of this room are told, checked when they are fitted.

Room: fly. scikit-learn wants constructors that keep what they are given, so checks come with `fit`.
"""

from __future__ import annotations

import math
import numbers
from typing import Any, NamedTuple

from neurolora.checks import is_number, whole
from neurolora.errors import ConfigError, explain

#: The published setting, 300 of a ViT-B/16's 768 features, as a fraction that fits any backbone.
FAN_IN, CODING_LEVEL, N_COMPONENTS = 0.39, 0.3, 10_000


class Expansion(NamedTuple):
    """Sizes in numbers: Kenyon cells, inputs of each, winners of a sample, rows of a block."""

    cells: int
    fan_in: int
    keep: int
    block: int


def resolve_expansion(estimator: Any, n_features: int | None) -> Expansion:
    """The estimator's settings for this many features. Raises ConfigError (a ValueError).

    n_features None: not known yet; all is checked that can be, and `fan_in` of the result says nothing.
    """
    name = type(estimator).__name__
    cells = whole(estimator.n_components, f"{name}.n_components", 1)
    return Expansion(
        cells=cells,
        fan_in=_share(name, "fan_in", estimator.fan_in, n_features, "features"),
        keep=_share(name, "coding_level", estimator.coding_level, cells, "components"),
        block=whole(estimator.block_size, f"{name}.block_size", 1),
    )


def _share(owner: str, name: str, value: Any, total: int | None, of: str) -> int:
    """A count, or the count that a fraction of `total` means (at least one)."""
    most = math.inf if total is None else total
    if is_number(value):
        if isinstance(value, numbers.Integral) and 1 <= int(value) <= most:
            return int(value)
        if not isinstance(value, numbers.Integral) and 0 < value <= 1:
            return max(1, round(float(value) * (total or 1)))
    found = f"there are {total} {of}" if total is not None else f"it is no share of the {of}"
    do = f"Give a fraction in (0, 1] or a whole number from 1 to {total or 'their number'}"
    raise ConfigError(explain(f"{owner}({name}={value!r})", found, do))
