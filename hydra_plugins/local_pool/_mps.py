"""NVIDIA's Multi-Process Service: processes that share a GPU run on it at the same time.

Without it the GPU takes turns between processes. With it a process that is killed in the middle of
its work on the GPU can leave the others' in an undefined state (NVIDIA's documentation of MPS,
"Client early termination"), and so it is used only where it is asked for. Untried on a GPU so far:
its tests have a stand-in for NVIDIA's tool.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

TOOL = "nvidia-cuda-mps-control"


def available() -> bool:
    """Whether this machine has it."""
    return shutil.which(TOOL) is not None


@contextlib.contextmanager
def mps() -> Iterator[dict[str, str]]:
    """A control daemon of our own while the context lasts.

    Yields:
        What the environment of the processes that use it must contain.

    Raises:
        RuntimeError: it doesn't start; its own words.
    """
    # Short: the path of a socket has no more than 107 bytes.
    with TemporaryDirectory(prefix="mps-") as folder:
        clients = {}
        for name in ("PIPE", "LOG"):
            directory = Path(folder, name.lower())
            directory.mkdir()
            clients[f"CUDA_MPS_{name}_DIRECTORY"] = str(directory)
        # With all devices: it numbers those it sees anew, and jobs go by the machine's numbers.
        env = {k: v for k, v in os.environ.items() if k != "CUDA_VISIBLE_DEVICES"} | clients
        _control(["-d"], "", env)
        try:
            yield clients
        finally:
            with contextlib.suppress(RuntimeError):
                _control([], "quit\n", env)


def _control(arguments: list[str], text: str, env: dict[str, str]) -> None:
    command = [TOOL, *arguments]
    try:
        done = subprocess.run(
            command, input=text, env=env, capture_output=True, text=True, timeout=60, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RuntimeError(f"NVIDIA's MPS doesn't answer: {error}") from None
    if done.returncode:
        said = " ".join((done.stderr + done.stdout).split())
        raise RuntimeError(f"NVIDIA's MPS doesn't start: {said or done.returncode}")
