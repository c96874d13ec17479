"""Files that are whole at every instant, and a lock that the system releases with its holder.

A run's files are regular files: a link, a pipe or a directory in the place of one is refused, so
that nobody's file is overwritten through it and nothing waits for its other end.
"""

import contextlib
import errno
import importlib.util
import json
import os
import platform
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from resnet_cifar.errors import UserError

# Windows has none of these: there a byte is locked, nothing waits for a pipe, few can make links.
fcntl = importlib.import_module("fcntl") if importlib.util.find_spec("fcntl") else None
_NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
_PRIVATE = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)


def open_regular(path: Path, flags: int) -> int:
    """Open the regular file at `path` and return its descriptor.

    Raises OSError: there is none (without os.O_CREAT), it can't be opened, or it is a link, a
    pipe, a directory or a device.
    """
    try:
        file: int = _patiently(os.open, path, flags | _NO_FOLLOW | _PRIVATE, 0o666)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.ENXIO, errno.EISDIR) and not path.is_dir():
            raise
    else:
        if stat.S_ISREG(os.fstat(file).st_mode):
            return file
        os.close(file)
    raise OSError(errno.EINVAL, f"{path} is a link, a pipe or a directory, not a regular file")


def _patiently(call: Callable[..., Any], *arguments: object) -> Any:
    """Call again, for 1.5 s, what another process's open file is in the way of (Windows)."""
    for pause in (0.01, 0.03, 0.1, 0.3, 1.0):
        try:
            return call(*arguments)
        except PermissionError as error:
            if not hasattr(error, "winerror"):
                raise
        time.sleep(pause)
    return call(*arguments)


# Bytes that are read of a file, by its ending: far more than this program ever writes, and of any
# other file far more than a picture or a page has. What is larger is nothing that belongs there.
MOST = {".json": 1 << 24, ".yaml": 1 << 20, ".jsonl": 1 << 27, ".pt": 1 << 34}
MOST_OF_OTHERS = 1 << 28


def read_regular(path: Path, most: int | None = None) -> bytes:
    """Read a regular file of at most `most` bytes. Raises OSError: larger, or as `open_regular`."""
    if most is None:
        most = MOST.get(path.suffix, MOST_OF_OTHERS)
    with os.fdopen(open_regular(path, os.O_RDONLY), "rb") as file:
        if (size := os.fstat(file.fileno()).st_size) > most:
            raise OSError(errno.EFBIG, f"{path} has {size:,} bytes; {most:,} are the most")
        return file.read()


def write_atomically(path: Path, content: bytes | str, spare: Path | None = None) -> None:
    """Write beside `path`, flush to disk, rename over it; what was there becomes the `spare`.

    Raises OSError: names `path`; nothing was changed and nothing is left behind.
    """
    if isinstance(content, str):
        content = content.encode()
    beside = _beside(path, os.getpid())
    try:
        file = open_regular(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        with os.fdopen(file, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        if spare is not None and path.exists():
            _patiently(os.replace, path, spare)  # killed in between: the spare is there
        _patiently(os.replace, beside, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            beside.unlink()
        if isinstance(error, OSError) and error.errno:
            # A full disk names no file, other errors name the one beside.
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def _beside(path: Path, process: int | str) -> Path:
    # Host and process id keep two writers (a run and its evaluation, say) out of each other's way.
    return path.with_name(f".{path.name}.{platform.node()}.{process}.tmp")


def check_writable(path: Path) -> None:
    """Write nothing to `path`, and remove what killed writers of it on this machine left beside it.

    Raises OSError: `write_atomically` would raise it.
    """
    before, after = _beside(path, "\0").name.split("\0")
    for name in os.listdir(path.parent) if os.name != "nt" else ():
        process = name.removeprefix(before).removesuffix(after)
        if name == before + process + after and process.isdecimal():
            try:
                with contextlib.suppress(PermissionError):  # somebody else's, who lives
                    os.kill(int(process), 0)
            except (ProcessLookupError, OverflowError):
                path.with_name(name).unlink(missing_ok=True)
    beside = _beside(path, os.getpid())
    os.close(open_regular(beside, os.O_WRONLY | os.O_CREAT))
    beside.unlink()


def write_json(path: Path, value: object) -> None:
    """Write `value` as indented JSON, atomically. Raises ValueError on NaN: JSON has none."""
    write_atomically(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def is_at(file: int, path: Path) -> bool:
    """True if the open file is the one at `path`."""
    try:
        return os.path.samestat(os.fstat(file), os.lstat(path))
    except FileNotFoundError:
        return False


# Locks -------------------------------------------------------------------------------------------


class LockHeld(Exception):
    """Another process holds the lock: the text says which, as far as it could be read."""


def _take(file: int, shared: bool = False) -> bool:
    """Lock an open file for as long as it stays open; False where another process has it.

    Raises OSError: its file system has no locks.
    """
    try:
        if fcntl is not None:
            fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        else:
            import msvcrt

            # Far behind what is written in the file: Windows lets nobody read what is locked.
            os.lseek(file, 1 << 20, os.SEEK_SET)
            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
        return True
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES, errno.EDEADLK):
            return False
        if error.errno in (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP):
            raise OSError(error.errno, "its file system has no locks (flock)") from error
        raise


@dataclass
class Lock:
    """An exclusive flock(2) on `path`, made with its directory where absent.

    Between machines it holds where the file system passes locks on (docs/sweeps.md); elsewhere
    another machine's run looks interrupted.

    Args:
        wait: block until the lock is free; otherwise entering raises LockHeld.
        on_wait: called once with the holder, before blocking.
        poll: called ten times a second while blocked; it may raise to give up.

    Entering raises OSError: a link, a pipe or a directory lies at `path`, or it can't be written.
    """

    path: Path
    wait: bool = True
    on_wait: Callable[[str], None] = lambda holder: None
    poll: Callable[[], None] = lambda: None
    _file: int = -1

    def __enter__(self) -> Self:
        # A reader that asks `is_held` holds the lock for an instant: not to be taken for a holder.
        patience = time.monotonic() + 0.3
        while not self._try() and time.monotonic() < patience:
            time.sleep(0.02)
        if self._file == -1:
            if not self.wait:
                raise LockHeld(self._holder())
            self.on_wait(self._holder())
            while not self._try():
                self.poll()
                time.sleep(0.1)
        return self

    def __exit__(self, *error: object) -> None:
        if self._file != -1:
            os.close(self._file)  # releases; the file stays, removing it would race with a waiter
        self._file = -1

    def move_directory(self, target: Path) -> None:
        """Rename the directory that the lock lies in. Raises OSError: nothing was moved."""
        if fcntl is None:  # Windows moves none with an open file: nor with another holder's
            self.__exit__()
        _patiently(os.rename, self.path.parent, target)

    def _try(self) -> bool:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        file = open_regular(self.path, os.O_RDWR | os.O_CREAT)
        with contextlib.ExitStack() as undo:
            undo.callback(os.close, file)
            # The directory may have been set aside while this process was waiting.
            if _take(file) and is_at(file, self.path):
                holder = {"pid": os.getpid(), "host": platform.node(), "since": time.time()}
                os.ftruncate(file, 0)
                os.lseek(file, 0, os.SEEK_SET)
                os.write(file, json.dumps(holder).encode())  # on a full disk nothing stays locked
                self._file = file
                undo.pop_all()
        return self._file == file

    def _holder(self) -> str:
        try:
            holder = json.loads(read_regular(self.path, 1 << 12))
            return f"process {holder['pid']} on {holder['host']}"
        except (OSError, ValueError, KeyError, TypeError):
            return "another process"


def is_held(path: Path) -> bool:
    """True if some process holds the lock at `path`. Creates nothing."""
    with contextlib.suppress(OSError), contextlib.ExitStack() as undo:  # it has no locks, perhaps
        file = open_regular(path, os.O_RDWR if fcntl is None else os.O_RDONLY)
        undo.callback(os.close, file)
        return not _take(file, shared=True)
    return False


def refuse_link(directory: Path) -> None:
    """Raise UserError if a run directory is not a directory but a link to one."""
    if directory.is_symlink():
        raise UserError(f"{directory} is a link, not a run's directory: not touched")
