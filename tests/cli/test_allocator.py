"""Commands bound how many pools the C library makes of memory."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

THREADS = """
import ctypes, threading
from pathgene_rt.cli.allocator import bound_arenas
import os
{call}
ready, end = threading.Barrier(33), threading.Event()
def work():
    bytes(1000)
    ctypes.CDLL(None).malloc(1000)
    ready.wait()
    end.wait()
for _ in range(32):
    threading.Thread(target=work, daemon=True).start()
ready.wait()
ctypes.CDLL(None).malloc_info(0, ctypes.c_void_p.in_dll(ctypes.CDLL(None), "stdout"))
ctypes.CDLL(None).fflush(None)
end.set()
print("cpus", len(os.sched_getaffinity(0)))
"""


def arenas(call: str, **environment: str) -> tuple[int, int]:
    """How many a process of 32 threads has, and of how many processors it knows."""
    done = subprocess.run(
        [sys.executable, "-c", THREADS.format(call=call)],
        capture_output=True,
        text=True,
        check=True,
        env={"PATH": "", **environment},
    )
    return done.stdout.count("<heap nr="), int(done.stdout.split("cpus")[1])


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="asks glibc")
def test_threads_share_as_many_pools_as_there_are_processors() -> None:
    found, cpus = arenas("assert bound_arenas()")
    assert found <= max(2, cpus) < arenas("pass")[0]
    assert arenas("assert not bound_arenas()", MALLOC_ARENA_MAX="1")[0] == 1
