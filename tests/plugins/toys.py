"""Jobs that cost nothing, and what the tests of the pool share."""

from __future__ import annotations

import atexit
import json
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from omegaconf import OmegaConf

from hydra_plugins.local_pool import Job, Outcome
from hydra_plugins.local_pool._pool import Pool

# A job: writes when it ran and which device it saw.
RECORD = """
import json, os, sys, time
start = time.time()
time.sleep(float(sys.argv[2]))
with open(sys.argv[1], "w") as file:
    json.dump([os.environ.get("CUDA_VISIBLE_DEVICES"), start, time.time()], file)
"""
# One that is told to end, and does or doesn't.
STUBBORN = """
import os, signal, sys, time
def note(number, frame):
    open(sys.argv[1] + ".asked", "w").close()
    if sys.argv[2] == "polite":
        raise SystemExit(143)
signal.signal(signal.SIGTERM, note)
with open(sys.argv[1] + ".pid", "w") as file:
    file.write(str(os.getpid()))
open(sys.argv[1] + ".ready", "w").close()
while True:
    time.sleep(0.05)
"""


class Script(Job):
    """A python script with its arguments; done when the file it writes is there."""

    def __init__(self, path: Path, *arguments: str, script: str = RECORD) -> None:
        super().__init__(OmegaConf.create(), [])
        self.path, self._arguments, self.script = path, arguments, script

    @property
    def key(self) -> str:
        return str(self.path)

    @property
    def label(self) -> str:
        return self.path.name

    def command(self) -> list[str]:
        return [sys.executable, "-S", "-c", self.script, str(self.path), *self._arguments]

    def outcome(self) -> Outcome | None:
        return Outcome(1.0, "completed") if self.path.exists() else None


def make_pool(
    jobs: Sequence[Job], slots: Sequence[str], view: str = "plain", minutes: float = 0
) -> Pool:
    done = {job.key: outcome for job in jobs if (outcome := job.outcome())}
    deadline = time.monotonic() + 60 * minutes if minutes else None
    return Pool(list(jobs), done, slots, {}, view, deadline)


def wait_for(condition: Callable[[], object], what: str, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def send_signals(when: Callable[[], bool], *numbers: int) -> threading.Thread:
    """Send this process the signals once `when` holds, half a second apart."""

    def send() -> None:
        deadline = time.monotonic() + 20
        while not when() and time.monotonic() < deadline:
            time.sleep(0.02)
        for number in numbers:
            os.kill(os.getpid(), number)
            time.sleep(0.5)

    thread = threading.Thread(target=send)
    thread.start()
    return thread


class Forked(Script):
    """A job that can be forked; `work` is what it does there, its script what it does else."""

    entry = f"{__name__}:work"
    preload = ("decimal",)

    def __init__(self, path: Path, what: str, script: str = RECORD) -> None:
        super().__init__(path, "0", script=script)
        self.what = what

    def handed(self) -> str:
        return f"{self.path} {self.what}\n"


def work() -> int:
    """Write what a forked job finds; end, or wait, as it is told."""
    path, what = sys.stdin.readline().split()
    atexit.register(Path(path + ".left").touch)
    print("a word", flush=True)
    seen = {
        "group": os.getpgrp() == os.getpid(),
        "arguments": sys.argv[1:],
        "environment": dict(os.environ),
        "imported": "decimal" in sys.modules,
        "parent": os.getppid(),
        "folder": os.getcwd(),
        "path": sys.path,
        "interrupts": signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, []),
        "main": sys.modules["__main__"].__name__,
        "start method": multiprocessing.get_start_method(allow_none=True),
    }
    Path(path + ".part").write_text(json.dumps(seen))
    os.rename(path + ".part", path + ".seen")
    if what == "stays":
        sys.stdin.read()  # until the pool is gone
        return 3
    if what == "thread":
        threading.Timer(0.3, Path(path + ".late").touch).start()
        ThreadPoolExecutor().submit(int)  # never shut down
    if what == "daemon":
        threading.Thread(target=threading.Event().wait, daemon=True).start()
    if what == "dies":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "refuses":
        raise SystemExit("error: no more paper")
    if what == "raises":
        raise ValueError("paper jam")
    if what == "255":
        return 255
    if what == "told":
        sys.stdin.read()
    while what == "waits" and not Path(path).with_name("go").exists():
        time.sleep(0.02)
    Path(path).write_text("")
    return 0
