"""The options of `logger`: trackers that a run's numbers and pictures go to beside TensorBoard.

None of them changes a result or a name, and none can end a run: the files are the record.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import ClassVar

from resnet_cifar.errors import UserError, require
from resnet_cifar.identity import execution
from resnet_cifar.paths import installing
from resnet_cifar.record.tracker import TrackedRun, Tracker


@dataclass
class Logger:
    """A choice of tracker. Execution only: names and results are the same whatever stands here."""

    NAME: ClassVar[str]
    PACKAGE: ClassVar[str] = ""  # what it imports, and the extra of pyproject.toml that brings it

    def check(self) -> None:
        """Raise UserError where what it needs is not installed."""
        if self.PACKAGE and importlib.util.find_spec(self.PACKAGE) is None:
            raise UserError(f"logger={self.NAME} needs more packages: {installing(self.PACKAGE)}")

    def open(self, run: TrackedRun) -> Tracker | None:
        """Begin or take up the run there. None: TensorBoard alone. May raise anything."""
        return None


@dataclass
class TensorBoard(Logger):
    """Nothing beside TensorBoard."""

    NAME: ClassVar[str] = "tensorboard"


@dataclass
class MLflow(Logger):
    """A run of an MLflow experiment."""

    NAME: ClassVar[str] = "mlflow"
    PACKAGE: ClassVar[str] = "mlflow"
    uri: str = execution()
    experiment: str = execution()

    def __post_init__(self) -> None:
        require(bool(self.experiment.strip()), "logger.experiment", "''", "a name")

    def open(self, run: TrackedRun) -> Tracker:
        from resnet_cifar.record.mlflow_tracker import MLflowTracker

        return MLflowTracker(run, self.uri, self.experiment)


@dataclass
class WandB(Logger):
    """A run of a project at Weights & Biases."""

    NAME: ClassVar[str] = "wandb"
    PACKAGE: ClassVar[str] = "wandb"
    project: str = execution()
    entity: str = execution()
    mode: str = execution()

    def __post_init__(self) -> None:
        require(bool(self.project.strip()), "logger.project", "''", "a name")
        require(self.mode in ("online", "offline"), "logger.mode", self.mode, "online or offline")

    def open(self, run: TrackedRun) -> Tracker:
        from resnet_cifar.record.wandb_tracker import WandbTracker

        return WandbTracker(run, self.project, self.entity, self.mode)


OPTIONS: tuple[type[Logger], ...] = (TensorBoard, MLflow, WandB)
