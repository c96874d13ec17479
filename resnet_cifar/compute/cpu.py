"""The CPU and the memory that this process may use. Imports no torch."""

import contextlib
import math
import os
import re
import sys
from pathlib import Path

CONTROL_GROUP = Path("/sys/fs/cgroup")  # this process's, in a container (version 2)
TOPOLOGY = Path("/sys/devices/system/cpu")


def available_cpus() -> int:
    """The CPUs this process may run on: never more than a container or a launcher gave it."""
    here = len(_affinity())
    with contextlib.suppress(OSError, ValueError):  # "max 100000" where there is no limit
        quota, period = (CONTROL_GROUP / "cpu.max").read_text().split()
        here = min(here, max(1, math.ceil(int(quota) / int(period))))
    return here


def available_cores() -> int:
    """The cores that a sweep shares out: `available_cpus`, but one of each core, and OMP's limit.

    Two CPUs of one core (hyper-threads) share its arithmetic units, which training keeps busy.
    """
    siblings = {cpu: TOPOLOGY / f"cpu{cpu}/topology/thread_siblings_list" for cpu in _affinity()}
    cores = {path.read_text() if path.exists() else str(cpu) for cpu, path in siblings.items()}
    return min(len(cores), available_cpus(), omp_num_threads() or len(cores))


def _affinity() -> set[int]:
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def omp_num_threads() -> int | None:
    """OMP_NUM_THREADS as the environment has it now; None if it says nothing."""
    # OpenMP reads it once, and a sweep's runs are forked from a process that has loaded it.
    told = os.environ.get("OMP_NUM_THREADS", "")
    return int(told) if re.fullmatch("0*[1-9][0-9]{0,8}", told) else None


def cpu_name() -> str:
    """The CPU's name as the system has it."""
    return _cpu_info("model name") or "CPU"


def has_bf16() -> bool:
    """True if the CPU has instructions for bfloat16, or doesn't say what it has."""
    flags = _cpu_info("flags", "Features")  # x86, ARM
    return not flags or "bf16" in flags


def _cpu_info(*keys: str) -> str:
    with contextlib.suppress(OSError), open("/proc/cpuinfo") as file:
        return next((line.partition(":")[2].strip() for line in file if line.startswith(keys)), "")
    return ""


def available_memory() -> float | None:
    """Bytes that new processes may use; None where the system doesn't say."""
    limits = []
    with contextlib.suppress(OSError, ValueError), open("/proc/meminfo") as file:
        lines = (line.split() for line in file if line.startswith("MemAvailable"))
        limits += [1024.0 * int(kilobytes) for _, kilobytes, _ in lines]
    with contextlib.suppress(OSError, ValueError):
        most = float((CONTROL_GROUP / "memory.max").read_text())
        limits.append(most - float((CONTROL_GROUP / "memory.current").read_text()))
    return min(limits, default=None)


def has_no_gpu() -> bool:
    """True if torch would surely find none: no driver's device is there (Linux)."""
    drivers = ("nvidiactl", "kfd", "dxg")
    return sys.platform == "linux" and not any(Path("/dev", name).exists() for name in drivers)
