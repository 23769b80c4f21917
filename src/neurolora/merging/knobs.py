"""The numbers that ways of merging take, as rows: name, default, range.

Room: merging. Data and one check; `methods.py` says which method takes which.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Knob:
    """A number that a method may take: its range, and whether each end belongs to it."""

    name: str
    about: str
    default: Any
    low: float = -math.inf
    high: float = math.inf
    low_belongs: bool = True
    whole: bool = False

    def problem(self, value: Any) -> str | None:
        """What is wrong with a value, in plain words; None if nothing."""
        if self.default is True or self.default is False:
            return None if isinstance(value, bool) else f"must be true or false, found {value!r}"
        kinds = int if self.whole else (int, float)
        if isinstance(value, bool) or not isinstance(value, kinds) or not math.isfinite(value):
            return f"must be a {'whole' if self.whole else 'finite'} number, found {value!r}"
        if value > self.high or value < self.low or (value == self.low and not self.low_belongs):
            return f"must be {self._range()}, found {value!r}"
        return None

    def _range(self) -> str:
        left = f"{'[' if self.low_belongs else '('}{self.low:g}"
        return f"at least {self.low:g}" if math.isinf(self.high) else f"in {left}, {self.high:g}]"


KNOBS = {
    knob.name: knob
    for knob in (
        Knob("weight", "factor of an adapter, one each", 1.0),
        Knob("density", "share of entries that stay, one for all or one each", 1.0, 0, 1, low_belongs=False),
        Knob("lambda", "factor of the merged update", 1.0),
        Knob("normalize", "divide by the sum of the weights", False),
        Knob("seed", "of the entries that are dropped", 0, 0, whole=True),
        Knob("t", "place between the first adapter (0) and the second (1)", 0.5, 0, 1),
    )
}
