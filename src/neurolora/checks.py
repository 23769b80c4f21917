"""Settings that are numbers, checked one by one; what a list names twice; what differs between two documents.

Room: the floor, above errors. Estimators call the checks, which by scikit-learn's manners check when they are
fitted; configs that stop at the door are pydantic's business.
"""

from __future__ import annotations

import math
import numbers
from typing import Any, TypeVar

from neurolora.errors import ConfigError, explain

T = TypeVar("T")


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


def twice(names: list[T]) -> list[T]:
    """What is there more than once, in the order in which it comes first."""
    return [name for name in dict.fromkeys(names) if names.count(name) > 1]


def changes(before: Any, now: Any, name: str) -> list[str]:
    """`strategies[1].settings.weight was 100.0, is 10.0`: each plain value by which two documents differ.

    Mappings are compared key by key, lists of one length place by place; others as they are.
    """
    if before == now:
        return []
    if isinstance(before, dict) and isinstance(now, dict):
        pairs = [(f"{name}.{key}", before.get(key), now.get(key)) for key in {**before, **now}]
    elif isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        pairs = [(f"{name}[{place}]", *pair) for place, pair in enumerate(zip(before, now, strict=True))]
    else:
        return [f"{name} was {before!r}, is {now!r}"]
    return [change for place, old, new in pairs for change in changes(old, new, place)]
