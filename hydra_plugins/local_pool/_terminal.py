"""Lines for people: a console that outlives its reader, and lines that are drawn anew."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.text import Text


def duration(seconds: float) -> str:
    """Write a duration for people: 45 s, 12 min, 3.4 h, 2.1 days."""
    for unit, size, least in (("days", 86400, 86400), ("h", 3600, 3600), ("min", 60, 90)):
        if seconds >= least:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.0f} s"


def fit(text: str, width: int) -> str:
    """Bring `text` to exactly `width` columns: padded, or cut with an ellipsis."""
    return text.ljust(width) if len(text) <= width else text[: max(0, width - 1)] + "…"


class SweepConsole(Console):
    """A console whose reader may go away and whose disk may be full: the sweep goes on silently."""

    def __init__(self) -> None:
        super().__init__(highlight=False, soft_wrap=True, markup=False)

    def print(self, *objects: Any, **settings: Any) -> None:
        try:
            super().print(*objects, **settings)
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
