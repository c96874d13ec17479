"""Show a run while it trains: a live line on a terminal, a line per epoch elsewhere."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from pathlib import Path
from typing import Self, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from resnet_cifar.files import open_regular
from resnet_cifar.text import duration, on_terminal, visible


class _Console(Console):
    """Console that outlives its reader (a closed pipe, a dead launcher): the run goes on."""

    def on_broken_pipe(self) -> None:
        self.quiet = True
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


class Display:
    """Prints lines for the person and for train.log, and a live line while a run trains.

    Args:
        mode: auto, live, plain or quiet (trainer.progress).
    """

    def __init__(self, mode: str) -> None:
        self._quiet = mode == "quiet"
        # Text is text: no [markup] and no :emoji: in what people have named.
        self.console = _Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
        self._live = mode == "live" or (mode == "auto" and on_terminal())
        self._log: TextIO | None = None
        self._bar: Progress | None = None

    def log_to(self, path: Path) -> None:
        """Append the lines from now on to `path` too, with date and time."""
        file = open_regular(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._log = os.fdopen(file, "a", encoding="utf-8")  # closed by __exit__

    def say(self, text: str) -> None:
        """Print one line, unless quiet, and log it."""
        if not self._quiet:
            try:
                self.console.print(visible(text))
            except OSError:  # the terminal is gone, and SIGHUP on its way
                self.console.quiet = True
        self.note(text)

    def note(self, text: str) -> None:
        """Log a line without printing it. A log that can't be written stops no training."""
        if self._log:
            with contextlib.suppress(OSError):
                self._log.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")
                self._log.flush()

    def start(self, epochs: int, steps: int) -> None:
        """Show the live line, where there is one."""
        if self._live and not self._quiet:
            self._bar = Progress(
                TextColumn(f"epoch {{task.fields[epoch]}}/{epochs}"),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TextColumn("{task.fields[speed]}", markup=False),
                TextColumn("{task.fields[last]}", markup=False),
                console=self.console,
                transient=True,
                refresh_per_second=4,
            )
            self._bar.add_task("", total=steps, epoch=0, speed="starting", last="")
            self._bar.start()

    def step(self, epoch: int, step: int, rate: float, left: float) -> None:
        """Show that `step` updates of `epoch` are done, where there is a live line.

        `rate` is in images a second, `left` in seconds until the run's end.
        """
        if self._bar:
            speed = f"{rate:,.0f} images/s, {duration(left)} left"
            self._bar.update(self._bar.task_ids[0], completed=step, epoch=epoch, speed=speed)

    def epoch(self, text: str) -> None:
        """Print the line of a finished epoch."""
        if self._bar:
            self._bar.update(self._bar.task_ids[0], last="last: " + text.partition("  ")[2])
        self.say(text)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar:
            self._bar.stop()
        if self._log:
            with contextlib.suppress(OSError):
                self._log.close()
