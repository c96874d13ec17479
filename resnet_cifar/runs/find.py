"""The one discovery of runs: every command and loader finds them here. No torch.

A run is a directory with run.json, whatever its name: the directory that is asked about, one in it
(a cell's runs, a folder of copies) or one in its subdirectories (`<root>/<cell>/seed=<n>`). A
directory that is named like a run, `seed=…`, and has no run.json is a run without a record. A run
directory whose name begins with a dot is none: it is on its way out (`housekeeping`).
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Iterable, Iterator
from datetime import datetime
from functools import cached_property
from pathlib import Path

from resnet_cifar.config.saved import fill_in_absent
from resnet_cifar.errors import UserError, describe
from resnet_cifar.record.integrity import damage
from resnet_cifar.record.layout import RUN
from resnet_cifar.record.schema import RecordError, RunRecord, read_record

STATUSES = ("completed", "diverged", "running", "interrupted", "failed", "unreadable")


class Run:
    """A run directory. What takes time to learn is learned when it is first asked for.

    Args:
        problem: why the directory can't be looked at, if it can't.
        hidden: it lies in a directory whose name begins with a dot.
    """

    def __init__(self, path: Path, problem: str = "", hidden: bool = False) -> None:
        self.path = path
        self.problem = problem
        self._hidden = hidden

    @cached_property
    def _record_or_reason(self) -> RunRecord | str:
        if self.problem:
            return self.problem
        try:
            return read_run(self.path) or f"{self.path} has no {RUN}"
        except RecordError as error:
            return str(error)

    @property
    def record(self) -> RunRecord | None:
        """run.json; None where it can't be read."""
        known = self._record_or_reason
        return None if isinstance(known, str) else known

    @property
    def reason(self) -> str:
        """Why there is no record, in one line; "" where there is one."""
        known = self._record_or_reason
        return known if isinstance(known, str) else ""

    @property
    def status(self) -> str:
        """One of `STATUSES`."""
        return self.record.status if self.record else "unreadable"

    @property
    def cell(self) -> str:
        """The name of the directory that the run lies in: its cell's, unless it was copied."""
        return self.path.parent.name

    @property
    def seed(self) -> str:
        """`0`, or `0.2026-11-24T10-00-00` of a run that was set aside."""
        name = self.path.name
        if self.record and not name.startswith("seed="):
            return str(self.record.seed)
        return name.removeprefix("seed=")

    @property
    def is_set_aside(self) -> bool:
        """True if commands list it and no table or comparison counts it.

        `rerun=true` has set it aside under a dated name, seed=0.2026-11-24T10-00-00, or it lies in
        a directory whose name begins with a dot.
        """
        return self._hidden or re.fullmatch(r"seed=\d+\..+", self.path.name) is not None

    @property
    def is_copy(self) -> bool:
        """True if it does not lie where its record says, in `<cell>/seed=<n>`."""
        record = self.record
        own_place = f"{record.cell}/seed={record.seed}" if record else ""
        return own_place != f"{self.path.parent.name}/{self.path.name}"

    @cached_property
    def damaged(self) -> list[str]:
        """A line for each file that is not as the run left it, as far as sizes tell."""
        return damage(self.path, self.record, quick=True) if self.record else []

    @cached_property
    def bytes(self) -> int:
        """The size of its files."""
        size = 0
        with contextlib.suppress(OSError):
            for file in self.path.iterdir():
                with contextlib.suppress(FileNotFoundError):  # a run that writes renames its files
                    size += file.lstat().st_size
        return size

    @cached_property
    def age(self) -> float:
        """Seconds since the record was last brought up to date; without one, the directory."""
        now = time.time()
        then = now
        ended = self.record.ended if self.record else None
        try:
            then = datetime.fromisoformat(ended or "").timestamp()
        except ValueError:
            with contextlib.suppress(OSError):
                then = self.path.stat().st_mtime
        return max(0.0, now - then)


def find_runs(root: Path) -> list[Run]:
    """Every run at or below `root`, in the order of the directories' names.

    Nothing of a run is read before it is asked for. A directory that can't be looked at is listed
    as a run without a record: whoever goes through the runs names it.

    Raises:
        UserError: there is no such directory.
    """
    if not root.is_dir():
        raise UserError(f"{root} is not a directory: give the one that holds the runs")
    if os.path.isfile(root / RUN):
        return [Run(root)]
    runs = []
    for entry in _subdirectories(root):
        runs += [entry] if _is_listed(entry) else find_cell_runs(entry.path)
    return runs


def find_cell_runs(directory: Path) -> list[Run]:
    """The runs directly in a directory, as `find_runs`: those of a cell, or of a folder of copies.

    Directories that are named like a run come first: a copy beside its original is the second.
    """
    runs = [entry for entry in _subdirectories(directory) if _is_listed(entry)]
    return sorted(runs, key=lambda run: not run.path.name.startswith("seed="))


def count_runs(runs: Iterable[Run]) -> tuple[list[Run], dict[str, str]]:
    """Choose the runs that tables and comparisons count: each once, an original before its copies.

    Returns:
        Those runs; and by directory, why a run is left out that was not set aside.
    """
    counted: list[Run] = []
    left_out: dict[str, str] = {}
    first: dict[tuple[str, int], Run] = {}
    for run in sorted((run for run in runs if not run.is_set_aside), key=lambda run: run.is_copy):
        if run.record is None:
            left_out[str(run.path)] = run.reason
        elif (same := first.setdefault((run.record.cell, run.record.seed), run)) is not run:
            left_out[str(run.path)] = f"the same run as {same.path}"
        else:
            counted.append(run)
    return counted, left_out


def is_run_directory(path: Path) -> bool:
    """True if a directory is a run's, or is named like one."""
    if path.name.startswith("."):
        return False
    return path.name.startswith("seed=") or os.path.lexists(path / RUN)


def _is_listed(entry: Run) -> bool:
    return bool(entry.problem) or is_run_directory(entry.path)


def _subdirectories(directory: Path) -> Iterator[Run]:
    """The directories in `directory` by name, and links to directories."""
    hidden = directory.name.startswith(".") and directory.name != ".."
    try:
        names = sorted(os.listdir(directory))
    except OSError as error:
        yield Run(directory, problem=describe(error))
        return
    for path in (directory / name for name in names):
        try:
            if path.is_dir():
                yield Run(path, hidden=hidden)
        except OSError as error:
            yield Run(path, problem=describe(error))


def read_run(directory: Path) -> RunRecord | None:
    """run.json of a run directory, with what keys that later versions added stood for.

    Returns:
        None where there is none.

    Raises:
        RecordError: it is damaged, another run's, or not one of this program's.
    """
    record = read_record(directory)
    return record and fill_in_absent(record)
