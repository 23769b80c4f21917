"""The processes of studies: how they end, and that they keep their memory."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from typing import Any

import pytest

from neurolora.errors import DataError
from neurolora.studies.workers import workers


def test_after_an_error_those_that_run_are_waited_for() -> None:
    """Nobody works on in the folder when the lock is let go."""
    started: list[Any] = []

    def fail() -> None:
        with workers(2) as pool:
            started.append(pool.submit(time.sleep, 3))
            while not started[0].running():
                time.sleep(0.05)
            raise DataError("one")

    with pytest.raises(DataError, match="one"):
        fail()
    assert started[0].done()


def test_a_killed_command_takes_its_workers_along() -> None:
    """One that went on would write into the cells of the command that is given next."""
    script = (
        "import os, time\n"
        "from neurolora.studies.workers import workers\n"
        "with workers(1) as pool:\n"
        "    print(pool.submit(os.getpid).result(), flush=True)\n"
        "    pool.submit(time.sleep, 300).result()\n"
    )
    _ends_with_its_command(script)


def test_a_killed_command_takes_its_launched_runs_along() -> None:
    """They are children of a worker's, or of the command's own."""
    sleeper = "import os, time; print(os.getpid(), flush=True); time.sleep(300)"
    script = (
        "import subprocess, sys\n"
        "from neurolora.studies.work import _WITH_PARENT\n"
        f"subprocess.run([sys.executable, '-c', _WITH_PARENT, sys.executable, '-c', {sleeper!r}])\n"
    )
    _ends_with_its_command(script)


def _ends_with_its_command(script: str) -> None:
    """Kill a script that has printed its child's number; TimeoutExpired where the child does not end."""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as command:
        assert command.stdout is not None
        child = int(command.stdout.readline())
        command.kill()
        try:
            command.communicate(timeout=20)  # the child holds the other end while it lives
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's malloc")
def test_a_worker_keeps_the_memory_that_it_freed() -> None:
    """Counted in pages that the system has to give, as a time would say little.

    20 tensors of 64 MB, one after another, are 330,000 pages where each is given back, or 10,000 faults
    where the system gives larger pages; none where they are kept, once the first has come.
    """
    script = (
        "import resource, torch\n"
        "from neurolora.studies import workers\n"
        "workers._begin(1)\n"
        "pages = []\n"
        "for _ in range(25):\n"
        "    torch.ones(2**24)\n"
        "    pages.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)\n"
        "print(pages[-1] - pages[4])\n"
    )
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert int(told) < 1000
