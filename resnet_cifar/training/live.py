"""Show a run while it trains: a live line on a terminal, a line per epoch elsewhere."""

import contextlib
import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from rich.text import Text

from hydra_plugins.local_pool._view import LiveLines, SweepConsole
from resnet_cifar.files import open_regular
from resnet_cifar.text import duration, on_terminal, visible

REFRESH = 0.25  # seconds
SIGN = 2.0  # seconds between two signs of work


class Display(contextlib.AbstractContextManager["Display"]):
    """Prints lines for the person and for train.log, and, as trainer.progress says, a live one."""

    def __init__(self, mode: str) -> None:
        self.console = SweepConsole()
        self.console.quiet = mode == "quiet"
        able = on_terminal() and not self.console.is_dumb_terminal
        self._live = mode == "live" or (mode == "auto" and able)
        self._line = LiveLines(self.console)
        self._lock = threading.Lock()  # the writer of a run's record says things, too
        self._log: TextIO | None = None
        self._of = (0, 0)  # epochs, and steps of an epoch
        self._last = ""  # the accuracy of the last epoch
        self._drawn = self._signed = 0.0  # time.monotonic() of the live line, and of `alive`

    def log_to(self, path: Path) -> None:
        """Append the lines from now on to `path` too, with date and time."""
        file = open_regular(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._log = os.fdopen(file, "a", encoding="utf-8")  # closed by __exit__

    def say(self, text: str, shown: str = "") -> None:
        """Print one line, or what is `shown` of it, unless quiet, and log it."""
        with self._lock:
            self._line.draw([])
            self.console.print(visible(shown or text))
            self.note(text)

    def note(self, text: str) -> None:
        """Log a line without printing it. A log that can't be written stops no training."""
        if self._log:
            with contextlib.suppress(OSError):
                self._log.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")
                self._log.flush()

    def alive(self) -> None:
        """Leave a sign of work for a sweep that watches: the time of train.log."""
        if self._log and time.monotonic() - self._signed > SIGN:
            self._signed = time.monotonic()
            with contextlib.suppress(OSError):
                os.utime(self._log.name)

    def start(self, epochs: int, steps: int) -> None:
        """Show the live line, where there is one."""
        self._of = epochs, steps
        if self._live:
            self._line.draw([Text("starting")])

    def step(self, epoch: int, step: int, rate: float, left: float) -> None:
        """Show that `step` updates of `epoch` are done, where there is a live line.

        `rate` is in images a second, `left` in seconds until the run's end.
        """
        if not self._live or time.monotonic() - self._drawn < REFRESH:
            return
        self._drawn, (epochs, steps) = time.monotonic(), self._of
        bar, speed = self.console.bar(step / steps, 10), Text(f"{rate:,.0f} images/s")
        done, time_left = Text(f"{step}/{steps}"), Text(f"{duration(left)} left")
        known = [Text(f"epoch {epoch}/{epochs}"), *([Text(self._last)] if self._last else [])]
        parts = [*known, bar, done, time_left, speed]
        for part in (bar, speed, done, time_left):  # go in this order where the window is narrow
            if len(Text("  ").join(parts)) >= self.console.width:
                parts.remove(part)
        with self._lock:
            self._line.draw([Text("  ").join(parts)])

    def epoch(self, parts: Sequence[str], accuracy: float) -> None:
        """Print the line of a finished epoch, which reached this accuracy on validation."""
        self._last, shown = f"val {100 * accuracy:.2f} %", list(parts)
        while self._live and len("  ".join(shown)) > self.console.width and shown[2:]:
            shown.pop()
        self.say("  ".join(parts), "  ".join(shown))

    def __exit__(self, *error: object) -> None:
        self._line.draw([])
        if self._log:
            with contextlib.suppress(OSError):
                self._log.close()
