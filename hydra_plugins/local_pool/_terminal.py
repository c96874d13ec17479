"""Lines for people, whatever becomes of the place they go to."""

from __future__ import annotations

import os
import sys
from typing import Any

from rich.console import Console


def duration(seconds: float) -> str:
    """45 s, 12 min, 3.4 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


class SweepConsole(Console):
    """A console whose reader may go away and whose disk may be full: the sweep goes on silently."""

    def __init__(self) -> None:
        super().__init__(highlight=False, soft_wrap=True)

    def say(self, text: str) -> None:
        """One line, as it is."""
        self.print(text, markup=False)

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
