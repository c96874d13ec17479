"""Moving and deleting run directories: only this program's own, and so that a kill costs nothing.

A run is known by its record. Every step is a rename or the deletion of one file, and whatever was
begun is finished, or begun anew, when the same is asked again.
"""

import contextlib
import errno
import os
import shlex
from collections.abc import Iterator
from pathlib import Path

from resnet_cifar.errors import UserError, describe
from resnet_cifar.files import Lock, is_held, refuse_link
from resnet_cifar.record import layout
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

    Raises LockHeld; UserError where it is no run of this program inside `root`, or holds other
    people's files.
    """
    gone = directory.with_name(f"{REMOVED}{directory.name}")
    with _take(directory, root) as lock:
        if os.path.lexists(gone):  # an earlier removal was killed
            if gone.is_symlink() or _find_strange(gone):
                raise UserError(f"{gone} is in the way and not from this program: not touched")
            _delete(gone)
        lock.move_directory(gone)
        _delete(gone)


def archive(directory: Path, root: Path) -> Path:
    """Move a run directory to `<root>.archive/<cell>/seed=<n>`; moving it back restores it.

    Raises LockHeld; UserError where it is no run in a cell of `root`, another one of that name is
    in the archive, or the archive is on another file system.
    """
    if directory.parent.parent != root:
        raise UserError(f"{directory} is in no cell of {root}: give the directory of the cells")
    archived = archive_root(root)
    target = archived / directory.parent.name / directory.name
    with _take(directory, root, foreign=True) as lock:
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.parent.resolve() != archived.resolve() / target.parent.name:
            raise UserError(f"{target.parent} is a link: not touched")
        if os.path.lexists(target):
            raise UserError(f"{target} exists already: remove or rename it first")
        try:
            lock.move_directory(target)
        except OSError as error:
            _remove_if_empty(target.parent)
            _remove_if_empty(archived)
            if error.errno != errno.EXDEV:
                raise
            made, moved, to = (shlex.quote(str(p)) for p in (target.parent, directory, target))
            remedy = f"not touched; mkdir -p {made} && mv {moved} {to} would move it"
            raise UserError(f"{archived} is on another disk than {directory}: {remedy}") from error
    return target


@contextlib.contextmanager
def _take(directory: Path, root: Path, foreign: bool = False) -> Iterator[Lock]:
    """Lock a run of this program inside `root`, on real paths; its cell's directory goes if empty.

    Raises as `remove`; `foreign` files are allowed.
    """
    refuse_link(directory)
    if directory.resolve() != root.resolve() / directory.relative_to(root):
        raise UserError(f"{directory} is reached through a link: not touched")
    record = record_or_reason(directory)
    if isinstance(record, str):
        raise UserError(f"{record}: not touched, because nothing shows that it is a run")
    if directory == root:
        raise UserError(f"{directory} is a run itself: give the directory that it lies in")
    with Lock(directory / layout.LOCK, wait=False) as lock:
        if problem := _find_strange(directory, foreign):
            raise UserError(problem)
        yield lock
    if directory.parent != root:
        _remove_if_empty(directory.parent)


def leftovers(root: Path) -> tuple[list[Path], list[str]]:
    """List what killed processes left below `root` and in its archive, but nothing of living ones.

    That is files that were being written into a run, and runs on their way out. Of directories that
    can't be looked at there is a line each.
    """
    left: list[Path] = []
    closed: list[str] = []
    for top in (root.resolve(), archive_root(root).resolve()):
        for entry in sorted((*top.glob("*"), *top.glob("*/*"))):
            try:
                if not entry.is_dir() or entry.resolve() != entry or is_held(entry / layout.LOCK):
                    continue  # no directory, another place that a link leads to, or a living one
                if is_run_directory(entry):
                    left += layout.leftovers(entry)
                elif entry.name.startswith(REMOVED) and not _find_strange(entry):
                    left.append(entry)
            except FileNotFoundError:  # gone meanwhile
                pass
            except OSError as error:
                closed.append(describe(error))
    return left, closed


def clean(path: Path) -> None:
    """Delete one of `leftovers`. Raises LockHeld where a process has come to life meanwhile."""
    if path.is_dir():
        _delete(path)
    else:
        with Lock(path.parent / layout.LOCK, wait=False):
            path.unlink(missing_ok=True)


def _find_strange(directory: Path, foreign: bool = False) -> str:
    """A line on what is no regular file or, unless `foreign`, not of this program; or ""."""
    entries = sorted(directory.iterdir())
    for entry in entries:
        if entry.is_symlink() or not entry.is_file():
            return f"{entry} is not a regular file: {directory} is not touched"
    names = [entry.name for entry in entries if not foreign and not layout.is_ours(entry.name)]
    some = ", ".join(names[:3]) + ("…" if names[3:] else "")
    holds = f"{directory} also holds what this program did not write ({some}): not touched"
    return holds if names else ""


def _delete(directory: Path) -> None:
    """The record last but for the lock: what is left after a kill is still known for a run."""
    last = {layout.RUN: 2, layout.LOCK: 3}
    ranked = {e: last.get(e.name, int(layout.is_ours(e.name))) for e in directory.iterdir()}
    for entry in sorted(ranked, key=ranked.__getitem__):
        entry.unlink(missing_ok=True)
    directory.rmdir()


def _remove_if_empty(directory: Path) -> None:
    with contextlib.suppress(OSError):
        directory.rmdir()
