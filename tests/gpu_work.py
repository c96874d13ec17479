"""Made-up work for the processes of `benchmarks.gpu`: it imports little, so they start soon."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from typing import Any

from benchmarks import gpu


def made_up(
    connection: Any, place: str, overrides: Sequence[str], streams: int
) -> Iterator[dict[str, Any]]:
    """Work as an override says for the mode (`do.eager=hang`), beside a process of its own."""
    if not streams:
        yield {"card": "a card"}
        return
    mode = next(mode for mode, words in gpu.MODES.items() if (*overrides,)[-len(words) :] == words)
    what = dict(word.split("=") for word in overrides).get(f"do.{mode}")
    beside = subprocess.Popen(["sleep", "100"])
    ids = f"{os.getpid()} {beside.pid} {os.environ['CUDA_MPS_PIPE_DIRECTORY']}"
    yield {"first_epoch_seconds": [0.1] * streams, "notes": [ids]}
    if what == "hang":
        time.sleep(100)
    elif what == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    elif what == "raise":
        raise ValueError("out of\nmemory")
    end = connection.recv()
    left = end - time.monotonic()
    assert left < 1
    time.sleep(max(0.0, left))
    yield {"of_each": [100.0] * streams, "epoch_seconds": [[1.0]] * streams, "memory_bytes": [5e6]}
    if what == "hang at the end":
        time.sleep(100)
    yield {"validation_images_per_second": 1000.0}
    yield {"table": f"kernels of {mode}"}
    yield {}
