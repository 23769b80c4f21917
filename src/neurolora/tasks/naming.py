"""The nearest right name for a wrong one.

Room: tasks, its floor. Only this room calls it; it touches nothing.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(name: str, known: Iterable[str]) -> str:
    """`Did you mean 'x'?` with a trailing space, or nothing when no known name resembles `name`."""
    by_lower = {candidate.lower(): candidate for candidate in known}
    found = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.6)
    return f"Did you mean {by_lower[found[0]]!r}? " if found else ""


def listed(names: Iterable[str], limit: int = 12) -> str:
    """Names in quotes for a message: the first `limit` of them, and how many more there are."""
    all_names = list(names)
    shown = ", ".join(repr(name) for name in all_names[:limit])
    rest = len(all_names) - limit
    return f"{shown} and {rest} more" if rest > 0 else shown or "none"
