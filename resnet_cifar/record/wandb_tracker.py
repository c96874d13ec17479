"""Weights & Biases."""

from __future__ import annotations

import contextlib
import netrc
import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import wandb

from resnet_cifar.record.tracker import TrackedRun, Tracker

PROJECT = "resnet-cifar"


class WandbTracker(Tracker):
    """A run of a project.

    Offline, each session writes a directory of its own under the same id: `wandb sync` makes one
    run of them.

    Args:
        project: "": WANDB_PROJECT, or PROJECT.
        entity: a user or team; "": WANDB_ENTITY, or the one that is logged in.
        mode: online or offline.
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

    def scalars(self, metrics: Mapping[str, Any]) -> None:
        numbers = {name: value for name, value in metrics.items() if value is not None}
        self._run.log(numbers, step=metrics["epoch"])

    def image(self, name: str, pixels: np.ndarray, epoch: int) -> None:
        self._run.log({name: wandb.Image(pixels)}, step=epoch)

    def end(self, status: str) -> None:
        self._run.finish(exit_code=0 if status == "completed" else 1)


def has_key() -> bool:
    """Return True if there is something to log in by: wandb would ask for it, or fail later."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    settings = wandb.setup().settings
    named = os.environ.get("NETRC")
    files = [Path(named)] if named else [Path.home() / name for name in (".netrc", "_netrc")]
    host = urlsplit(settings.base_url).hostname or ""
    for file in files:
        with contextlib.suppress(OSError, netrc.NetrcParseError):
            if netrc.netrc(file).authenticators(host):
                return True
    return bool(settings.api_key)
