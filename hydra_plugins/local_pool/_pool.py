"""Processes on slots: start, watch, stop. One thread decides; others only read output."""

from __future__ import annotations

import signal
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from types import FrameType
from typing import Any

from hydra_plugins.local_pool._fork_server import ForkServer
from hydra_plugins.local_pool._job import Job, JobSource, Outcome
from hydra_plugins.local_pool._process import JobProcess
from hydra_plugins.local_pool._view import SweepView

LOOK_AGAIN = 1.0  # seconds between two looks at a job that another process is at
TICK = 0.05  # seconds between two looks at our own
WATCH = 0.5  # seconds between two looks at how far our own are
HANGUP: int | None = getattr(signal, "SIGHUP", None)  # Windows has none


class Pool:
    """Runs `jobs` on `slots`; afterwards its attributes hold the results.

    outcomes: by key, how a job ended for good. failures: by key, why it failed. interrupted: the
    signal's number, or 0. left: jobs that the deadline left unfinished. pruned: by key, why the
    source had it stopped.

    Args:
        jobs: with different keys, in the order they are to be started.
        done: by key, the outcomes that some of them have already.
        slots: a device each, the same one as often as it may be shared.
        env: added to every job's environment.
        view: auto, live, plain or quiet.
        deadline: time.monotonic() when jobs are told to save and end; none is started that is
            known to take longer.
        source: gives more jobs when those have been started; `jobs` may then be none.
        server: forks jobs, if it can; none is started before that is known.
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
        server: ForkServer | None = None,
        spare: Sequence[str] = (),
    ) -> None:
        self.outcomes = dict(done)
        self.failures: dict[str, str] = {}
        self.pruned: dict[str, str] = {}
        self.interrupted = 0
        self.left: list[Job] = []
        self._stops = 0  # how often jobs are to be told to end; then none is started any more
        self._jobs, self._slots, self._env = list(jobs), list(slots), env
        self._at_once, self._spare = len(slots), list(spare)
        self._deadline = deadline
        self._server = server
        self._running: list[JobProcess] = []
        self._pending: deque[Job] = deque()
        self._put_off: dict[Job, float] = {}  # another process is at it: when we looked last
        self._told_busy: set[str] = set()
        self._too_long: deque[Job] = deque()
        self._source, self._watched = source, 0.0
        self._view = SweepView(view, jobs, source)

    def run(self) -> None:
        """Run until every job has its outcome or has failed, the time is up, or a signal came."""
        self._pending.extend(job for job in self._jobs if job.key not in self.outcomes)
        self._open_spare_slots()
        self._view.begin(self._jobs, self.outcomes, len(self._slots))
        handlers = self._handle_signals()
        try:
            while self._running or (
                not self._stops and (self._pending or self._put_off or self._take())
            ):
                self._check_deadline()
                self._start_jobs()
                for process in self._running:
                    if process.stops < self._stops:  # the first time it may save what it has
                        process.stop()
                self._collect()
                self._prune()
                self._view.refresh(self._running, [*self._pending, *self._put_off])
                time.sleep(TICK)
        finally:
            self._end_running()
            for number, handler in handlers.items():
                signal.signal(number, handler)
        ended = self.outcomes.keys() | self.failures.keys() | self.pruned.keys()
        if self._deadline is not None and not self.interrupted:
            self.left = [job for job in self._jobs if job.key not in ended]
        failed = [(job, self.failures[job.key]) for job in self._jobs if job.key in self.failures]
        self._view.summarize(failed, self.left, bool(self.interrupted))

    def _end_running(self) -> None:
        """End what still runs after an error of our own: it may save what it has."""
        for process in self._running:
            process.stop()
        while any(process.poll() is None for process in self._running):
            time.sleep(TICK)

    def _check_deadline(self) -> None:
        if self._deadline is None or self._stops or time.monotonic() < self._deadline:
            return
        self._stops += 1
        if self._running:
            self._view.say("the time is up: running jobs save and end")

    def _start_jobs(self) -> None:
        """Start a job on every free slot, as long as there are any."""
        if self._server and not self._server.settled():
            return
        self._open_spare_slots()
        while self._slots and not self._stops and (self._pending or self._take()):
            job = self._choose()
            if job is None:
                return
            slot = self._slots.pop(0)
            process = JobProcess(job, slot, self._env, self._server, self._view.show_output)
            self._running.append(process)
            self._view.say_of(job, "started" + (f" on GPU {slot}" if slot else ""))

    def _open_spare_slots(self) -> None:
        """Let the last jobs run beside the others when fewer are left than there are slots."""
        if 0 < len(self._pending) - len(self._slots) < self._at_once:
            self._slots += self._spare
            self._spare = []

    def _choose(self) -> Job | None:
        """Take the first job that no other process is at and that can end in time.

        Those before it are put off, done or left out, and told of.
        """
        while self._pending or self._take():
            job = self._pending.popleft()
            if job.busy():
                self._put_off_busy(job)
            elif outcome := job.outcome():  # by another sweep, since this one began
                self._record_end(job, outcome, "elsewhere")
            elif self._source and (why := self._source.stop(job)):  # by what it reached before
                self._record_pruned(job, why)
            elif self._deadline and time.monotonic() + (job.seconds() or 0.0) >= self._deadline:
                self._too_long.append(job)
            else:
                return job
        return None

    def _take(self) -> bool:
        """Take a job from the source that is not done; return True if there is one now."""
        while self._source and not (self._stops or self._too_long):
            if (job := self._source.next()) is None:
                break
            self._jobs.append(job)
            self._view.add(job, self._source.label(job))
            if not (outcome := job.outcome()):
                self._pending.append(job)
                return True
            self._record_end(job, outcome, "before")
        return False

    def _prune(self) -> None:
        """Stop the running jobs that the source gives up."""
        if self._source is None or time.monotonic() - self._watched < WATCH:
            return
        self._watched = time.monotonic()
        for process in self._running:
            if not process.stops and (why := self._source.stop(process.job)):
                process.pruned = why
                process.stop()

    def _put_off_busy(self, job: Job) -> None:
        if job.key not in self._told_busy:
            self._told_busy.add(job.key)
            self._view.say_of(job, "another process is running it: later")
        self._put_off[job] = time.monotonic()

    def _collect(self) -> None:
        """Take in the jobs that have ended, and those that other processes have let go of."""
        for process in list(self._running):
            code = process.poll()
            if code is None:
                continue
            self._running.remove(process)
            self._slots.append(process.slot)
            process.job.exit_code = code
            self._conclude(process, code)
            # Each one that ends may have taught how fast its kind is.
            self._pending.extendleft(reversed(self._too_long))
            self._too_long.clear()
        for job, looked in self._put_off.copy().items():
            if time.monotonic() - looked > LOOK_AGAIN:
                self._put_off[job] = time.monotonic()
                if not job.busy():
                    del self._put_off[job]
                    self._pending.append(job)

    def _conclude(self, process: JobProcess, code: int) -> None:
        """Decide whether a job whose process has ended is done, is to wait, or has failed."""
        job = process.job
        outcome = job.outcome()
        if outcome and code == 0:
            self._record_end(job, outcome)
        elif process.pruned and code in (-signal.SIGTERM, 128 + signal.SIGTERM):
            self._record_pruned(job, process.pruned)
        elif self._stops:
            self._view.say_of(job, "interrupted")
        elif code == 0 and job.busy():
            self._put_off_busy(job)
        elif code == 0 and (outcome := job.outcome()):  # the other one has just got it done
            self._record_end(job, outcome, "elsewhere")
        else:
            nothing = "its process ended without an error and without a result"
            self.failures[job.key] = process.explain(code) if code else nothing
            self._view.end(job, f"FAILED: {self.failures[job.key]}", "failed")

    def _record_end(self, job: Job, outcome: Outcome, where: str = "") -> None:
        self.outcomes[job.key] = outcome
        self._view.end(job, outcome.text + (f" ({where})" if where else ""))
        if self._source:
            self._source.stop(job)  # too quick to be looked at, it is pruned by the same rule
            self._source.ended(job, outcome)

    def _record_pruned(self, job: Job, why: str) -> None:
        self.pruned[job.key] = why
        self._view.end(job, why, "stopped early")
        if self._source:
            self._source.stopped(job)

    def _handle_signals(self) -> dict[int, Any]:
        """Set our signal handlers; return those that were there."""
        if threading.current_thread() is not threading.main_thread():
            return {}
        numbers = [int(signal.SIGINT), int(signal.SIGTERM)]
        if HANGUP is not None and signal.getsignal(HANGUP) != signal.SIG_IGN:  # as under nohup
            numbers.append(HANGUP)
        return {number: signal.signal(number, self._interrupt) for number in numbers}

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        self._stops += 1
        self.interrupted = self.interrupted or number
