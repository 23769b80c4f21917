"""The processes that cells run in: their share of the cores, their memory, and how they end.

Room: studies. Only the book starts them; nothing here changes a number.
"""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor

# glibc's malloc.h
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4


@contextlib.contextmanager
def workers(jobs: int) -> Iterator[ProcessPoolExecutor]:
    """Fresh processes that share the cores. On an error what waits is let go, and what runs is waited for."""
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(jobs, mp_context=context, initializer=_begin, initargs=(threads_for(jobs),))
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def threads_for(jobs: int) -> int:
    """How many threads each of so many processes may take."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // jobs)


def _begin(threads: int) -> None:
    """In a new worker: its share of the cores, its memory, and quiet libraries."""
    _end_with_parent()
    keep_freed_memory()
    import torch

    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    torch.set_num_threads(threads)
    quiet_libraries()


def keep_freed_memory() -> bool:
    """Have glibc keep what is freed, for the next step asks for as much again. False where it is not glibc.

    Else a step's larger tensors go back to the system each time, and it zeroes their pages anew.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # not in every C library
    wanted = {_M_MMAP_MAX: 0, _M_TRIM_THRESHOLD: 2**31 - 1, _M_TOP_PAD: 64 * 2**20}
    return mallopt is not None and all(mallopt(name, value) == 1 for name, value in wanted.items())


def _end_with_parent() -> None:
    """A killed command takes its workers along: one that went on would write where the next command works."""
    parent = multiprocessing.parent_process()

    def wait_and_end() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=wait_and_end, daemon=True).start()


def quiet_libraries() -> None:
    """No bars of loading weights, one for each of hundreds of models; no warnings that say nothing here."""
    import warnings

    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", message="The following rank_pattern keys")  # PEFT, on its own AdaLoRA
