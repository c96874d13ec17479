"""SIGINT, SIGTERM and SIGHUP as a flag that the training loop looks at after every step."""

from __future__ import annotations

import os
import signal
import sys
import threading
from types import FrameType, TracebackType
from typing import Any, Self

# Set by a launcher that keeps this process's standard input open for as long as it lives.
WATCH_PARENT = "RESNET_CIFAR_WATCH_PARENT"


class Interrupt:
    """While entered, the first of these signals is remembered in `signal` instead of raised.

    The second one acts as usual, so that a person who presses Ctrl-C twice is not kept waiting.
    Outside the main thread, where Python allows no handlers, it does nothing.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._old: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                if number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN:
                    continue  # under nohup, the end of the terminal is not the end of the run
                self._old[number] = signal.signal(number, self._remember)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)
        self._old = {}

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self.signal = number
        for other, handler in self._old.items():
            signal.signal(other, handler)


def stop_with_parent() -> None:
    """Send this process SIGTERM when the launcher that started it is gone, however it went."""
    if os.environ.pop(WATCH_PARENT, None) is None:
        return

    def watch() -> None:
        while os.read(sys.stdin.fileno(), 1):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()
