"""What this machine is, for engine names, cache keys and `doctor`."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import numpy as np


def cpu_name() -> str:
    """The processor's name for people, e.g. "AMD EPYC 9454"."""
    try:
        text = Path("/proc/cpuinfo").read_text(errors="replace")  # Linux; absent elsewhere
    except OSError:
        text = ""
    for line in text.splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def cpu_features() -> tuple[str, ...]:
    """Instruction sets beyond the processor's baseline that numpy found, e.g. AVX512_SKX."""
    extensions = np.show_config(mode="dicts")["SIMD Extensions"]
    return tuple(extensions.get("found", ()))


def fingerprint(devices: tuple[str, ...], precisions: tuple[str, ...]) -> str:
    """What a measurement made with these devices holds for: them, the system, its cores and what
    they compute with (virtual machines name very different processors alike)."""
    system = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cpus"
    cores = " ".join((system, *cpu_features()))
    return f"{cores}, {', '.join(devices)} ({', '.join(precisions)})"
