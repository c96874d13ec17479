"""The options of `logger`: trackers that a run's numbers go to beside TensorBoard.

None of them changes a result or a name, and none can end a run: the files are the record.
"""

import importlib.util
import os
from dataclasses import dataclass
from typing import ClassVar

from resnet_cifar.errors import UserError, require
from resnet_cifar.identity import execution
from resnet_cifar.paths import installing
from resnet_cifar.record.schema import RunRecord
from resnet_cifar.record.tracker import TrackedRun, Tracker


@dataclass
class Logger:
    """A choice of tracker. Execution only: names and results are the same whatever stands here."""

    NAME: ClassVar[str]
    PACKAGE: ClassVar[str] = ""  # what it imports, and the extra of pyproject.toml that brings it

    def check(self) -> None:
        """Raise UserError where what it needs is not installed, or nobody is logged in."""
        if self.PACKAGE and importlib.util.find_spec(self.PACKAGE) is None:
            raise UserError(f"logger={self.NAME} needs more packages: {installing(self.PACKAGE)}")

    def open(self, run: TrackedRun) -> Tracker | None:
        """Begin or take up the run there. None: TensorBoard alone. May raise anything."""
        return None

    def lacks(self, record: RunRecord) -> bool:
        """Return True if a finished run has an epoch, or its outcome, that was not handed in."""
        given = record.tracked.get(self.NAME)
        return given is None or given.epoch < record.epochs_done or not given.ended


@dataclass
class TensorBoard(Logger):
    """Nothing beside TensorBoard."""

    NAME: ClassVar[str] = "tensorboard"

    def lacks(self, record: RunRecord) -> bool:
        return False


@dataclass
class MLflow(Logger):
    """A run of an MLflow experiment."""

    NAME: ClassVar[str] = "mlflow"
    PACKAGE: ClassVar[str] = "mlflow"
    uri: str = execution()
    experiment: str = execution()

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
        allowed = self.mode in ("", "online", "offline")
        require(allowed, "logger.mode", self.mode, "online, offline or empty")

    def resolved_mode(self) -> str:
        """Return online, offline or disabled: by the option, or else by WANDB_MODE."""
        mode = self.mode or os.environ.get("WANDB_MODE") or "online"
        return {"dryrun": "offline", "run": "online", "shared": "online"}.get(mode, mode)

    def check(self) -> None:
        super().check()
        mode, allowed = self.resolved_mode(), ("online", "offline", "disabled")
        require(mode in allowed, "WANDB_MODE", mode, "one of " + ", ".join(allowed))
        if mode == "online":
            from resnet_cifar.record.wandb_tracker import require_key

            require_key()

    def open(self, run: TrackedRun) -> Tracker | None:
        if (mode := self.resolved_mode()) == "disabled":
            return None
        from resnet_cifar.record.wandb_tracker import WandbTracker

        return WandbTracker(run, self.project, self.entity, mode)

    def lacks(self, record: RunRecord) -> bool:
        return self.resolved_mode() != "disabled" and super().lacks(record)


OPTIONS: tuple[type[Logger], ...] = (TensorBoard, MLflow, WandB)
