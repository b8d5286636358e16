"""What this machine is, for engine names, cache keys and `doctor`."""

from __future__ import annotations

import os
import platform
from math import ceil, inf
from pathlib import Path, PurePosixPath

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


def usable_cpus() -> int:
    """How many processors this process may keep busy: those of its affinity (taskset, SLURM), or
    fewer where its control group is given less time than that (docker --cpus, Kubernetes).
    """
    if hasattr(os, "sched_getaffinity"):
        allowed = len(os.sched_getaffinity(0))
    else:
        allowed = os.cpu_count() or 1
    return max(1, ceil(min(allowed, _cgroup_cpus(Path("/")))))


def _cgroup_cpus(root: Path) -> float:
    """Processors' worth of time that Linux control groups leave this process, of both versions;
    infinite without a limit. A group is within those above it, and a container sees its own as the
    topmost."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return inf
    limits = [inf]
    for line in lines:
        _, controllers, name = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        mounts = ("unified", "") if not controllers else ("cpu", "cpu,cpuacct")
        group = PurePosixPath(name.lstrip("/"))
        for mount in mounts:
            for part in (group, *group.parents):
                limits.append(_quota(root / "sys/fs/cgroup" / mount / part))
    return min(limits)


def _quota(group: Path) -> float:
    """Quota by period of one group's folder; infinite where it has none."""
    for files in (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us")):
        try:
            quota, period = " ".join((group / name).read_text() for name in files).split()
        except (OSError, ValueError):
            continue
        if quota not in ("max", "-1") and int(period) > 0:
            return int(quota) / int(period)
    return inf


def fingerprint(devices: tuple[str, ...], precisions: tuple[str, ...]) -> str:
    """What a measurement made with these devices holds for: them, the system, its cores and what
    they compute with (virtual machines name very different processors alike)."""
    system = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cpus"
    cores = " ".join((system, *cpu_features()))
    return f"{cores}, {', '.join(devices)} ({', '.join(precisions)})"
