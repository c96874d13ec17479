"""The surroundings of a session: device, arithmetic, versions, commit and uncommitted changes."""

from __future__ import annotations

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
    """Describe this process, for run.json."""
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
    }


def versions() -> dict[str, str]:
    """Look up Python's and the packages' versions, without importing them."""
    numbers = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            numbers[package] = version(package)
        except PackageNotFoundError:
            continue
    if checkout() is None:  # where a commit says more
        numbers["resnet-cifar"] = version("resnet-cifar")
    return numbers


def git_state(directory: Path | None) -> dict[str, str | None]:
    """Ask git for the commit of `directory` and 16 hex digits for its uncommitted changes.

    Both None outside a repository or without git; the second None in a clean tree.

    Args:
        directory: None of an installation, which may lie inside somebody else's repository.
    """
    if directory is None:
        return {"commit": None, "uncommitted": None}

    def git(*arguments: str) -> bytes | None:
        try:
            command = ["git", "-C", str(directory), *arguments]
            return subprocess.run(command, capture_output=True, check=True, timeout=10).stdout
        except (OSError, subprocess.SubprocessError):
            return None

    commit = git("rev-parse", "HEAD")
    difference = git("diff", "HEAD", "--", ".")
    return {
        "commit": commit.decode().strip() if commit else None,
        "uncommitted": hashlib.sha256(difference).hexdigest()[:16] if difference else None,
    }
