"""What this process may use: cores and memory, by affinity, scheduler and control group."""

from __future__ import annotations

import os
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")
#: Share of the memory limit that is planned with.
MEMORY_SHARE = 0.9


def _read(*names: str) -> list[str]:
    """Words of the first file that exists, else none."""
    for name in names:
        try:
            return (CGROUP / name).read_text().split()
        except OSError:
            continue
    return []


def usable_cores() -> int:
    """Cores by CPU affinity and control-group quota, at least 1."""
    cores = len(os.sched_getaffinity(0))
    limit = _read("cpu.max")
    if not limit:  # control groups of the first version
        limit = _read("cpu/cpu.cfs_quota_us") + _read("cpu/cpu.cfs_period_us")
    if len(limit) == 2 and limit[0].isdigit():
        cores = min(cores, int(limit[0]) // int(limit[1]))
    return max(cores, 1)


def usable_memory_gb() -> float:
    """Nine tenths of the memory of machine, control group or SLURM allocation, in GB."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    limits += [int(w) for w in _read("memory.max", "memory/memory.limit_in_bytes") if w.isdigit()]
    slurm = os.environ.get("SLURM_MEM_PER_NODE", "")
    if slurm.isascii() and slurm.isdigit() and int(slurm):  # 0: the whole node
        limits.append(int(slurm) * 2**20)
    return round(MEMORY_SHARE * min(limits) / 2**30, 2)
