"""Weights & Biases."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

import numpy as np
import wandb

from resnet_cifar.record.tracker import TrackedRun, Tracker


class WandbTracker(Tracker):
    """A run of a project.

    Offline, each session writes a directory of its own under the same id: `wandb sync` makes one
    run of them.

    Args:
        entity: a user or team; "": the one that is logged in.
    """

    def __init__(self, run: TrackedRun, project: str, entity: str, mode: str) -> None:
        self.id = run.id or uuid.uuid4().hex[:8]
        self._run = wandb.init(
            project=project,
            entity=entity or None,
            id=self.id,
            name=run.name,
            group=run.cell,
            dir=run.root,
            mode="offline" if mode == "offline" else "online",
            resume="allow" if mode == "online" else None,  # offline there is nobody to ask
            reinit="create_new",
            config=dict(run.config),
            settings=wandb.Settings(console="off", silent=True, disable_git=True),
        )

    def scalars(self, metrics: Mapping[str, Any]) -> None:
        numbers = {name: value for name, value in metrics.items() if value is not None}
        self._run.log(numbers, step=metrics["epoch"])

    def image(self, name: str, pixels: np.ndarray, epoch: int) -> None:
        self._run.log({name: wandb.Image(pixels)}, step=epoch)

    def end(self, status: str) -> None:
        self._run.finish(exit_code=0 if status == "completed" else 1)
