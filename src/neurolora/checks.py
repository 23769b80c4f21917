"""Settings that are numbers, checked one by one.

Room: the floor, above errors. Estimators call it, which by scikit-learn's manners check when they are fitted;
configs that stop at the door are pydantic's business.
"""

from __future__ import annotations

import math
import numbers
from typing import Any

from neurolora.errors import ConfigError, explain


def whole(value: Any, name: str, least: int) -> int:
    """A whole number of at least `least`; True and False are none. Raises `ConfigError`."""
    if not is_number(value) or not isinstance(value, numbers.Integral) or int(value) < least:
        raise ConfigError(explain(name, f"it is {value!r}", f"Give a whole number, at least {least}"))
    return int(value)


def positive(value: Any, name: str, *, zero: bool = False) -> float:
    """A finite number above 0, or 0 where `zero` allows it. Raises `ConfigError`."""
    if is_number(value) and math.isfinite(value) and (value > 0 or (zero and value == 0)):
        return float(value)
    do = "Give a finite number, 0 or more" if zero else "Give a finite number above 0"
    raise ConfigError(explain(name, f"it is {value!r}", do))


def is_number(value: Any) -> bool:
    """A real number of any library; True and False are none."""
    return not isinstance(value, bool) and isinstance(value, numbers.Real)  # numpy's bool is no Real
