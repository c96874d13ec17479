"""Checkpoints: atomic, checked, and with one spare."""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path
from typing import Any

import torch

from resnet_cifar.errors import UserError, describe
from resnet_cifar.files import write_atomically

LAST, PREVIOUS, BEST = "last.pt", "last.previous.pt", "best.pt"


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


def load(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Read a checkpoint.

    Raises:
        FileNotFoundError: there is none.
        UserError: it is damaged (the archive's checksums are verified first).
    """
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged is not None:
            raise UserError(f"checkpoint {path} is damaged: {damaged} fails its checksum")
        state = torch.load(path, map_location=device, weights_only=True)
        if not isinstance(state, dict) or "model" not in state:
            raise UserError(f"checkpoint {path} is not one of this program's")
        return state
    except (FileNotFoundError, UserError):
        raise
    except Exception as error:  # zipfile and torch raise many kinds on a truncated file
        raise UserError(f"checkpoint {path} is damaged: {describe(error)}") from error


def load_last(directory: Path, device: torch.device) -> tuple[dict[str, Any] | None, list[str]]:
    """The newest checkpoint that can be read.

    Returns:
        The state, None where the run has no checkpoint yet; and what to tell the user.

    Raises:
        UserError: there are checkpoints and all are damaged.
    """
    notes: list[str] = []
    for name in (LAST, PREVIOUS):
        try:
            return load(directory / name, device), notes
        except FileNotFoundError:
            continue
        except UserError as error:
            notes.append(str(error))
    if notes:
        raise UserError(
            f"{'; '.join(notes)}; no other is left: rerun=true sets the run aside and starts again"
        )
    return None, notes
