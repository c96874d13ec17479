"""A process that has imported what jobs need, and forks them: an import of seconds, once.

It is safe for what jobs do on a CPU because nothing but imports and the loading of data has
happened in it: no work of PyTorch's, no signal handler that stays; and jobs get their own process
group, standard streams and environment. Where that has started a thread or opened a GPU it ends at
once. Where it can't be had, jobs are started as programs; so they are on GPUs, where it has not
been tried.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

AVAILABLE = sys.platform == "linux"  # fork and SOCK_SEQPACKET; macOS's libraries don't stand a fork
MESSAGE = 65536  # bytes, at most


class NurseryChild:
    """A forked process. As much of subprocess.Popen as the pool needs."""

    def __init__(self, nursery: Nursery) -> None:
        self._nursery = nursery
        self.pid: int | None = None  # until the nursery has said so
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """The exit code (-n for signal n), or None while it runs."""
        self._nursery.listen()
        return self.returncode


class Nursery:
    """The pool's end. What it imports takes seconds, in which its owner can do something else.

    Args:
        preload: the modules it imports.
        entry: "module:function", a child's work, which returns its exit code.
        env: added to its environment, which the children inherit.
        warm: "module:function" to call after the imports, and its argument.
    """

    def __init__(
        self,
        preload: Sequence[str],
        entry: str,
        env: Mapping[str, str],
        warm: tuple[str, str] | None = None,
    ) -> None:
        self.ready = False
        self._children: dict[int, NurseryChild] = {}  # that have not ended
        self._count = 0
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._channel.setblocking(False)
        program = (
            f"import sys; sys.path[:] = {sys.path}; from {__name__} import serve; "
            f"sys.exit(serve({theirs.fileno()}, {list(preload)}, {entry!r}, {warm!r}))"
        )
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", program],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                # numpy's library would start threads.
                env={**os.environ, **env, "OPENBLAS_NUM_THREADS": "1"},
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # the terminal's Ctrl-C is the pool's
            )

    def settled(self) -> bool:
        """Whether it is known by now if it can fork."""
        self.listen()
        return self.ready or self._process.returncode is not None

    def start(
        self, label: str, env: Mapping[str, str], stdin: int, output: int
    ) -> NurseryChild | None:
        """Fork a child on these file descriptors, `env` added to its environment; None: can't be.

        Args:
            label: what it finds as its argument.
        """
        self.listen()
        if not self.ready:
            return None
        self._count += 1
        message = json.dumps([self._count, label, dict(env)]).encode()
        try:
            socket.send_fds(self._channel, [message], [stdin, output])
        except OSError:
            return None
        child = self._children[self._count] = NurseryChild(self)
        return child

    def listen(self) -> None:
        """Take in what the nursery has said of its children."""
        while self._process.returncode is None:
            try:
                message = self._channel.recv(MESSAGE)
            except BlockingIOError:
                return
            except OSError:
                message = b""
            if not message:  # it was killed: its children, let go of by their pool, end soon
                self.ready = False
                self._process.wait()
                for child in self._children.values():
                    child.returncode = -signal.SIGKILL
                return
            number, pid, code = json.loads(message)
            if number == 0:
                self.ready = True
            elif code is None:
                self._children[number].pid = pid
            else:
                self._children.pop(number).returncode = code

    def close(self) -> None:
        """End it; it has nothing to lose. Its children, if any, go on."""
        self._channel.close()
        self._process.kill()
        self._process.wait()


# The other end -----------------------------------------------------------------------------------


def serve(
    descriptor: int, preload: Sequence[str], entry: str, warm: tuple[str, str] | None = None
) -> int:
    """Fork a child for each message until the pool is gone.

    Returns:
        The process's exit code: in a child that of its work, which it does after leaving the loop.
    """
    for name in preload:
        importlib.import_module(name)
    work = _function(entry)
    if warm is not None:
        _function(warm[0])(warm[1])
    if not _can_fork():
        return 0
    gc.freeze()  # or each child would copy what a collection touches
    channel = socket.socket(fileno=descriptor)
    woken, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    numbers: dict[int, int] = {}  # by process id
    channel.send(json.dumps([0, os.getpid(), None]).encode())
    while True:
        ready, _, _ = select.select([descriptor, woken], [], [])
        if woken in ready:
            os.read(woken, MESSAGE)
            _bury(numbers, channel)
        if descriptor not in ready:
            continue
        try:
            message, files, _, _ = socket.recv_fds(channel, MESSAGE, 2)
        except OSError:
            return 0
        if not message:
            return 0
        number, label, env = json.loads(message)
        pid = os.fork()
        if not pid:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for file in (channel.detach(), woken, wake):
                os.close(file)
            _become(label, env, *files)
            return _end(int(work()))
        for file in files:
            os.close(file)
        with contextlib.suppress(OSError):  # here too: a signal to its group may come at once
            os.setpgid(pid, pid)
        numbers[pid] = number
        channel.send(json.dumps([number, pid, None]).encode())


def _end(code: int) -> int:
    """End a child here, unless a thread is still at work.

    Taking an interpreter with PyTorch apart takes 0.3 s, in which the next job could run.
    """
    if threading.active_count() == 1:
        atexit._run_exitfuncs()
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)
    return code


def _function(name: str) -> Callable[..., Any]:
    module, _, function = name.partition(":")
    found: Callable[..., Any] = getattr(importlib.import_module(module), function)
    return found


def _can_fork() -> bool:
    """Whether a child would find everything in order: one thread, no GPU's driver open."""
    if len(os.listdir("/proc/self/task")) > 1:
        return False
    for file in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # the listing's own
            if os.readlink(f"/proc/self/fd/{file}").startswith("/dev/nvidia"):
                return False
    return True


def _bury(numbers: dict[int, int], channel: socket.socket) -> None:
    """Say how children have ended."""
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            code = os.waitstatus_to_exitcode(status)
            with contextlib.suppress(OSError):  # the pool is gone: the loop will see
                channel.send(json.dumps([numbers.pop(pid), pid, code]).encode())


def _become(label: str, env: Mapping[str, str], stdin: int, output: int) -> None:
    """Make this process what a started program would be."""
    os.setpgid(0, 0)
    for file, standard in ((stdin, 0), (output, 1), (output, 2)):
        os.dup2(file, standard)
    os.close(stdin)
    os.close(output)
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 (as long as the process)
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", buffering=1, closefd=False)  # noqa: SIM115
    os.environ.update(env)
    sys.argv[1:] = [label]
