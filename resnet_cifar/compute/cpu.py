"""The CPU runs are computed on, and what was measured of it: kept in a file beside the runs.

Imports no torch. A measurement that is missing, damaged or can't be kept is made again: the file
only has what any run of this directory would find, so that all of them go by the same.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from resnet_cifar.files import Lock, read_regular, write_json

MEASURED = ".measured.json"  # in output_root
LOCK = ".measured.lock"  # beside it, held while something is measured
PATIENCE = 100  # looks, ten a second, at what another process may be measuring; then for oneself
CONTROL_GROUP = Path("/sys/fs/cgroup")  # this process's, in a container (version 2)
Figures = dict[str, float]


def available_cpus() -> int:
    """CPUs this process may run on: never more than a container or a launcher gave it."""
    here = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with contextlib.suppress(OSError, ValueError):  # "max 100000" where there is no limit
        quota, period = (CONTROL_GROUP / "cpu.max").read_text().split()
        here = min(here, max(1, math.ceil(int(quota) / int(period))))
    return here


def told_threads() -> int | None:
    """What the environment tells OpenMP, whether it has been loaded since or not; None: nothing.

    It reads that once, and a sweep's runs are forked from a process that has loaded it.
    """
    told = os.environ.get("OMP_NUM_THREADS", "")
    return int(told) if told.isdigit() and int(told) > 0 else None


def cpu_name() -> str:
    """As the system calls it."""
    return _cpu_info("model name") or "CPU"


def has_bf16() -> bool:
    """Whether the CPU has instructions for bfloat16, or doesn't say what it has."""
    flags = _cpu_info("flags") or _cpu_info("Features")  # x86, ARM
    return not flags or "bf16" in flags


def _cpu_info(key: str) -> str:
    with contextlib.suppress(OSError), open("/proc/cpuinfo") as file:
        for line in file:
            if line.startswith(key):
                return line.partition(":")[2].strip()
    return ""


def available_memory() -> float:
    """Bytes that new processes may use; infinite where the system doesn't say."""
    limits = [math.inf]
    with contextlib.suppress(OSError, ValueError), open("/proc/meminfo") as file:
        limits += [
            1024.0 * int(line.split()[1]) for line in file if line.startswith("MemAvailable")
        ]
    with contextlib.suppress(OSError, ValueError):
        limits.append(float((CONTROL_GROUP / "memory.max").read_text()))
        limits[-1] -= float((CONTROL_GROUP / "memory.current").read_text())
    return min(limits)


def has_no_gpu() -> bool:
    """Whether torch would surely find none: no driver's device is there (Linux)."""
    drivers = ("nvidiactl", "kfd", "dxg")
    return sys.platform == "linux" and not any(Path("/dev", name).exists() for name in drivers)


def is_ours(name: str) -> bool:
    """Whether a file of this name in output_root is what a killed process was writing here."""
    return re.fullmatch(rf"\.{re.escape(MEASURED)}\..+\.\d+\.tmp", name) is not None


def measured(
    root: Path | None, key: Mapping[str, Any], measure: Callable[[], Figures], keep: bool = True
) -> Figures:
    """The figures kept under `key` beside the runs of `root`, or those measured now.

    Args:
        key: everything they depend on, as JSON has it.
        keep: write what was measured; else nothing is written.
    """
    if root is None or not keep:
        return (None if root is None else kept(root, key)) or measure()
    if (found := kept(root, key)) is not None:
        return found
    found = None
    with contextlib.suppress(OSError, _TooLong), Lock(root / LOCK, poll=_Patience()):
        if (found := kept(root, key)) is None:
            found = measure()
            write_json(root / MEASURED, [*_entries(root), {**key, "figures": found}])
    return found or measure()


class _TooLong(Exception):
    pass


class _Patience:
    def __init__(self) -> None:
        self.left = PATIENCE

    def __call__(self) -> None:
        self.left -= 1
        if not self.left:
            raise _TooLong


def kept(root: Path, key: Mapping[str, Any]) -> Figures | None:
    """The figures kept under `key` beside the runs of `root`."""
    for entry in _entries(root):
        if {k: v for k, v in entry.items() if k != "figures"} == key:
            return dict(entry["figures"])
    return None


def _entries(root: Path) -> list[dict[str, Any]]:
    """What the file holds, as far as it is sound."""
    try:
        entries = json.loads(read_regular(root / MEASURED))
    except (OSError, ValueError, RecursionError):
        return []
    return [entry for entry in entries if _is_sound(entry)] if isinstance(entries, list) else []


def _is_sound(entry: Any) -> bool:
    figures = entry.get("figures") if isinstance(entry, dict) else None
    return isinstance(figures, dict) and all(
        type(value) in (int, float) and math.isfinite(value) and value >= 0
        for value in figures.values()
    )
