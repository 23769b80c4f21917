"""One process at a time in a folder.

Room: the floor, above errors. Anybody may call it. The system lets go of the lock when its process ends,
however it ends, so there is never one to be removed by hand.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from neurolora.errors import OutputError, explain


@contextlib.contextmanager
def alone_in(folder: Path, doing: str) -> Iterator[None]:
    """Inside, no other process is in `folder`, which is made if need be; nothing is written into it.

    doing: what is done there, for messages. Where the system or the file system knows no locks, it is as
    without. Raises OutputError if another process is there, or if there can be no such folder.
    """
    asked = f"{doing} in {folder}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY)
    except OSError as error:
        do = "Choose another output_dir"
        raise OutputError(explain(asked, error.strerror or str(error), do)) from error
    try:
        if not _lock(handle):
            do = "Wait for it or stop it, or choose another output_dir"
            raise OutputError(explain(asked, "another process is doing so there", do))
        yield
    finally:
        os.close(handle)


def _lock(handle: int) -> bool:
    """Whether nobody else holds it."""
    try:
        import fcntl
    except ImportError:  # Windows
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return True
    return True
