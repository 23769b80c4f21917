"""How much memory a piece of work has taken.

Room: training. On a GPU what was allocated there at most; else by how much the process has grown at most,
where the system can tell (Linux), so that one piece after another can be measured in one process: what the
pieces before have freed is given back first. The same run measured three times in one process differed by a
sixth, so figures from a CPU are for orders of magnitude.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import re
from pathlib import Path

_CLEAR, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")


class PeakMemory:
    """Counts from when it is made. `bytes` is None where nothing can be told."""

    def __init__(self) -> None:
        import torch

        self._on_gpu = torch.cuda.is_available()
        _give_back_freed()
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


def _give_back_freed() -> None:
    """Memory that the process holds but no longer uses goes to the system, as far as its C library can."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError, TypeError):  # glibc's alone
        ctypes.CDLL(None).malloc_trim(0)


def _resident(field: str) -> int | None:
    with contextlib.suppress(OSError):
        found = re.search(rf"{field}:\s+(\d+) kB", _STATUS.read_text(encoding="ascii"))
        return int(found[1]) * 1024 if found else None
    return None
