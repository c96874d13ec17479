"""Trackers of runs: the contract, and wrappers that let none end a run or get an epoch twice."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from resnet_cifar.errors import describe
from resnet_cifar.record.schema import Metrics, Tracked

if TYPE_CHECKING:
    import numpy as np
    from torch import nn


class Tracker:
    """Takes one run's numbers to one place; this one does nothing with them. It may raise anything.

    Attributes:
        id: by which the same run is found there again; "" where its place says it.
    """

    id: str = ""

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


class FailSafeTracker(Tracker):
    """A tracker that can't end a run: its first failure is said, and after that it does nothing.

    Args:
        name: for people.
        open: makes the tracker; may fail, or return None where there is nothing to track.
        say: tells the user a line.
    """

    def __init__(
        self, name: str, open: Callable[[], Tracker | None], say: Callable[[str], None]
    ) -> None:
        self._name, self._say = name, say
        self._tracker: Tracker | None = self._try(open)

    def alive(self) -> bool:
        """True if anything still gets there."""
        return self._tracker is not None

    def scalars(self, metrics: Mapping[str, Any]) -> None:
        self._call("scalars", metrics)

    def image(self, name: str, pixels: np.ndarray, epoch: int) -> None:
        self._call("image", name, pixels, epoch)

    def histograms(self, model: nn.Module, epoch: int) -> None:
        self._call("histograms", model, epoch)

    def end(self, status: str) -> None:
        self._call("end", status)

    def close(self) -> None:
        self._call("close")

    def _call(self, name: str, *arguments: Any) -> None:
        tracker = self._tracker
        if tracker is not None:
            self._try(lambda: getattr(tracker, name)(*arguments))

    def _try(self, call: Callable[[], Any]) -> Any:
        try:
            return call()
        except Exception as error:
            self._say(f"{self._name}: {describe(error)[:300]}; the run goes on without it")
            self._tracker = None
            return None


class ResumableTracker(FailSafeTracker):
    """A guarded tracker that gets each epoch once, however often the run is taken up.

    Run.json says what it has been given, and says so before: a kill in between costs the tracker an
    epoch, never shows it twice. On opening it is given what it lacks of the epochs done.

    Args:
        option: its `logger=…`.
        open: makes the tracker, as of `FailSafeTracker`.
        before: what an earlier session gave it.
        lines: the metrics of the epochs done.
        mark: writes `tracked` into run.json.
    """

    def __init__(
        self,
        option: str,
        open: Callable[[], Tracker | None],
        before: Tracked | None,
        lines: list[Metrics],
        mark: Callable[[Tracked], None],
        say: Callable[[str], None],
    ) -> None:
        super().__init__(f"logger={option}", open, say)
        self._mark = mark
        if self._tracker is not None:
            goes_on = before is not None and before.id == self._tracker.id
            epoch = before.epoch if before is not None and goes_on else 0
            self._tracked = Tracked(option, self._tracker.id, epoch)
            self._mark(self._tracked)
        for line in lines:
            self.scalars(line)

    def scalars(self, metrics: Mapping[str, Any]) -> None:
        if not self.alive() or metrics["epoch"] <= self._tracked.epoch:
            return
        before, self._tracked.epoch = self._tracked.epoch, metrics["epoch"]
        self._mark(self._tracked)
        super().scalars(metrics)
        if not self.alive():
            self._tracked.epoch = before
