"""Processes on slots: start, watch, stop. One thread decides; others only read output."""

from __future__ import annotations

import signal
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from types import FrameType
from typing import Any, NamedTuple

from hydra_plugins.local_pool._job import Job, Outcome
from hydra_plugins.local_pool._nursery import Nursery
from hydra_plugins.local_pool._process import JobProcess
from hydra_plugins.local_pool._source import JobSource
from hydra_plugins.local_pool._view import SweepView

LOOK_AGAIN = 1.0  # seconds between two looks at a job that another process is at
TICK = 0.05  # seconds between two looks at our own
WATCH = 0.5  # seconds between two looks at how far our own are


class PutOff(NamedTuple):
    """A job that waits because another process is at it."""

    job: Job
    since: float  # time.monotonic() of the last look


class Pool:
    """Runs `jobs` on `slots`; afterwards its attributes say what came of them.

    outcomes: by key, how a job ended for good. failures: by key, why it failed. interrupted: the
    signal's number, or 0. left: what was not finished because the time was up, or would have been.
    stopped: by key, why its source had it stopped.

    Args:
        jobs: with different keys, in the order they are to be started.
        done: by key, the outcomes that some of them have already.
        slots: a device each, the same one as often as it may be shared.
        env: added to every job's environment.
        view: auto, live, plain or quiet.
        deadline: time.monotonic() when jobs are told to save and end; none is started that is
            known to take longer.
        source: where more jobs come from when those have been started; `jobs` may then be none.
        nursery: where jobs are forked, if it can; none is started before that is known.
        spare: slots beside those for the last jobs: `AtOnce`.
    """

    def __init__(
        self,
        jobs: Sequence[Job],
        done: Mapping[str, Outcome],
        slots: Sequence[str],
        env: Mapping[str, str],
        view: str,
        deadline: float | None = None,
        source: JobSource | None = None,
        nursery: Nursery | None = None,
        spare: Sequence[str] = (),
    ) -> None:
        self.outcomes = dict(done)
        self.failures: dict[str, str] = {}
        self.stopped: dict[str, str] = {}
        self.interrupted = 0
        self.left: list[Job] = []
        self._signals = 0  # that jobs are to get
        self._jobs, self._slots, self._env = list(jobs), list(slots), env
        self._at_once, self._spare = len(slots), list(spare)
        self._deadline = deadline
        self._time_is_up = False
        self._nursery = nursery
        self._running: list[JobProcess] = []
        self._pending: deque[Job] = deque()
        self._put_off: deque[PutOff] = deque()
        self._told_busy: set[str] = set()
        self._too_long: deque[Job] = deque()
        self._source, self._watched = source, 0.0
        self._view = SweepView(view, jobs, source)

    def run(self) -> None:
        """Returns when every job has its outcome or has failed, when the time is up, or after an
        interruption."""
        self._pending.extend(job for job in self._jobs if job.key not in self.outcomes)
        self._open_spare()
        self._view.begin(self._jobs, self.outcomes, len(self._slots))
        handlers = self._handle_signals()
        try:
            while self._running or (not self._ending() and (self._waiting() or self._ask())):
                self._look_at_the_clock()
                self._start()
                self._pass_on_signals()
                self._collect()
                self._watch()
                self._view.refresh(self._running, self._waiting())
                time.sleep(TICK)
        finally:
            for process in self._running:  # only after an error of our own
                process.send(signal.SIGTERM)
            for number, handler in handlers.items():
                signal.signal(number, handler)
        ended = self.outcomes.keys() | self.failures.keys() | self.stopped.keys()
        if self._deadline is not None and not self.interrupted:
            self.left = [job for job in self._jobs if job.key not in ended]
        failed = [(job, self.failures[job.key]) for job in self._jobs if job.key in self.failures]
        self._view.summary(self.outcomes, failed, self.left, bool(self.interrupted), self.stopped)

    def _ending(self) -> bool:
        return bool(self.interrupted) or self._time_is_up

    def _look_at_the_clock(self) -> None:
        if self._deadline is None or self._ending() or time.monotonic() < self._deadline:
            return
        self._time_is_up = True
        self._signals += 1
        if self._running:
            self._view.time_is_up()

    def _start(self) -> None:
        if self._nursery and not self._nursery.settled():
            return
        self._open_spare()
        while self._slots and not self._ending() and (self._pending or self._ask()):
            job = self._next()
            if job is None:
                return
            slot = self._slots.pop(0)
            process = JobProcess(job, slot, self._env, self._nursery, self._view.output)
            self._running.append(process)
            self._view.started(job, slot)

    def _open_spare(self) -> None:
        """Where few are left beside those that run, or can be started, let them run, too."""
        if 0 < len(self._pending) - len(self._slots) < self._at_once:
            self._slots += self._spare
            self._spare = []

    def _next(self) -> Job | None:
        """A job that no other process is at and that can end in time; the others go where they
        belong."""
        while self._pending or self._ask():
            job = self._pending.popleft()
            if job.busy():
                self._wait_for_another(job)
            elif outcome := job.outcome():  # by another sweep, since this one began
                self._ended(job, outcome, "elsewhere")
            elif self._source and (why := self._source.stop(job)):  # by what it reached before
                self._stopped(job, why)
            elif not self._fits(job):
                self._too_long.append(job)
            else:
                return job
        return None

    def _ask(self) -> bool:
        """Take a job from the source, if it has one now."""
        if self._source is None or self._ending() or self._too_long:
            return False
        job = self._source.next()
        if job is None:
            return False
        self._jobs.append(job)
        self._view.add(job, self._source.label(job))
        if outcome := job.outcome():
            self._ended(job, outcome, "before")
        else:
            self._pending.append(job)
        return True

    def _watch(self) -> None:
        """Stop what the source wants stopped."""
        if self._source is None or time.monotonic() - self._watched < WATCH:
            return
        self._watched = time.monotonic()
        for process in self._running:
            if not process.signals and (why := self._source.stop(process.job)):
                process.stopped = why
                process.send(signal.SIGTERM)
                process.signals += 1

    def _fits(self, job: Job) -> bool:
        if self._deadline is None:
            return True
        seconds = job.seconds()
        return seconds is None or time.monotonic() + seconds < self._deadline

    def _wait_for_another(self, job: Job) -> None:
        if job.key not in self._told_busy:
            self._told_busy.add(job.key)
            self._view.busy(job)
        self._put_off.append(PutOff(job, time.monotonic()))

    def _collect(self) -> None:
        for process in list(self._running):
            code = process.poll()
            if code is None:
                continue
            self._running.remove(process)
            self._slots.append(process.slot)
            process.job.exit_code = code
            self._came_of(process, code)
            # Each one that ends may have taught how fast its kind is.
            self._pending.extendleft(reversed(self._too_long))
            self._too_long.clear()
        while self._put_off and time.monotonic() - self._put_off[0].since > LOOK_AGAIN:
            job = self._put_off.popleft().job
            if job.busy():
                self._put_off.append(PutOff(job, time.monotonic()))
            else:
                self._pending.append(job)

    def _came_of(self, process: JobProcess, code: int) -> None:
        job = process.job
        outcome = job.outcome()
        if outcome and code == 0:
            self._ended(job, outcome)
        elif process.stopped and code in (-signal.SIGTERM, 128 + signal.SIGTERM):
            self._stopped(job, process.stopped)
        elif self._ending():
            self._view.interrupted(job)
        elif code == 0 and job.busy():
            self._wait_for_another(job)
        elif code == 0 and (outcome := job.outcome()):  # the other one has just got it done
            self._ended(job, outcome, "elsewhere")
        else:
            nothing = "its process ended well and left no outcome"
            self.failures[job.key] = process.cause(code) if code else nothing
            self._view.failed(job, self.failures[job.key])

    def _ended(self, job: Job, outcome: Outcome, where: str = "") -> None:
        self.outcomes[job.key] = outcome
        self._view.ended(job, outcome, where)
        if self._source:
            self._source.ended(job, outcome)

    def _stopped(self, job: Job, why: str) -> None:
        self.stopped[job.key] = why
        self._view.ended(job, Outcome(None, why), "")
        if self._source:
            self._source.stopped(job)

    def _waiting(self) -> list[Job]:
        """What may still be started."""
        return [*self._pending, *(put_off.job for put_off in self._put_off)]

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
