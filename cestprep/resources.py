"""What this process may use: cores, memory and the device that JAX computes on."""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")
#: Share of the memory limit that is planned with.
MEMORY_SHARE = 0.9
#: Environment variable by which JAX is told which platforms to start; the first is used.
PLATFORMS = "JAX_PLATFORMS"
PLATFORM_NAME = "JAX_PLATFORM_NAME"  # an older name that JAX still obeys

_PROBE = """
import json, sys, jax
errors = []
for backend in sys.argv[1:] or [None]:
    try:
        device = jax.devices(backend)[0]
    except Exception as exc:
        errors.append(" ".join(str(exc).split()) or type(exc).__name__)
    else:
        print(json.dumps([backend or "", device.platform, device.device_kind]))
        break
else:
    print(json.dumps(errors[0]))
"""
_PROBE_SECONDS = 300


@dataclass(frozen=True)
class Device:
    """A device that JAX computes on.

    Attributes
    ----------
    platform : str
        "cpu" or "gpu" (or another that JAX found by itself).
    kind : str
        Model, as JAX names it.
    platforms : str
        What `set_platforms` takes to have JAX use it; empty where JAX chose it by itself.
    """

    platform: str
    kind: str
    platforms: str = ""

    def __str__(self) -> str:
        return self.platform if self.kind == self.platform else f"{self.platform} ({self.kind})"


CPU = Device("cpu", "cpu", "cpu")


class NoDeviceError(Exception):
    """JAX cannot start the asked device; says why."""


def _read(*names: str) -> list[str]:
    """Words of the first file that exists, else none."""
    for name in names:
        try:
            return (CGROUP / name).read_text().split()
        except OSError:
            continue
    return []


def computing_cores() -> int:
    """Cores to compute on: what ``NPROC`` says, which XLA obeys too, else all usable ones."""
    asked = os.environ.get("NPROC", "")
    return int(asked) if asked.isdigit() and int(asked) else usable_cores()


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


def set_platforms(platforms: str) -> None:
    """Tell JAX which platforms to start, in this process and in those it starts later.

    Has no effect on a process in which JAX computed already.
    """
    os.environ[PLATFORMS] = platforms
    os.environ.pop(PLATFORM_NAME, None)
    if "jax" in sys.modules:  # it read the variable when it was imported
        import jax

        jax.config.update("jax_platforms", platforms)  # type: ignore[no-untyped-call]


def compile_quickly() -> None:
    """Let XLA optimise less, in processes started later, unless it was told what to do.

    On a CPU programs are ready in half the time, and run up to a third slower.
    """
    os.environ.setdefault(
        "XLA_FLAGS", "--xla_cpu_use_fusion_emitters=false --xla_backend_optimization_level=1"
    )


def share_gpu() -> None:
    """Let several processes use one GPU: by default JAX reserves most of its memory for each."""
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")


def chosen_device() -> Device:
    """Device that JAX chooses, given the environment.

    Raises
    ------
    NoDeviceError
        If the environment asks for a platform that JAX cannot start.
    """
    return _probe((), os.environ.get(PLATFORMS), os.environ.get(PLATFORM_NAME))


def find_gpu() -> Device:
    """The GPU that JAX sees, whatever the environment makes it choose.

    Raises
    ------
    NoDeviceError
        If there is none.
    """
    return _probe(("cuda", "rocm"), None, None)


def has_gpu_support() -> bool:
    """Whether a plugin of JAX for other devices than the CPU is installed."""
    return importlib.util.find_spec("jax_plugins") is not None


@functools.cache
def _probe(backends: tuple[str, ...], platforms: str | None, platform_name: str | None) -> Device:
    """First device of the first backend that starts; of the default one if none is named.

    In a process of its own: here it would hold memory of the GPU, keep workers out of one that is
    set to a single process, and print what drivers say.
    """
    wanted = {PLATFORMS: platforms, PLATFORM_NAME: platform_name}
    environment = {k: v for k, v in os.environ.items() if k not in wanted}
    environment |= {k: v for k, v in wanted.items() if v is not None}
    command = [sys.executable, "-P", "-c", _PROBE, *backends]
    try:
        found = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=_PROBE_SECONDS
        )
    except subprocess.TimeoutExpired:
        raise NoDeviceError(f"no answer in {_PROBE_SECONDS} s") from None
    lines = found.stdout.splitlines()
    answer = json.loads(lines[-1]) if lines else f"JAX ended with code {found.returncode}"
    if isinstance(answer, str):
        raise NoDeviceError(answer)
    backend, platform, kind = answer
    return Device(platform, kind, f"{backend},cpu" if backend else "")


def installed_program(name: str) -> str | None:
    """A program of this environment, activated or not, else of the path; None if there is none."""
    beside = Path(sys.executable).with_name(name)
    return str(beside) if beside.exists() else shutil.which(name)
