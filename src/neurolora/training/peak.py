"""How much memory a piece of work has taken.

Room: training. On a GPU what was allocated there at most; else by how much the process has grown at most,
where the system can tell (Linux), so that one piece after another can be measured in one process.
"""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

_CLEAR, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")


class PeakMemory:
    """Counts from when it is made. `bytes` is None where nothing can be told."""

    def __init__(self) -> None:
        import torch

        self._on_gpu = torch.cuda.is_available()
        self._before = None if self._on_gpu else _resident("VmRSS")
        if self._on_gpu:
            torch.cuda.reset_peak_memory_stats()
        with contextlib.suppress(OSError):
            _CLEAR.write_text("5", encoding="ascii")  # the high-water mark of the resident set

    @property
    def bytes(self) -> int | None:
        """The most so far."""
        import torch

        if self._on_gpu:
            return int(torch.cuda.max_memory_allocated())
        most = _resident("VmHWM")
        return None if most is None or self._before is None else max(0, most - self._before)


def _resident(field: str) -> int | None:
    with contextlib.suppress(OSError):
        found = re.search(rf"{field}:\s+(\d+) kB", _STATUS.read_text(encoding="ascii"))
        return int(found[1]) * 1024 if found else None
    return None
