"""A sweep on the screen: a live view of its runs on a terminal, lines elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from rich.text import Text

from hydra_plugins.local_pool._job import Job, JobSource, Outcome
from hydra_plugins.local_pool._process import JobProcess
from hydra_plugins.local_pool._terminal import LiveLines, SweepConsole, duration, fit

REFRESH = 0.5  # seconds; a job's progress is read from its files
BAR = 10  # columns
SHORTEST = 12  # columns of a label


class Row(NamedTuple):
    """A running job as the live view shows it, in order of importance but for the label."""

    label: str
    share: float
    progress: str
    left: str
    slot: str
    detail: str


class SweepView:
    """Events as lines; running jobs as a table below them where there is a terminal.

    Args:
        mode: auto, live, plain or quiet.
        jobs: those of the sweep, each once.
        source: proposes more of them.
    """

    def __init__(self, mode: str, jobs: Sequence[Job], source: JobSource | None = None) -> None:
        self._mode = mode if mode != "auto" else "live" if sys.stdout.isatty() else "plain"
        self._console = SweepConsole()
        self._live = LiveLines(self._console) if self._mode == "live" else None
        self._lock = threading.Lock()  # jobs' lines come from threads of their own
        self._source = source
        self._total = source.total if source else len(jobs)
        self._before = source.before if source else 0  # done by earlier processes, not among `jobs`
        labels = type(jobs[0]).labels(jobs) if jobs else []
        self._labels = dict(zip(jobs, labels, strict=True))
        self._numbers = {job: number for number, job in enumerate(jobs, 1)}
        self._costs: dict[Job, float] = {}  # of what is to do, at the beginning
        self._ended = 0
        self._refreshed = 0.0
        self._start = time.monotonic()

    def begin(self, jobs: Sequence[Job], done: Mapping[str, Outcome], slots: int) -> None:
        """Say how many jobs there are, and which are done."""
        self._ended = self._before + len(done)
        left = self._total - self._ended
        if self._live:
            self._costs = {job: job.cost() for job in jobs if job.key not in done}
        self._say(f"{self._total} runs: {self._ended} done before, {left} to do, {slots} at once")
        for job in jobs:
            if job.key in done:
                self._say_of_job(job, f"skipped, {done[job.key].text}")

    def add(self, job: Job, label: str) -> None:
        """Take in a job that the source has proposed."""
        self._labels[job] = label
        self._numbers[job] = self._before + len(self._numbers) + 1

    def show_start(self, job: Job, slot: str) -> None:
        self._say_of_job(job, "started" + (f" on GPU {slot}" if slot else ""))

    def show_end(self, job: Job, outcome: Outcome, where: str) -> None:
        self._ended += 1
        self._say_of_job(job, outcome.text + (f" ({where})" if where else ""))

    def show_failure(self, job: Job, cause: str) -> None:
        self._ended += 1
        self._say_of_job(job, f"FAILED: {cause}")

    def show_interrupted(self, job: Job) -> None:
        self._say_of_job(job, "interrupted")

    def show_busy(self, job: Job) -> None:
        self._say_of_job(job, "another process is at it, later")

    def show_time_is_up(self) -> None:
        self._say("the time is up: what runs saves and ends")

    def show_output(self, job: Job, line: str) -> None:
        """Show a line that a job has printed; the live view shows its progress instead."""
        if self._mode == "plain":
            self._say(f"{self._number(job)} {line}")

    def refresh(self, running: Sequence[JobProcess], waiting: Sequence[Job]) -> None:
        """Bring the live view up to date, now and then."""
        if self._live is None or time.monotonic() - self._refreshed < REFRESH:
            return
        width = self._console.size.width
        lines = self._lay_out([self._describe(process) for process in running], width)
        share = self._ended / self._total
        text = f" {self._ended} of {self._total} ended, {len(running)} running"
        if left := self._estimate_left(running, waiting):
            text += f", about {duration(left)} left"
        with self._lock:
            self._live.draw([*lines, self._console.bar(share, BAR) + Text(text)])
        self._refreshed = time.monotonic()

    def _describe(self, process: JobProcess) -> Row:
        job, progress = process.job, process.job.progress()
        label = f"{self._number(job)} {self._labels[job]}"
        slot = f"GPU {process.slot}" if process.slot else ""
        if progress is None:
            return Row(label, 0.0, "starting", "", slot, "")
        before = process.at_start.done if process.at_start else 0.0
        made, passed = progress.done - before, time.monotonic() - process.started
        left = f"{duration(passed / made * (progress.total - progress.done))} left" if made else ""
        share = progress.done / progress.total
        return Row(label, share, progress.text, left, slot, progress.detail)

    def _lay_out(self, rows: Sequence[Row], width: int) -> list[Text]:
        """Return a line for each row; if they are too wide, the detail goes, then labels' ends."""
        if not rows:
            return []
        texts = [[row.progress, row.left, row.slot, row.detail] for row in rows]
        widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
        longest = max(len(row.label) for row in rows)

        def room() -> int:  # for the label, between gaps of two columns
            return width - 1 - BAR - 2 - sum(w + 2 for w in widths if w)

        if room() < longest:
            widths[-1] = 0
        label = min(longest, max(SHORTEST, room()))
        lines = []
        for row, cells in zip(rows, texts, strict=True):
            cells = [fit(text, w) for text, w in zip(cells, widths, strict=True) if w]
            bar = self._console.bar(row.share, BAR)
            line = Text(fit(row.label, label) + "  ") + bar + Text("  " + "  ".join(cells))
            line.rstrip()
            lines.append(line)
        return lines

    def _estimate_left(self, running: Sequence[JobProcess], waiting: Sequence[Job]) -> float | None:
        """Seconds to the end at the speed so far; None before anything is known."""
        if self._source:  # nobody knows what it will propose
            return None
        left = sum(process.job.cost() for process in running)
        left += sum(self._costs[job] for job in waiting)
        made = sum(self._costs.values()) - left
        return left * (time.monotonic() - self._start) / made if made > 0 else None

    def summarize(
        self,
        outcomes: Mapping[str, Outcome],
        failures: Sequence[tuple[Job, str]],
        left: Sequence[Job],
        interrupted: bool,
        pruned: Mapping[str, str],
    ) -> None:
        """Say how it ended: counts, failures with cause and log, jobs there was no time for."""
        if self._live:
            with self._lock:
                self._live.clear()
        parts = [f"{self._before} before"] if self._before else []
        parts.append(f"{len(outcomes)} done")
        if pruned:
            parts.append(f"{len(pruned)} stopped early")
        if failures:
            parts.append(f"{len(failures)} failed")
        ended = self._before + len(outcomes) + len(pruned) + len(failures)
        if unfinished := self._total - ended:
            parts.append(f"{unfinished} not finished")
        passed = duration(time.monotonic() - self._start)
        self._say(f"{self._total} runs: {', '.join(parts)}; {passed}")
        for job, cause in failures:
            log = job.log()
            self._say(f"failed: {self._labels[job]}: {cause}" + (f" (log: {log})" if log else ""))
        for job in left:
            self._say(f"left: {self._labels[job]}")
        if interrupted:
            self._say("interrupted; the same command goes on")
        elif failures:
            self._say("the same command tries the failed ones again")
        elif left:
            self._say("there was no time for the rest; the same command goes on")

    def _number(self, job: Job) -> str:
        width = len(str(self._total))
        return f"[{self._numbers[job]:>{width}}/{self._total}]"

    def _say_of_job(self, job: Job, text: str) -> None:
        self._say(f"{self._number(job)} {self._labels[job]}: {text}")

    def _say(self, text: str) -> None:
        if self._mode == "quiet":
            return
        with self._lock:
            if self._live:
                self._live.clear()
                self._refreshed = 0.0  # soon again
            self._console.say(text)
