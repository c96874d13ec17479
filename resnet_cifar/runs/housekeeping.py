"""Moving and deleting run directories: only this program's own, and so that a kill costs nothing.

A run is known by its record. Every step is a rename or the deletion of one file, and whatever was
begun is finished, or begun anew, when the same is asked again.
"""

from __future__ import annotations

import contextlib
import errno
import filecmp
import os
import shutil
import stat
from pathlib import Path

from resnet_cifar.errors import UserError
from resnet_cifar.files import Lock, is_held, refuse_link
from resnet_cifar.record import layout
from resnet_cifar.record.layout import LOCK, RUN, is_leftover, is_ours
from resnet_cifar.record.schema import record_or_reason

REMOVED, ARRIVING = ".removed-", ".archiving-"  # a run on its way out, or into the archive


def archive_root(root: Path) -> Path:
    """Where `archive` moves the runs of `root`: beside the real directory."""
    real = root.resolve()
    if not real.name:
        raise UserError(f"{root} is the root of a file system: nothing can be archived beside it")
    return real.with_name(f"{real.name}.archive")


def remove(directory: Path, root: Path) -> None:
    """Delete a run directory, out of sight first: half a run is never taken for one.

    Raises:
        Busy: a process holds its lock.
        UserError: it is not a run of this program inside `root`, or holds other people's files.
    """
    _refuse(directory, root)
    with Lock(directory / LOCK, wait=False):
        _refuse_odd(directory)
        _refuse_foreign(directory)
        _discard(directory)
    _remove_if_empty(directory.parent)


def archive(directory: Path, root: Path) -> Path:
    """Move a run directory to `<root>.archive/<cell>/seed=<n>`; moving it back restores it.

    Raises:
        Busy: a process holds its lock.
        UserError: it is not a run of this program inside `root`, or another one of that name is
            in the archive.
    """
    _refuse(directory, root)
    place = archive_root(root)
    target = place / directory.parent.name / directory.name
    with Lock(directory / LOCK, wait=False):
        _refuse_odd(directory)
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.parent.resolve() != place.resolve() / target.parent.name:
            raise UserError(f"{target.parent} is a link: left alone")
        if os.path.lexists(target):
            # Killed after the copy was whole and before the original went.
            if not _same(directory, target):
                raise UserError(f"{target} exists already: remove or rename it first")
            _discard(directory)
        else:
            _move(directory, target)
    _remove_if_empty(directory.parent)
    return target


def leftovers(root: Path) -> list[Path]:
    """What killed processes left below `root` and in its archive; a living one's is not among it.

    Files of a run that were being written; runs on their way out, and copies on their way into the
    archive.
    """
    found: list[Path] = []
    for top in (root.resolve(), archive_root(root)):
        for cell in sorted(top.iterdir()) if top.is_dir() else ():
            if cell.is_symlink() or not cell.is_dir():
                continue
            for entry in sorted(cell.iterdir()):
                if entry.is_symlink() or not entry.is_dir():
                    continue
                moved = entry.name.startswith((f"{REMOVED}seed=", f"{ARRIVING}seed="))
                if is_held(entry / LOCK):
                    continue
                if moved and _all_ours(entry):
                    found.append(entry)
                elif entry.name.startswith("seed="):
                    found += layout.leftovers(entry)
    return found


def clean(path: Path) -> None:
    """Delete one of `leftovers`. Raises Busy where a process has come to life meanwhile."""
    if path.is_dir():
        _delete(path)
    else:
        with Lock(path.parent / LOCK, wait=False):
            path.unlink(missing_ok=True)


def _refuse(directory: Path, root: Path) -> None:
    refuse_link(directory)
    expected = root.resolve() / directory.parent.name / directory.name
    if directory.resolve() != expected:
        raise UserError(f"{directory} is reached through a link: left alone")
    record = record_or_reason(directory)
    if isinstance(record, str):
        raise UserError(f"{record}: left alone, since it can't be known for a run")


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


def _all_ours(directory: Path) -> bool:
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
        if not _all_ours(gone):
            raise UserError(f"{gone} is in the way and not of this program: left alone")
        _delete(gone)
    os.rename(directory, gone)
    _delete(gone)


def _delete(directory: Path) -> None:
    """The record last but for the lock: what is left after a kill is still known for a run."""

    def order(entry: Path) -> int:
        last = {RUN: 2, LOCK: 3}
        return last.get(entry.name, int(is_ours(entry.name)))

    for entry in sorted(directory.iterdir(), key=order):
        entry.unlink(missing_ok=True)
    directory.rmdir()


def _move(directory: Path, target: Path) -> None:
    try:
        os.rename(directory, target)
        return
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
    names = sorted(_content(directory))
    arriving = target.with_name(f"{ARRIVING}{target.name}")
    if os.path.lexists(arriving):  # an earlier copy was killed
        refuse_link(arriving)
        _refuse_odd(arriving)
        if not _content(arriving) <= set(names):
            raise UserError(f"{arriving} is in the way and no copy of {directory}: left alone")
        _delete(arriving)
    arriving.mkdir()
    for name in names:
        shutil.copy2(directory / name, arriving / name, follow_symlinks=False)
        with open(arriving / name, "rb") as file:
            os.fsync(file.fileno())
    os.rename(arriving, target)
    _discard(directory)


def _content(directory: Path) -> set[str]:
    """The names in a run directory that are worth keeping."""
    names = {entry.name for entry in directory.iterdir()}
    return {n for n in names if n != LOCK and not is_leftover(n)}


def _same(one: Path, other: Path) -> bool:
    """Whether two directories hold the same files."""
    if other.is_symlink() or not other.is_dir() or _content(one) != _content(other):
        return False
    _, different, unread = filecmp.cmpfiles(one, other, sorted(_content(one)), shallow=False)
    return not different and not unread


def _remove_if_empty(cell: Path) -> None:
    with contextlib.suppress(OSError):
        cell.rmdir()
