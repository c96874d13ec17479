"""What a tracker of runs promises: TensorBoard and what `logger` adds to it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from torch import nn


class Tracker:
    """One run's numbers at one place; this one does nothing with them. It may raise anything.

    Attributes:
        id: by which the same run is found there again; "" where its place says it.
    """

    id: str = ""

    def scalars(self, metrics: Mapping[str, Any]) -> None:
        """An epoch's numbers under their own names; None is one that was not finite."""

    def image(self, name: str, pixels: np.ndarray, epoch: int) -> None:
        """An image uint8 [height, width, 3]"""

    def histograms(self, model: nn.Module, epoch: int) -> None:
        """Every parameter and its last gradient."""

    def end(self, status: str) -> None:
        """How the run has ended, or this session of it: one of run_files.STATUSES."""

    def close(self) -> None:
        """Write out what is held back."""


class TrackedRun(NamedTuple):
    """What a tracker is told of the run."""

    name: str  # <cell>/seed=<n>
    cell: str
    root: Path  # output_root
    config: Mapping[str, Any]  # flat
    id: str  # of the same run at this tracker, by an earlier session; ""
