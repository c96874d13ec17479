"""The contract of a tracker, and the wrapper that keeps its failures out of a run."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from resnet_cifar.errors import describe
from resnet_cifar.record.schema import FINAL, Metrics, Tracked

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

LIMIT = 60.0  # seconds that a tracker may take to answer a call
GRACE = 1.0  # seconds that are left to it when a signal has come
GIVEN_UP = threading.Event()  # set when this process has left a tracker alone


class Tracker:
    """Takes a run's numbers to a place; this one does nothing with them. It may raise anything."""

    id: str = ""  # by which the same run is found there again; "" where its place says it
    epoch: int | None = None  # the last one that is there, asked of the place itself, if it can say

    def scalars(self, metrics: Mapping[str, Any]) -> None:
        """Take an epoch's numbers under their own names; None is one that was not finite."""

    def image(self, name: str, pixels: np.ndarray, epoch: int) -> None:
        """Take an image, uint8 [height, width, 3]."""

    def histograms(self, model: nn.Module, epoch: int) -> None:
        """Take the distribution of every parameter."""

    def end(self, status: str) -> None:
        """End the run, or this session of it, with one of schema.STATUSES."""

    def close(self) -> None:
        """Write out what is held back."""


class TrackedRun(NamedTuple):
    """The run, as a tracker is told of it."""

    name: str  # <cell>/seed=<n>
    cell: str
    root: Path  # output_root
    config: Mapping[str, Any]  # flat
    id: str  # of the same run at this tracker, by an earlier session; ""


class FailSafeTracker:
    """A tracker that can't end or hold a run and gets each epoch once, however often it is resumed.

    After its first failure, or no answer in time, it does nothing: its thread is left behind.
    Run.json says what it is given before it is: a kill in between costs the tracker an epoch,
    never shows it twice.

    Args:
        open: makes the tracker; None where there is nothing to track.
        lines: the metrics of the epochs done: it is given those that it lacks.
        before: what an earlier session gave it.
        mark: writes what it has been given into run.json, if that needs a memory.
        interrupted: True if a signal has come, which leaves it GRACE seconds.
    """

    def __init__(
        self,
        name: str,
        open: Callable[[], Tracker | None],
        lines: list[Metrics],
        say: Callable[[str], None],
        before: Tracked,
        mark: Callable[[Tracked], None] | None = None,
        interrupted: Callable[[], bool] = lambda: False,
    ) -> None:
        self._name, self._say, self._interrupted = name, say, interrupted
        self._later = "; the same command hands it in later" if mark else ""
        self._mark = mark or (lambda tracked: None)
        self._tracker: Tracker | None = self._try(open)
        if (tracker := self._tracker) is not None:
            epoch = before.epoch if before.id == tracker.id else 0
            if tracker.epoch is not None:  # some answer before they have sent anything
                epoch = tracker.epoch
            self._tracked = Tracked(before.tracker, tracker.id, epoch, ended=False)
            self._mark(self._tracked)
        for line in lines:
            self.scalars(line)

    def scalars(self, metrics: Metrics) -> None:
        """Give it an epoch's numbers, unless it has them."""
        if self._tracker is None or metrics["epoch"] <= self._tracked.epoch:
            return
        before, self._tracked.epoch = self._tracked.epoch, metrics["epoch"]
        self._mark(self._tracked)
        if not self.tell(lambda tracker: tracker.scalars(metrics)):
            self._tracked.epoch = before
            self._mark(self._tracked)

    def end(self, status: str) -> None:
        """Tell it the run's status at the end of the session."""
        if self.tell(lambda tracker: tracker.end(status)) and status in FINAL:
            self._tracked.ended = True

    def tell(self, call: Callable[[Tracker], None]) -> bool:
        """Call a method of the tracker; False if that fails or an earlier call has failed."""
        if (tracker := self._tracker) is not None:
            self._try(lambda: call(tracker))
        return self._tracker is not None

    def _try(self, call: Callable[[], Any]) -> Any:
        answer: Future[Any] = Future()

        def work() -> None:
            try:
                answer.set_result(call())
            except BaseException as error:  # SystemExit too: it ends no run
                answer.set_exception(error)

        threading.Thread(target=work, daemon=True).start()
        begun = time.monotonic()
        deadline = begun + LIMIT
        while not answer.done() and (now := time.monotonic()) < deadline:
            if self._interrupted():
                deadline = min(deadline, now + GRACE)
            wait([answer], 0.05)
        if answer.done() and answer.exception() is None:
            return answer.result()
        silent = TimeoutError(f"no answer within {time.monotonic() - begun:.0f} seconds")
        error = (answer.exception() if answer.done() else None) or silent
        self._say(f"{self._name}: {describe(error)}; the run goes on without it{self._later}")
        self._tracker = None
        GIVEN_UP.set()
        return None
