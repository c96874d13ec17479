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

from hydra_plugins.local_pool._fork_server import UNKNOWN, ForkedProcess, ForkServer
from hydra_plugins.local_pool._job import Job, one_line

PATIENCE = 120.0  # seconds that a job has to save and end


class JobProcess:
    """A running job and its output, line by line.

    Args:
        slot: the device it sees; "" for none.
        env: added to this process's environment, all but the device.
        server: forks it if it can; else the job's command is started.
        on_line: called from another thread with the job and each line it prints.
    """

    def __init__(
        self,
        job: Job,
        slot: str,
        env: Mapping[str, str],
        server: ForkServer | None,
        on_line: Callable[[Job, str], None],
    ) -> None:
        self.job, self.slot = job, slot
        self.started = time.monotonic()
        self._signs = deque([time.time()], maxlen=20)  # of its work, the latest
        self.at_start = job.progress()
        self.tail: deque[str] = deque(maxlen=50)
        self.stops = 0  # how often it was told to end
        self.pruned = ""  # why it was told to end before the others
        self._told = 0.0  # time.monotonic() then
        self._signalled = 0  # how often that has reached it
        # Standard input is a pipe that closes when this process is gone, however it goes.
        stdin, ours = os.pipe()
        output, theirs = os.pipe()
        whole = {**os.environ, "PYTHONIOENCODING": "utf-8", **env}  # as its output is read
        whole |= {"CUDA_VISIBLE_DEVICES": slot} if slot else {}
        try:
            forked = server.start(job.entry, job.label, whole, stdin, theirs) if server else None
            # A session of its own: the terminal's Ctrl-C is the pool's, which passes it on.
            self._child: subprocess.Popen[bytes] | ForkedProcess = forked or subprocess.Popen(
                job.command(),
                stdin=stdin,
                stdout=theirs,
                stderr=theirs,
                env=whole,
                start_new_session=True,
                creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),  # Windows
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
        """Return the exit code (-n for signal n; or UNKNOWN), or None while it runs."""
        code = self._child.poll()
        if code is None:
            self.stops += self.stops == 1 and time.monotonic() > self._told + PATIENCE
            self._signal()
            return None
        self._close_stdin()
        self._reader.join(1.0)  # a grandchild could hold the pipe open for longer
        return code

    def silence(self) -> float:
        """Seconds since its last sign of work: if 30 at least, and ten times the usual; else 0."""
        signs = self._signs
        if (sign := self.job.last_sign()) > signs[-1]:
            signs.append(sign)
        usual = (signs[-1] - signs[0]) / (len(signs) - 1) if len(signs) > 4 else PATIENCE / 10
        silence = time.time() - signs[-1]
        return silence if silence > max(30.0, 10 * usual) else 0.0

    def stop(self) -> None:
        """Tell the job and what it started to save and end; the second time, end them."""
        self.stops += 1
        self._told = time.monotonic()
        self._signal()

    def _signal(self) -> None:
        """Send what it was told; again if it had no process group of its own yet."""
        while self._signalled < min(self.stops, 2):
            last = self._signalled == 1
            try:
                if hasattr(os, "killpg"):
                    assert self._child.pid is not None
                    os.killpg(self._child.pid, signal.SIGKILL if last else signal.SIGTERM)
                elif not last:  # Windows: jobs notice that their standard input is closed
                    self._close_stdin()
                elif isinstance(self._child, subprocess.Popen):
                    self._child.kill()
            except ProcessLookupError:
                return
            self._signalled += 1

    def _close_stdin(self) -> None:
        with contextlib.suppress(OSError):  # what it never read
            self._stdin.close()

    def explain(self, code: int) -> str:
        """Say why it failed, in one line: its last word, or the signal that ended it."""
        if code == UNKNOWN:
            return "ended by a signal, it is not known which"
        if code < 0:
            return f"ended by signal {-code} ({signal.Signals(-code).name})"
        errors = [line for line in self.tail if line.startswith("error: ")]
        last = "".join([*self.tail, *errors][-1:]).removeprefix("error: ")
        return one_line(last) or f"exit code {code}, nothing printed"
