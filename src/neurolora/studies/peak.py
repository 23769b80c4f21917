"""The most memory that a piece of work has taken, of this process.

Room: studies. On a GPU what was allocated there; else the resident memory, counted from the last reset where
the system can (Linux), so that one piece after another can be measured in one process.
"""

from __future__ import annotations

import contextlib
import re
import resource
from pathlib import Path

_CLEAR, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")


def reset_peak() -> None:
    """Start to count anew."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with contextlib.suppress(OSError):
        _CLEAR.write_text("5", encoding="ascii")  # the high-water mark of the resident set


def peak_bytes() -> int:
    """The most since the last reset; where that cannot be, since the process began."""
    import torch

    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    with contextlib.suppress(OSError):
        found = re.search(r"VmHWM:\s+(\d+) kB", _STATUS.read_text(encoding="ascii"))
        if found:
            return int(found[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
