"""What a person sees of a sweep: a live view of its runs on a terminal, lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self

from rich.console import Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from hydra_plugins.local_pool._job import Job, Outcome
from hydra_plugins.local_pool._process import JobProcess
from hydra_plugins.local_pool._terminal import SweepConsole, duration

REFRESH = 0.5  # seconds; a job's progress is read from its files


class SweepView:
    """Events as lines; running jobs as a table below them where there is a terminal."""

    def __init__(self, mode: str, total: int) -> None:
        self._mode = mode if mode != "auto" else "live" if sys.stdout.isatty() else "plain"
        self._console = SweepConsole()
        self._live: Live | None = None
        self._total = total
        self._ended = 0
        self._refreshed = 0.0
        self._start = time.monotonic()

    def begin(self, jobs: Sequence[Job], done: Mapping[str, Outcome], slots: int) -> None:
        """What there is to do."""
        self._ended = len(done)
        left = len(jobs) - len(done)
        self._say(f"{len(jobs)} runs: {len(done)} done before, {left} to do, {slots} at once")
        for number, job in enumerate(jobs, 1):
            if job.key in done:
                self._say(f"{self._tag(number)} {job.label}: skipped, {done[job.key].text}")

    def started(self, number: int, job: Job, slot: str) -> None:
        self._say(f"{self._tag(number)} {job.label}: started" + (f" on GPU {slot}" if slot else ""))

    def ended(self, number: int, job: Job, outcome: Outcome, where: str) -> None:
        self._ended += 1
        where = f" ({where})" if where else ""
        self._say(f"{self._tag(number)} {job.label}: {outcome.text}{where}")

    def failed(self, number: int, job: Job, cause: str) -> None:
        self._ended += 1
        self._say(f"{self._tag(number)} {job.label}: FAILED: {cause}")

    def interrupted(self, number: int, job: Job) -> None:
        self._say(f"{self._tag(number)} {job.label}: interrupted")

    def time_is_up(self) -> None:
        self._say("the time is up: what runs saves and ends")

    def busy(self, number: int, job: Job) -> None:
        self._say(f"{self._tag(number)} {job.label}: another process is at it, later")

    def output(self, number: int, line: str) -> None:
        """A line a job printed. The live view has its own way to show that."""
        if self._mode == "plain":
            self._say(f"{self._tag(number)} {line}")

    def refresh(self, running: Sequence[JobProcess], waiting: Sequence[Job]) -> None:
        """Bring the live view up to date, now and then."""
        if self._live is None or time.monotonic() - self._refreshed < REFRESH:
            return
        table = Table.grid(padding=(0, 2))
        for _ in range(5):
            table.add_column(no_wrap=True)
        costs = [(process, process.job.cost()) for process in running]
        for process, _ in costs:
            table.add_row(*self._row(process))
        text = f"{self._ended} of {self._total} ended, {len(running)} running"
        if waiting:
            text += f", {len(waiting)} to come"
        if left := self._time_left(costs, waiting):
            text += f"; about {duration(left)} left"
        self._live.update(Group(table, Text(text)), refresh=True)
        self._refreshed = time.monotonic()

    def _row(self, process: JobProcess) -> list[str | Text | ProgressBar]:
        progress = process.job.progress()
        name = f"{self._tag(process.number)} {process.job.label}"
        if progress is None:
            return [name, ProgressBar(pulse=True, width=20), "starting", "", ""]
        bar = ProgressBar(total=progress.total, completed=progress.done, width=20)
        before = process.at_start.done if process.at_start else 0.0
        made = progress.done - before
        passed = time.monotonic() - process.started
        left = f"{duration(passed / made * (progress.total - progress.done))} left" if made else ""
        slot = f"GPU {process.slot}" if process.slot else ""
        return [name, bar, progress.text, left, slot]

    def _time_left(
        self, running: Sequence[tuple[JobProcess, float]], waiting: Sequence[Job]
    ) -> float | None:
        """Seconds to the end at the speed of the jobs that run now."""
        speed = 0.0
        for process, cost in running:
            speed += max(0.0, process.cost - cost) / (time.monotonic() - process.started)
        if not speed:
            return None
        return (sum(cost for _, cost in running) + sum(job.cost() for job in waiting)) / speed

    def summary(
        self,
        outcomes: Mapping[str, Outcome],
        failures: Sequence[tuple[Job, str]],
        left: Sequence[Job],
        interrupted: bool,
    ) -> None:
        """The end: counts, every failure with its cause and its log, what there was no time for."""
        parts = [f"{len(outcomes)} done"]
        if failures:
            parts.append(f"{len(failures)} failed")
        if unfinished := self._total - len(outcomes) - len(failures):
            parts.append(f"{unfinished} not finished")
        passed = duration(time.monotonic() - self._start)
        self._say(f"{self._total} runs: {', '.join(parts)}; {passed}")
        for job, cause in failures:
            log = job.log()
            self._say(f"failed: {job.label}: {cause}" + (f" (log: {log})" if log else ""))
        for job in left:
            self._say(f"left: {job.label}")
        if interrupted:
            self._say("interrupted; the same command goes on")
        elif failures:
            self._say("the same command tries the failed ones again")
        elif left:
            self._say("there was no time for the rest; the same command goes on")

    def _tag(self, number: int) -> str:
        width = len(str(self._total))
        return f"[{number:>{width}}/{self._total}]"

    def _say(self, text: str) -> None:
        if self._mode != "quiet":
            self._console.say(text)

    def __enter__(self) -> Self:
        if self._mode == "live":
            self._live = Live(console=self._console, auto_refresh=False, transient=True)
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live:
            self._live.stop()
            self._live = None
