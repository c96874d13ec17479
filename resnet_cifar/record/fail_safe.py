"""Trackers that can't end a run, and get each epoch once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from torch import nn

from resnet_cifar.errors import describe
from resnet_cifar.record.logger import Logger
from resnet_cifar.record.schema import Metrics, Tracked
from resnet_cifar.record.tracker import TrackedRun, Tracker


class Guarded(Tracker):
    """A tracker that can't end a run: its first failure is said, and after that it does nothing.

    Args:
        name: for people.
        open: makes the tracker; may fail, or find that there is nothing to track.
        say: tells the user a line.
    """

    def __init__(
        self, name: str, open: Callable[[], Tracker | None], say: Callable[[str], None]
    ) -> None:
        self._name, self._say = name, say
        self._tracker: Tracker | None = None

        def begin(_: None = None) -> None:
            self._tracker = open()

        self._try(begin)

    def alive(self) -> bool:
        """Whether anything still gets there."""
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

    def _try(self, call: Callable[[], Any]) -> None:
        try:
            call()
        except Exception as error:
            self._say(f"{self._name}: {describe(error)[:300]}; the run goes on without it")
            self._tracker = None


class TrackedOnce(Guarded):
    """A guarded tracker that gets each epoch once, however often the run is taken up.

    What it has been given stands in run.json, written before: a kill in between costs the tracker
    an epoch, never shows it twice. What it lacks of the epochs done it is given on opening.

    Args:
        before: what an earlier session gave it.
        lines: the metrics of the epochs done.
        mark: writes `tracked` into run.json.
    """

    def __init__(
        self,
        logger: Logger,
        run: TrackedRun,
        before: Tracked | None,
        lines: list[Metrics],
        mark: Callable[[Tracked], None],
        say: Callable[[str], None],
    ) -> None:
        super().__init__(f"logger={logger.NAME}", lambda: logger.open(run), say)
        self._mark = mark
        if self._tracker is not None:
            goes_on = before is not None and before.id == self._tracker.id
            epoch = before.epoch if before is not None and goes_on else 0
            self._tracked = Tracked(logger.NAME, self._tracker.id, epoch)
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
