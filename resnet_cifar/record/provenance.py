"""The surroundings of a session: device, arithmetic, versions, commit and uncommitted changes."""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resnet_cifar.paths import checkout

if TYPE_CHECKING:  # it imports torch, and a report asks for the commit alone
    from resnet_cifar.compute.device import Compute

PACKAGES = ("torch", "torchvision", "numpy", "hydra-core", "omegaconf", "tensorboard")


def session(compute: Compute) -> dict[str, Any]:
    """Describe this process, for run.json; how fast the device multiplies is measured."""
    from resnet_cifar.compute import device

    return {
        "device": compute.name,
        "device_type": compute.device.type,
        "visible_devices": os.environ.get("CUDA_VISIBLE_DEVICES"),
        "precision": compute.precision,
        "precision_seconds": dict(compute.precision_seconds),
        "threads": compute.threads,
        "compile": compute.compile,
        "host": platform.node(),
        "pid": os.getpid(),
        "versions": versions(),
        "git": git_state(checkout()),
        "matmul_flops_per_second": round(device.matmul_rate(compute)),
    }


def versions() -> dict[str, str]:
    """Look up Python's and the packages' versions, without importing them."""
    numbers = {"python": platform.python_version()}
    # Of the project only where there is no commit, which says more.
    for package in (*PACKAGES, *(() if checkout() else ("resnet-cifar",))):
        with contextlib.suppress(PackageNotFoundError, KeyError):  # metadata may lack a version
            numbers[package] = version(package) or "unknown"
    return numbers


def git_state(directory: Path | None) -> dict[str, str | None]:
    """Ask git for the commit of `directory` and 16 hex digits for its uncommitted changes.

    None where there is none. An installation has no directory: it may lie in another repository.
    """

    def git(*arguments: str) -> bytes:
        if directory is None:
            return b""
        try:
            command = ["git", "-C", str(directory), *arguments]
            return subprocess.run(command, capture_output=True, check=True, timeout=10).stdout
        except (OSError, subprocess.SubprocessError):
            return b""

    commit = git("rev-parse", "HEAD").decode().strip() or None
    difference = git("diff", "HEAD", "--", ".")
    uncommitted = hashlib.sha256(difference).hexdigest()[:16] if difference else None
    return {"commit": commit, "uncommitted": uncommitted}
