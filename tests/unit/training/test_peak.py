"""Memory of one piece of work after another."""

import sys

import pytest

from neurolora.training.peak import PeakMemory

BLOCK, MEGABYTE = 64 * 1024, 2**20


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not tell")
def test_what_was_freed_before_does_not_hide_what_is_taken_now():
    before = [bytearray(BLOCK) for _ in range(2000)]
    pin = bytearray(BLOCK)  # the heap cannot shrink below it by itself
    del before
    memory = PeakMemory()
    taken = [bytearray(b"1" * BLOCK) for _ in range(800)]
    assert memory.bytes is not None
    assert 40 * MEGABYTE < memory.bytes < 80 * MEGABYTE
    del taken, pin
