"""A sweep on the screen: a live view of its runs on a terminal, lines elsewhere."""

from __future__ import annotations

import os
import re
import sys
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from hydra_plugins.local_pool._job import Job, JobSource, Outcome, Progress

if TYPE_CHECKING:
    from hydra_plugins.local_pool._process import JobProcess

REFRESH = 0.5  # seconds; a job's progress is read from its files
BAR = 10  # columns
NARROWED = ((3, 0), (5, 0), (0, 12), (4, 0))  # columns of a job's line, and their least widths


def duration(seconds: float) -> str:
    """Write a duration for people: 45 s, 12 min, 3.4 h, 2.1 days."""
    for unit, size, least in (("days", 86400, 86400), ("h", 3600, 3600), ("min", 60, 90)):
        if seconds >= least:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.0f} s"


def fit(text: str, width: int) -> str:
    """Bring `text` to exactly `width` columns: padded, or an ellipsis in place of its middle."""
    text, end = visible(text), (width - 1) // 2
    if len(text) <= width or not width:
        return text[:width].ljust(width)
    return f"{text[: width - 1 - end]}…{text[len(text) - end :]}"


def visible(text: str) -> str:
    """Write out control characters and undecodable bytes, as Python does: a terminal obeys them."""
    return re.sub(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\ud800-\udfff]", lambda c: ascii(c[0])[1:-1], text)


class SweepConsole(Console):
    """A console whose reader may go away and whose disk may be full: the sweep goes on silently.

    Text is text: no [markup], :emoji: or control codes in what people have named.
    """

    def __init__(self) -> None:
        super().__init__(highlight=False, soft_wrap=True, markup=False, emoji=False)

    def print(self, *objects: Any, **settings: Any) -> None:
        shown = [visible(each) if isinstance(each, str) else each for each in objects]
        try:
            super().print(*shown, **settings)
        except OSError:
            self.on_broken_pipe()

    def on_broken_pipe(self) -> None:
        # Also for what Python still holds back, and would fail to write when the process ends.
        self.quiet = True
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)

    def bar(self, share: float, width: int) -> Text:
        """Draw a bar of `width` columns of which `share` (0 to 1) is done."""
        done, rest = "━─" if self.encoding.lower().startswith("utf") else "#."
        full = round(width * min(1.0, max(0.0, share)))
        return Text.assemble((done * full, "green"), (rest * (width - full), "bright_black"))


class LiveLines:
    """Lines at the bottom of a terminal, drawn again and again; what is printed stays above them.

    The cursor waits where the next line is printed. So, where tmux folds the lines of a window that
    became narrower and puts the top into its history, none of these is among them.
    """

    def __init__(self, console: Console) -> None:
        self._console, self._count = console, 0
        self.size = console.size

    def draw(self, lines: Sequence[Text]) -> None:
        """Show `lines`, cut to the window, in place of those before."""
        steady, self.size = self.size == self._console.size, self._console.size
        width, height = self.size
        lines = lines[-max(1, height - 2) :]
        if self._count and not (steady and self._count == len(lines)):
            # No `ESC[J`, which at the top of a window copies it all into tmux's history.
            below = "\x1b[B\x1b[2K" * height
            self._console.print("", end=f"\r\x1b[2K\x1b7{below}\x1b8")
        if count := len(lines):
            # Without folding: the window may be narrower than this process knows yet.
            top = f"\x1b7\x1b[?7l\x1b[{height - count + 1};1H"
            self._console.print("", end="\n" * count + "\x1b[A" * count + top)
            for line in lines:
                line.truncate(width - 1)
                self._console.print(line, end="\x1b[K\x1b[E")
            self._console.print("", end="\x1b[?7h\x1b8")
        self._count = count


class SweepView:
    """Events as lines; running jobs as a table below them where there is a terminal.

    Args:
        mode: auto, live, plain or quiet.
        jobs: those of the sweep, each once.
        source: proposes more of them.
    """

    def __init__(self, mode: str, jobs: Sequence[Job], source: JobSource | None = None) -> None:
        self._console = SweepConsole()
        able = sys.stdout.isatty() and not self._console.is_dumb_terminal
        self._mode = mode if mode != "auto" else "live" if able else "plain"
        self._live = LiveLines(self._console) if self._mode == "live" else None
        self._lock = threading.Lock()  # jobs' lines come from threads of their own
        self._source = source
        self._total = source.total if source else len(jobs)
        self._runs = f"{self._total} run" + "s" * (self._total != 1)
        self._before = source.before if source else 0  # done by earlier processes, not among `jobs`
        labels = type(jobs[0]).labels(jobs) if jobs else []
        self._labels = dict(zip(jobs, labels, strict=True))
        self._numbers = {job: number for number, job in enumerate(jobs, 1)}
        self._costs: dict[Job, float] = {}  # of what is to do, at the beginning
        self._counts, self._refreshed = Counter(before=self._before), 0.0
        self._start = time.monotonic()

    def begin(self, jobs: Sequence[Job], done: Mapping[str, Outcome], slots: int) -> None:
        """Say how many jobs there are, and which are done."""
        self._counts["done"] = len(done)
        left = self._total - self._counts.total()
        if self._live:
            self._costs = {job: job.cost() for job in jobs if job.key not in done}
        self.say(f"{self._runs}: {self._counts.total()} done before, {left} to do, {slots} at once")
        for job in jobs:
            if job.key in done:
                self.say_of(job, f"skipped, {done[job.key].text}")

    def add(self, job: Job, label: str) -> None:
        """Take in a job that the source has proposed."""
        self._labels[job] = label
        self._numbers[job] = self._before + len(self._numbers) + 1

    def end(self, job: Job, text: str, how: str = "done") -> None:
        """Say how a job has ended, and count it."""
        self._counts[how] += self._source.count(job) if self._source else 1
        self.say_of(job, text)

    def show_output(self, job: Job, line: str) -> None:
        """Show a line that a job has printed; the live view shows its progress instead."""
        if self._mode == "plain":
            self.say(f"{self._number(job)} {line}")

    def refresh(self, running: Sequence[JobProcess], waiting: Sequence[Job]) -> None:
        """Bring the live view up to date: now and then, and where the window has changed."""
        recent = time.monotonic() - self._refreshed < REFRESH
        if self._live is None or (recent and self._live.size == self._console.size):
            return
        lines = self._lay_out(running, self._console.width)
        ended = self._counts.total()
        text = f" {ended} of {self._total} ended, {len(running)} running"
        if left := self._estimate_left(running, waiting):
            text += f", about {duration(left)} left"
        with self._lock:
            self._live.draw([*lines, self._console.bar(ended / self._total, BAR) + text])
        self._refreshed = time.monotonic()

    def _describe(self, process: JobProcess) -> list[str | Text]:
        """Describe a running job: label, progress, detail, bar, time left, device."""
        job, progress = process.job, process.job.progress() or Progress(0, 1, "starting")
        before = process.at_start.done if process.at_start else 0.0
        made, passed = progress.done - before, time.monotonic() - process.started
        left = f"{duration(passed / made * (progress.total - progress.done))} left" if made else ""
        if silence := process.silence():
            left = f"no step for {duration(silence)}"
        bar = self._console.bar(progress.done / progress.total, BAR)
        texts = [f"{self._number(job)} {self._labels[job]}", progress.text, progress.detail]
        return [*texts, bar, left, f"GPU {process.slot}" if process.slot else ""]

    def _lay_out(self, running: Sequence[JobProcess], width: int) -> list[Text]:
        """Return a line for each job. Where it is narrow, columns go in the order of NARROWED."""
        rows = [self._describe(process) for process in running]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for column, least in NARROWED if rows else ():
            missing = sum(w + 2 for w in widths if w) - 2 - (width - 1)
            if missing > 0 and widths[column] > least:
                widths[column] = max(least, widths[column] - missing) if least else 0
        lines = []
        for row in rows:
            cells = zip(row, widths, strict=True)
            texts = [c if isinstance(c, Text) else Text(fit(c, w)) for c, w in cells if w]
            lines.append(Text("  ").join(texts))
            lines[-1].rstrip()
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
        self, failed: Sequence[tuple[Job, str]], left: Sequence[Job], interrupted: bool
    ) -> None:
        """Say how it ended: counts, failures with cause and log, jobs there was no time for."""
        counts = {how: self._counts[how] for how in ("before", "done", "stopped early", "failed")}
        counts["not finished"] = self._total - sum(counts.values())
        parts = [f"{count} {how}" for how, count in counts.items() if count or how == "done"]
        passed = duration(time.monotonic() - self._start)
        self.say(f"{self._runs}: {', '.join(parts)}; {passed}")
        for job, cause in failed:
            log = f" (log: {log})" if (log := job.log()) else ""
            self.say(f"failed: {self._labels[job]}: {cause}{log}", always=True)
        for job in left:
            self.say(f"left: {self._labels[job]}")
        if interrupted:
            self.say("interrupted; the same command goes on")
        elif failed:
            self.say("the same command tries the failed ones again")
        elif left:
            self.say("there was no time for the rest; the same command goes on")

    def _number(self, job: Job) -> str:
        width = len(str(self._total))
        return f"[{self._numbers[job]:>{width}}/{self._total}]"

    def say_of(self, job: Job, text: str) -> None:
        """Print a line about a job."""
        self.say(f"{self._number(job)} {self._labels[job]}: {text}")

    def say(self, text: str, always: bool = False) -> None:
        """Print a line that stays; of `quiet` views where it is `always` wanted."""
        if self._mode == "quiet" and not always:
            return
        with self._lock:
            if self._live:
                self._live.draw([])
                self._refreshed = 0.0  # soon again
            self._console.print(text)
