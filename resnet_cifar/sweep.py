"""A run as the launcher's pool sees it: its name, whether it is done, how far it is. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hydra_plugins.local_pool import Job, Outcome, Progress
from resnet_cifar import metrics as m
from resnet_cifar.config import from_dictconfig
from resnet_cifar.identity import cell_name, run_directory
from resnet_cifar.lock import is_held


class RunJob(Job):
    """One run of a sweep. Raises ConfigError where its configuration is not allowed."""

    def __init__(self, config: Any, overrides: Sequence[str]) -> None:
        super().__init__(config, overrides)
        self.run = from_dictconfig(config)
        self.directory = run_directory(self.run)

    @property
    def key(self) -> str:
        return str(self.directory)

    @property
    def label(self) -> str:
        return f"{cell_name(self.run)}/seed={self.run.seed}"

    @property
    def arguments(self) -> list[str]:
        # The pool waits for a busy run in its own way, without a process that sits on a slot.
        return [*self.overrides, "when_busy=skip"]

    def outcome(self) -> Outcome | None:
        if self.run.rerun and self.exit_code is None:
            return None
        record = m.finished(self.directory)
        if record is None:
            return None
        return Outcome(m.objective(record), f"{record['status']}{m.result(record)}")

    def busy(self) -> bool:
        return is_held(self.directory / m.LOCK)

    def progress(self) -> Progress | None:
        record = m.read_record(self.directory)
        if record is None or not record.get("epochs_done"):
            return None
        done, total = record["epochs_done"], record["epochs"]
        return Progress(done, total, f"epoch {done}/{total}{m.result(record)}")

    def cost(self) -> float:
        """Epochs left × images × channels², to which the arithmetic is proportional."""
        record = m.read_record(self.directory) or {}
        done = 0 if self.run.rerun and self.exit_code is None else record.get("epochs_done") or 0
        left = max(0, self.run.trainer.epochs - done)
        return float(left * self.run.data.train_size * self.run.model.width**2)

    def log(self) -> str | None:
        path = self.directory / "train.log"
        return str(path) if path.exists() else None

    @classmethod
    def plan(cls, jobs: Sequence[Job], slots: int, threads: int) -> None:
        from resnet_cifar.plan import show

        show([job.run for job in jobs if isinstance(job, RunJob)], slots, threads)
