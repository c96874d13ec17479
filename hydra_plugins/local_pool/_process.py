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
from hydra_plugins.local_pool._nursery import Nursery, NurseryChild


class JobProcess:
    """A job that runs, its output line by line.

    Args:
        slot: the device it sees; "" for none.
        env: added to this process's, all but the device.
        nursery: where it is forked if that can be; else its command is started.
        on_line: called from another thread with the job and each line it prints.
    """

    def __init__(
        self,
        job: Job,
        slot: str,
        env: Mapping[str, str],
        nursery: Nursery | None,
        on_line: Callable[[Job, str], None],
    ) -> None:
        self.job, self.slot = job, slot
        self.started = time.monotonic()
        self.at_start = job.progress()
        self.tail: deque[str] = deque(maxlen=50)
        self.signals = 0  # how many it has been sent
        self.stopped = ""  # why it was told to end before the others
        self._unsent: list[int] = []
        # Standard input is a pipe that closes when this process is gone, however it goes.
        stdin, ours = os.pipe()
        output, theirs = os.pipe()
        added = {**env, **({"CUDA_VISIBLE_DEVICES": slot} if slot else {})}
        try:
            child = nursery.start(job.label, added, stdin, theirs) if nursery else None
            # A session of its own: the terminal's Ctrl-C is the pool's, which passes it on.
            self._child: subprocess.Popen[bytes] | NurseryChild = child or subprocess.Popen(
                job.command(),
                stdin=stdin,
                stdout=theirs,
                stderr=theirs,
                env={**os.environ, **added},
                start_new_session=True,
            )
        finally:
            os.close(stdin)
            os.close(theirs)
        self._stdin = open(ours, "w", encoding="utf-8")  # noqa: SIM115 (closed by poll)
        self._output = open(output, encoding="utf-8", errors="replace")  # noqa: SIM115 (by _read)
        self._on_line = on_line
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        with contextlib.suppress(OSError):  # it ended at once: its exit code says so
            self._stdin.write(job.handed())
            self._stdin.flush()

    def _read(self) -> None:
        with self._output as output:
            for line in map(str.rstrip, output):
                if line:
                    self.tail.append(line)
                    self._on_line(self.job, line)

    def poll(self) -> int | None:
        """The exit code (-n for signal n), or None while it runs."""
        code = self._child.poll()
        if code is None:
            self._deliver()
            return None
        with contextlib.suppress(OSError):  # what it never read
            self._stdin.close()
        self._reader.join(1.0)  # a grandchild could hold the pipe open for longer
        return code

    def send(self, number: int) -> None:
        """A signal for the job and what it started."""
        self._unsent.append(number)
        self._deliver()

    def _deliver(self) -> None:
        if self._child.pid is None:  # it has not been forked yet
            return
        for number in self._unsent:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._child.pid, number)
        self._unsent.clear()

    def cause(self, code: int) -> str:
        """Why it failed, in one line: its last word, or the signal that ended it."""
        if code < 0:
            name = signal.Signals(-code).name
            return f"ended by signal {-code} ({name})"
        errors = [line for line in self.tail if line.startswith("error: ")]
        last = errors[-1].removeprefix("error: ") if errors else "".join(list(self.tail)[-1:])
        return last or f"exit code {code}, without a word"
