"""Text for people: durations, printable lines, consoles."""

from __future__ import annotations

import contextlib
import os
import sys
import unicodedata
from collections.abc import Iterator

from rich.console import Console


def duration(seconds: float) -> str:
    """Write a duration to plan by: 45 s, 12 min, 3.4 h, 2.1 days."""
    for unit, size in (("days", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= size * (1.0 if unit != "min" else 1.5):
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.0f} s"


def printable(text: str) -> str:
    """Fold `text` into one line, control characters written out: it may be from anybody's file.

    An escape sequence would be obeyed by a terminal, and half a surrogate pair, a file name's
    undecodable byte, can be written nowhere.
    """
    line = " ".join(text.split())
    if line.isprintable():
        return line
    return "".join(
        c.encode("unicode_escape").decode() if unicodedata.category(c) in _UNSEEN else c
        for c in line
    )


_UNSEEN = ("Cc", "Cf", "Cs", "Co", "Cn")  # control, format, surrogate, private, unassigned


def wide_console() -> Console:
    """Make a console for tables: as wide as the terminal, or without one 200 columns.

    rich assumes 80 columns for a file or a pipe, too few for the name of a cell.
    """
    return Console(highlight=False, soft_wrap=True, width=None if on_terminal() else 200)


def on_terminal() -> bool:
    """True if standard output is a terminal. There may be none at all (`>&-`, pythonw)."""
    return sys.stdout is not None and sys.stdout.isatty()


@contextlib.contextmanager
def no_backend() -> Iterator[None]:
    """Import matplotlib inside: MPLBACKEND may name a backend that is not installed here.

    Figures need none; the pictures of the notebook they are shown in may.
    """
    backend = os.environ.pop("MPLBACKEND", None)
    yield
    if backend is not None:
        os.environ["MPLBACKEND"] = backend
        with contextlib.suppress(ValueError):
            sys.modules["matplotlib"].rcParams["backend"] = backend
