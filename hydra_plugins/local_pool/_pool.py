"""Processes on slots: start, watch, stop. One thread decides; others only read output."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Sequence
from types import FrameType
from typing import Any, NamedTuple

from hydra_plugins.local_pool._display import Display
from hydra_plugins.local_pool._job import Job, Outcome

LOOK_AGAIN = 1.0  # seconds between two looks at a job that another process is at
TICK = 0.05  # seconds between two looks at our own


class Busy(NamedTuple):
    """A job put off because another process was at it."""

    job: Job
    since: float  # time.monotonic() of the last look


class Process:
    """A job's process, its output line by line."""

    def __init__(
        self,
        job: Job,
        number: int,
        slot: str,
        command: list[str],
        env: dict[str, str],
        on_line: Any,
    ) -> None:
        self.job, self.number, self.slot = job, number, slot
        self.started = time.monotonic()
        self.at_start, self.cost = job.progress(), job.cost()
        self.signals = 0  # how many it has been sent
        self.tail: deque[str] = deque(maxlen=50)
        # A session of its own: the terminal's Ctrl-C reaches the pool alone, which passes it on.
        # Standard input is a pipe nobody writes to; it closes when this process is gone.
        self._popen = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, **env},
            start_new_session=True,
            text=True,
            errors="replace",
        )
        self._reader = threading.Thread(target=self._read, args=(on_line,), daemon=True)
        self._reader.start()

    def _read(self, on_line: Any) -> None:
        assert self._popen.stdout is not None
        with self._popen.stdout as output:
            for line in map(str.rstrip, output):
                if line:
                    self.tail.append(line)
                    on_line(self.number, line)

    def poll(self) -> int | None:
        """The exit code (-n for signal n), or None while it runs."""
        code = self._popen.poll()
        if code is not None:
            self._reader.join(1.0)  # a grandchild could hold the pipe open for longer
            assert self._popen.stdin is not None
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


class Pool:
    """Runs `jobs` on `slots`; afterwards `outcomes`, `failures` and `interrupted` say what came.

    Args:
        jobs: with different keys.
        slots: a device each, the same one as often as it may be shared.
        command: what a job's arguments follow.
        arguments: what follows a job's arguments.
        env: added to every job's environment.
    """

    def __init__(
        self,
        jobs: Sequence[Job],
        slots: Sequence[str],
        command: list[str],
        arguments: list[str],
        env: dict[str, str],
        progress: str,
    ) -> None:
        self.outcomes: dict[str, Outcome] = {}
        self.failures: dict[str, str] = {}
        self.interrupted = 0  # the signal's number
        self._signals = 0
        self._jobs = list(jobs)
        self._slots = list(slots)
        self._command, self._arguments, self._env = command, arguments, env
        self._running: list[Process] = []
        self._pending: deque[Job] = deque()
        self._busy: deque[Busy] = deque()
        self._told_busy: set[str] = set()
        self._numbers = {job.key: number for number, job in enumerate(jobs, 1)}
        self._display = Display(progress, len(jobs))

    def run(self) -> None:
        """Returns when every job has its outcome or has failed, or after an interruption."""
        self._skip_done()
        self._pending.extend(job for job in self._jobs if job.key not in self.outcomes)
        handlers = self._handle_signals()
        try:
            with self._display as display:
                while self._running or ((self._pending or self._busy) and not self.interrupted):
                    self._start()
                    self._pass_on_signals()
                    self._collect()
                    display.refresh(self._running, self._waiting())
                    time.sleep(TICK)
        finally:
            for process in self._running:  # only after an error of our own
                process.send(signal.SIGTERM)
            for number, handler in handlers.items():
                signal.signal(number, handler)
        failed = [(job, self.failures[job.key]) for job in self._jobs if job.key in self.failures]
        unfinished = len(self._jobs) - len(self.outcomes) - len(failed)
        self._display.summary(self.outcomes, failed, unfinished, bool(self.interrupted))

    def _skip_done(self) -> None:
        for job in self._jobs:
            if outcome := job.outcome():
                self.outcomes[job.key] = outcome
        self._display.begin(self._jobs, self.outcomes, len(self._slots))

    def _start(self) -> None:
        while self._pending and self._slots and not self.interrupted:
            job = self._next()
            if job is None:
                return
            slot = self._slots.pop(0)
            env = {**self._env, **({"CUDA_VISIBLE_DEVICES": slot} if slot else {})}
            command = [*self._command, *job.arguments, *self._arguments]
            number = self._numbers[job.key]
            self._running.append(Process(job, number, slot, command, env, self._display.output))
            self._display.started(number, job, slot)

    def _next(self) -> Job | None:
        """A job that no other process is at; those that are busy or done are put where they go."""
        while self._pending:
            job = self._pending.popleft()
            if job.busy():
                self._put_off(job)
            elif outcome := job.outcome():  # by another sweep, since this one began
                self._ended(job, outcome, "elsewhere")
            else:
                return job
        return None

    def _put_off(self, job: Job) -> None:
        if job.key not in self._told_busy:
            self._told_busy.add(job.key)
            self._display.busy(self._numbers[job.key], job)
        self._busy.append(Busy(job, time.monotonic()))

    def _collect(self) -> None:
        for process in list(self._running):
            code = process.poll()
            if code is None:
                continue
            self._running.remove(process)
            self._slots.append(process.slot)
            job = process.job
            job.exit_code = code
            outcome = job.outcome()
            if outcome and code == 0:
                self._ended(job, outcome)
            elif self.interrupted:
                self._display.interrupted(process.number, job)
            elif code == 0:
                self._put_off(job)
            else:
                self.failures[job.key] = process.cause(code)
                self._display.failed(process.number, job, self.failures[job.key])
        while self._busy and time.monotonic() - self._busy[0].since > LOOK_AGAIN:
            job = self._busy.popleft().job
            if job.busy():
                self._busy.append(Busy(job, time.monotonic()))
            else:
                self._pending.append(job)

    def _ended(self, job: Job, outcome: Outcome, where: str = "") -> None:
        self.outcomes[job.key] = outcome
        self._display.ended(self._numbers[job.key], job, outcome, where)

    def _waiting(self) -> list[Job]:
        return [*self._pending, *(busy.job for busy in self._busy)]

    def _handle_signals(self) -> dict[int, Any]:
        if threading.current_thread() is not threading.main_thread():
            return {}
        numbers = [signal.SIGINT, signal.SIGTERM]
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # as under nohup
            numbers.append(signal.SIGHUP)
        return {number: signal.signal(number, self._stop) for number in numbers}

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self._signals += 1
        self.interrupted = self.interrupted or number

    def _pass_on_signals(self) -> None:
        """The first signal lets the jobs save what they have, a second one ends them."""
        for process in self._running:
            if process.signals < self._signals:
                process.send(signal.SIGTERM if process.signals == 0 else signal.SIGKILL)
                process.signals += 1
