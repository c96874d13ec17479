"""Moving and deleting run directories: only this program's own, and so that a kill costs nothing.

A run is known by its record. Every step is a rename or the deletion of one file, and whatever was
begun is finished, or begun anew, when the same is asked again.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shlex
import stat
from pathlib import Path

from resnet_cifar.errors import UserError
from resnet_cifar.files import Lock, is_held, refuse_link
from resnet_cifar.record import layout
from resnet_cifar.record.layout import LOCK, RUN, is_ours
from resnet_cifar.record.schema import record_or_reason
from resnet_cifar.runs.find import is_run_directory

REMOVED = ".removed-"  # before the name of a run on its way out


def archive_root(root: Path) -> Path:
    """The directory that `archive` moves the runs of `root` to, beside the real `root`."""
    real = root.resolve()
    if not real.name:
        raise UserError(f"{root} is the root of a file system: nothing can be archived beside it")
    return real.with_name(f"{real.name}.archive")


def remove(directory: Path, root: Path) -> None:
    """Delete a run directory, out of sight first: half a run is never taken for one.

    Raises:
        LockHeld: a process holds its lock.
        UserError: it is not a run of this program inside `root`, or holds other people's files.
    """
    _refuse_no_run(directory, root)
    with Lock(directory / LOCK, wait=False):
        _refuse_odd(directory)
        _refuse_foreign(directory)
        _discard(directory)
    _remove_if_empty(directory.parent, root)


def archive(directory: Path, root: Path) -> Path:
    """Move a run directory to `<root>.archive/<cell>/seed=<n>`; moving it back restores it.

    Raises:
        LockHeld: a process holds its lock.
        UserError: it is not a run in a cell of `root`, another one of that name is in the archive,
            or the archive is on another file system.
    """
    _refuse_no_run(directory, root)
    if directory.parent.parent != root:
        raise UserError(f"{directory} is in no cell of {root}: give the directory of the cells")
    archived = archive_root(root)
    target = archived / directory.parent.name / directory.name
    with Lock(directory / LOCK, wait=False):
        _refuse_odd(directory)
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.parent.resolve() != archived.resolve() / target.parent.name:
            raise UserError(f"{target.parent} is a link: left alone")
        if os.path.lexists(target):
            raise UserError(f"{target} exists already: remove or rename it first")
        try:
            os.rename(directory, target)
        except OSError as error:
            _remove_if_empty(target.parent, archived.parent)
            _remove_if_empty(archived, archived.parent)
            if error.errno != errno.EXDEV:
                raise
            made, moved, to = (shlex.quote(str(p)) for p in (target.parent, directory, target))
            raise UserError(
                f"{archived} is on another disk than {directory}, which is left alone; "
                f"mkdir -p {made} && mv {moved} {to} would move it"
            ) from error
    _remove_if_empty(directory.parent, root)
    return target


def leftovers(root: Path) -> list[Path]:
    """List what killed processes left below `root` and in its archive, but nothing of living ones.

    That is files that were being written into a run, and runs on their way out.
    """
    left: list[Path] = []
    for top in (root.resolve(), archive_root(root)):
        for cell in _real_directories(top):
            for entry in (cell, *_real_directories(cell)):
                if is_held(entry / LOCK):
                    continue
                if entry.name.startswith(REMOVED) and _is_all_ours(entry):
                    left.append(entry)
                elif is_run_directory(entry):
                    left += layout.leftovers(entry)
    return left


def _real_directories(directory: Path) -> list[Path]:
    """The directories in one, by name, without links to others."""
    entries = sorted(directory.iterdir()) if directory.is_dir() else []
    return [entry for entry in entries if entry.is_dir() and not entry.is_symlink()]


def clean(path: Path) -> None:
    """Delete one of `leftovers`. Raises LockHeld where a process has come to life meanwhile."""
    if path.is_dir():
        _delete(path)
    else:
        with Lock(path.parent / LOCK, wait=False):
            path.unlink(missing_ok=True)


def _refuse_no_run(directory: Path, root: Path) -> None:
    """Raise UserError unless `directory` is, on real paths, a run of this program inside `root`."""
    refuse_link(directory)
    if directory.resolve() != root.resolve() / directory.relative_to(root):
        raise UserError(f"{directory} is reached through a link: left alone")
    record = record_or_reason(directory)
    if isinstance(record, str):
        raise UserError(f"{record}: left alone, since it can't be known for a run")
    if directory == root:
        raise UserError(f"{directory} is a run itself: give the directory that it lies in")


def _refuse_odd(directory: Path) -> None:
    for entry in sorted(directory.iterdir()):
        if not stat.S_ISREG(entry.lstat().st_mode):
            raise UserError(f"{entry} is not a regular file: {directory} is left alone")


def _refuse_foreign(directory: Path) -> None:
    foreign = sorted(e.name for e in directory.iterdir() if not is_ours(e.name))
    if foreign:
        names = ", ".join(foreign[:3]) + ("…" if foreign[3:] else "")
        raise UserError(
            f"{directory} also holds what this program did not write ({names}): left alone"
        )


def _is_all_ours(directory: Path) -> bool:
    with contextlib.suppress(UserError):
        _refuse_odd(directory)
        _refuse_foreign(directory)
        return True
    return False


def _discard(directory: Path) -> None:
    """Delete a locked run directory whose content is known to be ours."""
    gone = directory.with_name(f"{REMOVED}{directory.name}")
    if os.path.lexists(gone):  # an earlier removal was killed
        refuse_link(gone)
        if not _is_all_ours(gone):
            raise UserError(f"{gone} is in the way and not of this program: left alone")
        _delete(gone)
    os.rename(directory, gone)
    _delete(gone)


def _delete(directory: Path) -> None:
    """The record last but for the lock: what is left after a kill is still known for a run."""

    def rank(entry: Path) -> int:
        last = {RUN: 2, LOCK: 3}
        return last.get(entry.name, int(is_ours(entry.name)))

    for entry in sorted(directory.iterdir(), key=rank):
        entry.unlink(missing_ok=True)
    directory.rmdir()


def _remove_if_empty(directory: Path, root: Path) -> None:
    if directory != root:
        with contextlib.suppress(OSError):
            directory.rmdir()
