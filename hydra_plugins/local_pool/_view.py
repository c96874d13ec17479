"""A sweep on the screen: a live view of its runs on a terminal, lines elsewhere."""

from __future__ import annotations

import os
import re
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from hydra_plugins.local_pool._job import Job, JobSource, Outcome

if TYPE_CHECKING:
    from hydra_plugins.local_pool._process import JobProcess

REFRESH = 0.5  # seconds; a job's progress is read from its files
BAR = 10  # columns
SHORTEST = 12  # columns of a label


def duration(seconds: float) -> str:
    """Write a duration for people: 45 s, 12 min, 3.4 h, 2.1 days."""
    for unit, size, least in (("days", 86400, 86400), ("h", 3600, 3600), ("min", 60, 90)):
        if seconds >= least:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.0f} s"


def fit(text: str, width: int) -> str:
    """Bring `text` to exactly `width` columns: padded, or cut with an ellipsis."""
    text = visible(text)
    return text.ljust(width) if len(text) <= width else text[: max(0, width - 1)] + "…"


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
    """The last lines of a terminal, drawn again and again.

    rich's own live view goes up by as many rows as it has drawn; in a window that became narrower
    since, the terminal has folded them into more, and the rest stays behind.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._drawn: list[int] = []  # the lines' lengths

    def draw(self, lines: Sequence[Text]) -> None:
        """Show `lines`, cut to the window, in place of those before."""
        self.clear()
        width, height = self._console.size
        for line in lines[-max(1, height - 2) :]:
            line.truncate(width - 1)
            self._console.print(line, soft_wrap=True)
            self._drawn.append(line.cell_len)

    def clear(self) -> None:
        """Take the lines away; what is printed next takes their place."""
        width = self._console.size.width
        rows = sum(max(1, -(-length // width)) for length in self._drawn)
        if rows:
            self._console.file.write(f"\r\x1b[{rows}A\x1b[J")
        self._drawn = []


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
        self.say(f"{self._total} runs: {self._ended} done before, {left} to do, {slots} at once")
        for job in jobs:
            if job.key in done:
                self.say_of(job, f"skipped, {done[job.key].text}")

    def add(self, job: Job, label: str) -> None:
        """Take in a job that the source has proposed."""
        self._labels[job] = label
        self._numbers[job] = self._before + len(self._numbers) + 1

    def end(self, job: Job, text: str) -> None:
        """Say how a job has ended, and count it."""
        self._ended += 1
        self.say_of(job, text)

    def show_output(self, job: Job, line: str) -> None:
        """Show a line that a job has printed; the live view shows its progress instead."""
        if self._mode == "plain":
            self.say(f"{self._number(job)} {line}")

    def refresh(self, running: Sequence[JobProcess], waiting: Sequence[Job]) -> None:
        """Bring the live view up to date, now and then."""
        if self._live is None or time.monotonic() - self._refreshed < REFRESH:
            return
        width = self._console.size.width
        lines = self._lay_out(running, width)
        share = self._ended / self._total
        text = f" {self._ended} of {self._total} ended, {len(running)} running"
        if left := self._estimate_left(running, waiting):
            text += f", about {duration(left)} left"
        with self._lock:
            self._live.draw([*lines, self._console.bar(share, BAR) + Text(text)])
        self._refreshed = time.monotonic()

    def _describe(self, process: JobProcess) -> tuple[str, float, list[str]]:
        """Describe a running job: label, share done, and the rest in order of importance."""
        job, progress = process.job, process.job.progress()
        label = f"{self._number(job)} {self._labels[job]}"
        slot = f"GPU {process.slot}" if process.slot else ""
        if progress is None:
            return label, 0.0, ["starting", "", slot, ""]
        before = process.at_start.done if process.at_start else 0.0
        made, passed = progress.done - before, time.monotonic() - process.started
        left = f"{duration(passed / made * (progress.total - progress.done))} left" if made else ""
        return label, progress.done / progress.total, [progress.text, left, slot, progress.detail]

    def _lay_out(self, running: Sequence[JobProcess], width: int) -> list[Text]:
        """Return a line for each job; if they are too wide, the detail goes, then labels' ends."""
        rows = [self._describe(process) for process in running]
        widths = [max(map(len, column)) for column in zip(*(row[2] for row in rows), strict=True)]
        longest = max((len(label) for label, _, _ in rows), default=0)

        def room() -> int:  # for the label, between gaps of two columns
            return width - 1 - BAR - 2 - sum(w + 2 for w in widths if w)

        if rows and room() < longest:
            widths[-1] = 0
        longest = min(longest, max(SHORTEST, room()))
        lines = []
        for label, share, texts in rows:
            cells = [fit(text, w) for text, w in zip(texts, widths, strict=True) if w]
            bar = self._console.bar(share, BAR)
            lines.append(Text(fit(label, longest) + "  ") + bar + Text("  " + "  ".join(cells)))
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
        counts = {"before": self._before, "done": len(outcomes), "stopped early": len(pruned)}
        counts["failed"] = len(failures)
        counts["not finished"] = self._total - sum(counts.values())
        parts = [f"{count} {how}" for how, count in counts.items() if count or how == "done"]
        passed = duration(time.monotonic() - self._start)
        self.say(f"{self._total} runs: {', '.join(parts)}; {passed}")
        for job, cause in failures:
            log = job.log()
            self.say(f"failed: {self._labels[job]}: {cause}" + (f" (log: {log})" if log else ""))
        for job in left:
            self.say(f"left: {self._labels[job]}")
        if interrupted:
            self.say("interrupted; the same command goes on")
        elif failures:
            self.say("the same command tries the failed ones again")
        elif left:
            self.say("there was no time for the rest; the same command goes on")

    def _number(self, job: Job) -> str:
        width = len(str(self._total))
        return f"[{self._numbers[job]:>{width}}/{self._total}]"

    def say_of(self, job: Job, text: str) -> None:
        """Print a line about a job."""
        self.say(f"{self._number(job)} {self._labels[job]}: {text}")

    def say(self, text: str) -> None:
        """Print a line that stays."""
        if self._mode == "quiet":
            return
        with self._lock:
            if self._live:
                self._live.clear()
                self._refreshed = 0.0  # soon again
            self._console.print(text)
