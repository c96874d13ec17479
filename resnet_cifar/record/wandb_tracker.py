"""Weights & Biases."""

import functools
import os
import uuid
from collections.abc import Mapping
from typing import Any

import numpy as np
import wandb

from resnet_cifar.errors import UserError, describe
from resnet_cifar.record.tracker import TrackedRun, Tracker

PROJECT = "resnet-cifar"


class WandbTracker(Tracker):
    """A run of a project; the arguments are those of conf/logger/wandb.yaml.

    Offline, each session writes a directory of its own under the same id: `wandb sync` makes one
    run of them.
    """

    def __init__(self, run: TrackedRun, project: str, entity: str, mode: str) -> None:
        self.id = run.id or uuid.uuid4().hex[:8]
        self._run = wandb.init(
            project=project or os.environ.get("WANDB_PROJECT") or PROJECT,
            entity=entity or None,
            id=self.id,
            name=run.name,
            group=run.cell,
            dir=os.environ.get("WANDB_DIR") or run.root,
            mode="offline" if mode == "offline" else "online",
            resume="allow" if mode == "online" else None,  # offline there is nobody to ask
            reinit="create_new",
            config=dict(run.config),
            settings=wandb.Settings(console="off", silent=True, disable_git=True),
        )
        if mode == "online":
            self.epoch = max(0, self._run.starting_step - 1)

    def scalars(self, metrics: Mapping[str, Any]) -> None:
        numbers = {name: value for name, value in metrics.items() if value is not None}
        self._run.log(numbers, step=metrics["epoch"])

    def image(self, name: str, pixels: np.ndarray, epoch: int) -> None:
        self._run.log({name: wandb.Image(pixels)}, step=epoch)

    def end(self, status: str) -> None:
        self._run.finish(exit_code=0 if status == "completed" else 1)


@functools.cache
def require_key() -> None:
    """Raise UserError where wandb has nothing to log in by; it would ask for it, or fail later."""
    cause = "there is no key"
    try:
        from wandb.sdk.lib.wbauth import authenticate_session

        server = wandb.setup().settings.base_url
        if authenticate_session(host=server, source="", prompt=False, update_session=False):
            return
    except (ImportError, AttributeError, TypeError):  # a version that can't say without asking
        return
    except wandb.Error as error:
        cause = describe(error)
    remedy = "set WANDB_API_KEY, run `wandb login`, or stay on disk by logger.mode=offline"
    raise UserError(f"logger=wandb can't log in ({cause}): {remedy}")
