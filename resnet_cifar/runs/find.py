"""Discovery of runs below a directory."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from resnet_cifar.config.saved import fill_in_absent
from resnet_cifar.errors import UserError
from resnet_cifar.record.integrity import wrong_sizes
from resnet_cifar.record.layout import RUN
from resnet_cifar.record.schema import RunRecord, record_or_reason
from resnet_cifar.runs import listing

STATUSES = ("completed", "diverged", "running", "interrupted", "failed", "unreadable")


@dataclass(frozen=True)
class Run:
    """A run directory."""

    path: Path
    status: str
    record: RunRecord | None
    reason: str  # why there is no record
    damaged: list[str]  # files that are not as the run left them, as far as their sizes tell
    bytes: int
    age: float  # seconds since the record was last brought up to date

    @property
    def cell(self) -> str:
        return self.path.parent.name

    @property
    def seed(self) -> str:
        """`0`, or `0.2026-11-24T10-00-00` of a run that was set aside."""
        return self.path.name.removeprefix("seed=")

    def row(self) -> listing.Row:
        """What can be shown of it, sorted by and selected by."""
        record = self.record or self.reason
        return listing.row(self.path, self.status, record, bool(self.damaged), self.bytes, self.age)


def find(root: Path) -> list[Run]:
    """Every run below `root`, by cell and seed. Anything else is passed over.

    Where `root` is itself a run directory, that one.

    Raises:
        UserError: there is no such directory.
    """
    if not root.is_dir():
        raise UserError(f"{root} is not a directory: give the one that holds the runs")
    if (root / RUN).is_file():
        return [_read(root)]
    return [_read(path) for path in sorted(root.glob("*/seed=*")) if path.is_dir()]


def _read(path: Path) -> Run:
    found = record_or_reason(path)
    size = 0
    for file in path.iterdir():
        with contextlib.suppress(FileNotFoundError):  # a run that is writing renames its files
            size += file.lstat().st_size
    if isinstance(found, str):
        return Run(path, "unreadable", None, found, [], size, _age(None, path))
    fill_in_absent(found)
    damaged = wrong_sizes(path, found)
    return Run(path, found.status, found, "", damaged, size, _age(found.ended, path))


def _age(when: str | None, path: Path) -> float:
    """Seconds since `when`; without a record, since the directory last changed."""
    try:
        then = datetime.fromisoformat(when or "").timestamp()
    except ValueError:
        then = path.stat().st_mtime
    return max(0.0, time.time() - then)
