"""How much memory the C library keeps of what was given back."""

from __future__ import annotations

import ctypes
import os

_M_ARENA_MAX = -8  # of glibc's malloc.h


def bound_arenas() -> bool:
    """Let threads of this process take memory from as many pools of glibc as there are processors,
    two at least. Otherwise it has eight a processor, each with holes of its own: over 2,000 slides
    a process grew by 6 % with them, by 1 to 4 % with two (benchmarks/slide_soak.py). Call it
    before anything is imported that starts threads.

    False, and nothing changed, where ``MALLOC_ARENA_MAX`` says it already or the C library is
    another's.
    """
    if "MALLOC_ARENA_MAX" in os.environ or not hasattr(os, "confstr"):
        return False
    try:
        os.confstr("CS_GNU_LIBC_VERSION")
        mallopt = ctypes.CDLL(None).mallopt
    except (ValueError, OSError, AttributeError):  # no such name; not glibc
        return False
    return bool(mallopt(_M_ARENA_MAX, max(2, len(os.sched_getaffinity(0)))))
