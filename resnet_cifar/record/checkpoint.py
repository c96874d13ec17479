"""Checkpoints: atomic, checked, and with one spare."""

from __future__ import annotations

import io
import os
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from resnet_cifar.errors import UserError, describe
from resnet_cifar.files import read_regular, write_atomically
from resnet_cifar.record.integrity import read_summed
from resnet_cifar.record.layout import BEST, LAST, PREVIOUS, WEIGHTS
from resnet_cifar.record.schema import START_AGAIN, RecordError, RunRecord

KEPT = ("cell", "seed", "model", "ema", "epoch", "best")  # what is kept of a finished run


def save(path: Path, state: dict[str, Any]) -> None:
    """Write `state` (plain containers and tensors) to `path`, whole or not at all.

    Raises:
        OSError: the disk is full or not writable; what was there before is untouched.
    """
    # torch.save to a file turns a full disk into a RuntimeError; memory first, then one write.
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_atomically(path, buffer.getbuffer().tobytes())


def save_last(directory: Path, state: dict[str, Any]) -> None:
    """Write `state` as the last checkpoint and keep the one before it as the spare."""
    beside = directory / f".{LAST}.new"
    try:
        save(beside, state)
        if (directory / LAST).exists():
            os.replace(directory / LAST, directory / PREVIOUS)
        os.replace(beside, directory / LAST)  # killed in between: the spare is there
    finally:
        beside.unlink(missing_ok=True)


def load(path: Path) -> dict[str, Any]:
    """Read a checkpoint, its tensors on the host.

    Raises:
        FileNotFoundError: there is none.
        UserError: it is damaged (the archive's checksums are verified first).
    """
    try:
        content = io.BytesIO(read_regular(path))
        with zipfile.ZipFile(content) as archive:
            damaged = archive.testzip()
        if damaged is not None:
            raise UserError(f"checkpoint {path} is damaged: {damaged} fails its checksum")
        content.seek(0)
        state: dict[str, Any] = torch.load(content, map_location="cpu", weights_only=True)
        weights = state.get("model") if isinstance(state, dict) else None
        if not isinstance(weights, dict) or not all(map(torch.is_tensor, weights.values())):
            raise UserError(f"checkpoint {path} is not one of this program's")
        return state
    except (FileNotFoundError, UserError):
        raise
    except Exception as error:  # zipfile and torch raise many kinds on a truncated file
        raise UserError(f"checkpoint {path} is damaged: {describe(error)}") from error


@dataclass(frozen=True)
class ExpectedRun:
    """The run that a checkpoint has to belong to."""

    cell: str
    seed: int
    epochs: int
    steps: int  # in an epoch

    def check(self, state: dict[str, Any], path: Path) -> None:
        """Raise UserError if `state` is no checkpoint of this run that can be gone on from."""
        problem = self._problem(state)
        if problem:
            raise UserError(
                f"checkpoint {path} is {problem}: not one that a run of {self.epochs} epochs of "
                f"{self.steps} steps can go on from"
            )

    def _problem(self, state: dict[str, Any]) -> str | None:
        """Say what keeps the run from being gone on with from `state`; None if nothing does."""
        epoch, step, best = state.get("epoch"), state.get("step", 0), state.get("best")
        if (state.get("cell"), state.get("seed")) != (self.cell, self.seed):
            return f"of another run, {state.get('cell')}/seed={state.get('seed')}"
        if type(epoch) is not int or not 0 <= epoch <= self.epochs:
            return f"at epoch {epoch}"
        if type(step) is not int or not 0 <= step <= self.steps:
            return f"at step {step}"
        if epoch == self.epochs and step:
            return f"at step {step} after the last epoch"
        if epoch < self.epochs and "optimizer" not in state:
            return "without its optimizer"
        if best is None:
            return "without its best epoch" if epoch else None
        at = best.get("epoch") if isinstance(best, dict) else None
        return None if type(at) is int and 1 <= at <= epoch else f"with best={best}"


def load_last(directory: Path, owner: ExpectedRun) -> tuple[dict[str, Any] | None, list[str]]:
    """Load the newest checkpoint that can be read and belongs to `owner`.

    Returns:
        The state, None where the run has no checkpoint yet; and what to tell the user.

    Raises:
        UserError: there are checkpoints and none can be gone on from.
    """
    notes: list[str] = []
    for name in (LAST, PREVIOUS):
        try:
            state = load(directory / name)
            owner.check(state, directory / name)
            return state, notes
        except FileNotFoundError:
            continue
        except UserError as error:
            notes.append(str(error))
    if notes:
        raise UserError(f"{'; '.join(notes)}; no other is left: {START_AGAIN}")
    return None, notes


def load_weights(directory: Path, weights: str, record: RunRecord) -> dict[str, Any]:
    """Load weights of a run, one of `WEIGHTS`, and check that they are the record's.

    Returns:
        A dict with "model", a state dict, and "epoch".

    Raises:
        UserError: there are none, or they are damaged, changed or another run's.
    """
    name = WEIGHTS[weights]
    path = directory / name
    if read_summed(directory, name, record) is None:
        raise RecordError(f"{directory} has no {name}: {record.status}")
    state = load(path)
    if (state.get("cell"), state.get("seed")) != (record.cell, record.seed):
        raise RecordError(f"{path} is of another run, {state.get('cell')}/seed={state.get('seed')}")
    epoch = record.epochs_done if record.finished else state.get("epoch")
    if name == BEST:
        epoch = record.best["epoch"] if record.best else None
    if state.get("epoch") != epoch:
        raise RecordError(f"{path} is of epoch {state.get('epoch')}, not of epoch {epoch}")
    if weights == "ema":
        if "ema" not in state:
            raise RecordError(f"{directory} has no averaged weights: regularization.ema_decay=0")
        state["model"] = state.pop("ema")
    return state


def keep_best(directory: Path, state: dict[str, Any]) -> str | None:
    """Make sure that best.pt is of the epoch that `state`, a run as it is taken up, calls best.

    A process killed between last.pt and best.pt left the one before, or none.

    Returns:
        What to tell the user where its weights are lost.
    """
    best, path = state["best"], directory / BEST
    try:
        there = load(path)
        fits = all(there.get(key) == state.get(key) for key in ("cell", "seed"))
        epoch = there.get("epoch") if fits else None
    except (FileNotFoundError, UserError):
        epoch = None
    if best is None or epoch == best["epoch"]:
        return None
    if state["epoch"] == best["epoch"] and not state.get("step"):
        save(path, {key: value for key, value in state.items() if key in KEPT})
        return None
    return f"{path} is not of epoch {best['epoch']}, the best so far: those weights are lost"
