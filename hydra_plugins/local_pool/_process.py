"""A job's process."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping

from hydra_plugins.local_pool._job import Job


class JobProcess:
    """A job that runs, its output line by line.

    Args:
        slot: the device it sees; "" for none.
        env: its whole environment.
        on_line: called from another thread with the job and each line it prints.
    """

    def __init__(
        self,
        job: Job,
        slot: str,
        env: Mapping[str, str],
        on_line: Callable[[Job, str], None],
    ) -> None:
        self.job, self.slot = job, slot
        self.started = time.monotonic()
        self.at_start = job.progress()
        self.signals = 0  # how many it has been sent
        self.tail: deque[str] = deque(maxlen=50)
        # A session of its own: the terminal's Ctrl-C reaches the pool alone, which passes it on.
        # Standard input is a pipe that closes when this process is gone, however it goes.
        self._popen = subprocess.Popen(
            job.command(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=env,
            start_new_session=True,
            text=True,
            errors="replace",
        )
        self._on_line = on_line
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        assert self._popen.stdin is not None
        with contextlib.suppress(OSError):  # it ended at once: its exit code says so
            self._popen.stdin.write(job.handed())
            self._popen.stdin.flush()

    def _read(self) -> None:
        assert self._popen.stdout is not None
        with self._popen.stdout as output:
            for line in map(str.rstrip, output):
                if line:
                    self.tail.append(line)
                    self._on_line(self.job, line)

    def poll(self) -> int | None:
        """The exit code (-n for signal n), or None while it runs."""
        code = self._popen.poll()
        if code is not None:
            self._reader.join(1.0)  # a grandchild could hold the pipe open for longer
            assert self._popen.stdin is not None
            with contextlib.suppress(OSError):  # what it never read
                self._popen.stdin.close()
        return code

    def send(self, number: int) -> None:
        """A signal for the job and what it started."""
        try:
            os.killpg(self._popen.pid, number)
        except ProcessLookupError:
            return

    def cause(self, code: int) -> str:
        """Why it failed, in one line: its last word, or the signal that ended it."""
        if code < 0:
            name = signal.Signals(-code).name
            return f"ended by signal {-code} ({name})"
        errors = [line for line in self.tail if line.startswith("error: ")]
        last = errors[-1].removeprefix("error: ") if errors else "".join(list(self.tail)[-1:])
        return last or f"exit code {code}, without a word"
