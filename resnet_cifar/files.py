"""Files that are whole at every instant, and a lock that the system releases with its holder."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self


def write_atomically(path: Path, content: bytes | str) -> None:
    """Write beside `path`, flush to disk, rename over it.

    Raises:
        OSError: nothing was changed and nothing is left behind.
    """
    if isinstance(content, str):
        content = content.encode()
    # Host and process id keep two writers (a run and its evaluation, say) out of each other's way.
    beside = path.with_name(f".{path.name}.{platform.node()}.{os.getpid()}.tmp")
    try:
        with open(beside, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def write_json(path: Path, value: Any) -> None:
    """`value` as indented JSON, atomically. Raises ValueError on NaN: JSON has none."""
    write_atomically(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


class Busy(Exception):
    """Another process holds the lock. `holder` says which, as far as it could be read."""

    def __init__(self, holder: str) -> None:
        super().__init__(holder)
        self.holder = holder


class Lock:
    """An exclusive flock(2) on `path`, made with its directory where absent.

    Between machines it holds where the file system passes locks on: on Linux flock over NFS becomes
    a byte-range lock at the server, which frees it at once when a process dies and after its lease
    (90 seconds for NFSv4) when a machine does; Lustre needs `-o flock`. Mounted with `nolock` or
    `local_lock` it holds within each machine only, and another machine's run looks interrupted.

    Args:
        wait: block until the lock is free; otherwise entering raises Busy.
        on_wait: called once with the holder, before blocking.
        poll: called ten times a second while blocked; it may raise to give up.
    """

    def __init__(
        self,
        path: Path,
        wait: bool = True,
        on_wait: Callable[[str], None] | None = None,
        poll: Callable[[], None] | None = None,
    ) -> None:
        self.path, self.wait, self.on_wait, self.poll = path, wait, on_wait, poll
        self._file = -1

    def __enter__(self) -> Self:
        told = False
        # A reader that asks `is_held` holds the lock for an instant: not to be taken for a holder.
        patience = time.monotonic() + 0.3
        while not self._try():
            if time.monotonic() > patience:
                if not self.wait:
                    raise Busy(self._holder())
                if not told and self.on_wait:
                    self.on_wait(self._holder())
                told = True
                if self.poll:
                    self.poll()
            time.sleep(0.1 if told else 0.02)
        holder = {"pid": os.getpid(), "host": platform.node(), "since": time.time()}
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, json.dumps(holder).encode(), 0)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self._file)  # releases; the file stays, removing it would race with a waiter
        self._file = -1

    def _try(self) -> bool:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The directory may have been set aside while this process was waiting.
            same = os.fstat(file).st_ino == os.stat(self.path).st_ino
        except (BlockingIOError, FileNotFoundError):
            same = False
        except OSError as error:
            os.close(file)
            if error.errno in (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP):
                raise OSError(error.errno, "its file system has no locks (flock)") from error
            raise
        except BaseException:
            os.close(file)
            raise
        if same:
            self._file = file
        else:
            os.close(file)
        return same

    def _holder(self) -> str:
        try:
            holder = json.loads(self.path.read_text())
            return f"process {holder['pid']} on {holder['host']}"
        except (OSError, ValueError, KeyError, TypeError):
            return "another process"


def is_held(path: Path) -> bool:
    """Whether some process holds the lock at `path`. Creates nothing."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return False
    except BlockingIOError:
        return True
    except OSError:  # a file system without locks
        return False
    finally:
        os.close(file)
