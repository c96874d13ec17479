"""Turn SIGINT, SIGTERM and SIGHUP into a flag that the training loop reads after every step.

Windows has no SIGHUP and no SIGUSR2; there the others do.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading
from typing import Any, Self

from resnet_cifar.errors import Interrupted

# A scheduler's warning that the job will be ended: where somebody handles it (submitit does, and
# requeues the job), that has to wait for the checkpoint.
WARNING: int | None = getattr(signal, "SIGUSR2", None)
HANGUP: int | None = getattr(signal, "SIGHUP", None)
# Set by a launcher that keeps this process's standard input open for as long as it lives.
WATCH_PARENT = "RESNET_CIFAR_WATCH_PARENT"


class Interrupt:
    """Remembers the first of these signals in `signal`, while entered, in place of raising it.

    The second one acts as usual, so that a person who presses Ctrl-C twice is not kept waiting.
    A WARNING counts as one of them if it has a handler, which gets it when the run has ended; also
    when SLURM's SIGTERM came first, as it does where a preempted job is given some time.
    Outside the main thread, where Python allows no handlers, it does nothing. A failure after a
    signal is an interruption: a compiler's processes get it too, and fail.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._warned = False
        self._old: dict[int, Any] = {}

    def __enter__(self) -> Self:
        numbers: list[int] = [signal.SIGINT, signal.SIGTERM]
        # Under nohup, the end of the terminal is not the end of the run.
        if HANGUP is not None and signal.getsignal(HANGUP) != signal.SIG_IGN:
            numbers.append(HANGUP)
        if WARNING is not None and callable(signal.getsignal(WARNING)):
            numbers.append(WARNING)
        if threading.current_thread() is threading.main_thread():
            self._old = {number: signal.signal(number, self._remember) for number in numbers}
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)
        if error is None or not (isinstance(error, Interrupted) or self.came()):
            return
        if WARNING is not None and WARNING in self._old and (self._warned or preempted()):
            signal.raise_signal(WARNING)
        if not isinstance(error, Interrupted):
            raise Interrupted(self.signal or signal.SIGINT) from error

    def came(self) -> bool:
        """Return True if a signal has come."""
        return self.signal is not None

    def check(self) -> None:
        """Raise Interrupted if a signal has come."""
        if self.signal is not None:
            raise Interrupted(self.signal)

    def _remember(self, number: int, frame: object) -> None:
        self.signal = self.signal or number
        if number == WARNING:
            self._warned = True
            return
        for other, handler in self._old.items():
            if other != WARNING:
                signal.signal(other, handler)


def preempted() -> bool:
    """True if SLURM still lists the job as running: its SIGTERM announced a preemption.

    A job that ends itself in the time it was given is not requeued by SLURM. One that was cancelled
    or is being requeued is no longer RUNNING, and left alone.
    """
    if job := os.environ.get("SLURM_JOB_ID"):
        command = ["squeue", "--noheader", "--format=%T", f"--jobs={job}"]
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            answer = subprocess.run(command, capture_output=True, timeout=30, check=False)
            return answer.stdout.strip() == b"RUNNING"
    return False


def stop_with_parent() -> None:
    """Send this process SIGTERM when the launcher that started it is gone, however it went."""
    if os.environ.pop(WATCH_PARENT, None) is None:
        return

    def watch() -> None:
        while os.read(sys.stdin.fileno(), 1):
            pass
        if os.name == "nt":  # where os.kill ends a process without asking its handlers
            signal.raise_signal(signal.SIGTERM)
        else:
            os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()
