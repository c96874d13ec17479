"""Jobs forked from a process that has imported what they need: seconds of import, once a sweep.

The process is the fork server of Python's multiprocessing. Forking from it is safe for what jobs do
on a CPU because nothing but imports has happened in it; where these have started a thread or opened
a GPU, it is not used. A job gets its own session, standard streams, environment and arguments, like
a program. When the server dies or stands still, the jobs it has forked go on: each reports its exit
code itself. Later jobs are then started as programs, as they are where there is no fork server
(Windows; macOS, whose libraries don't survive a fork).
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import math
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
import types
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # Windows has none
    from multiprocessing.context import ForkServerProcess

AVAILABLE = sys.platform == "linux"
DRIVER = "/dev/nvidia"  # how a GPU's files begin
PATIENCE = 10.0  # seconds for a fork, which takes some milliseconds
IMPORTS = 120.0  # seconds for the imports
GRACE = 1.0  # seconds between a job's end and the server's word of it
SERVER_GONE = 255  # multiprocessing's exit code of a process that its server says nothing of
UNKNOWN = 256  # ours: the job ended by a signal, and the server, which knew by which, is gone


class ForkedProcess:
    """A forked job, with as much of subprocess.Popen's interface as the pool needs."""

    def __init__(self, process: ForkServerProcess, report: Connection) -> None:
        self._process, self._report = process, report
        self._closed = math.inf  # time.monotonic() when it was gone without a report
        self.pid = process.pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Return the exit code (-n for signal n; or UNKNOWN), or None while it runs."""
        if self.returncode is not None:
            return self.returncode
        by_server = self._process.exitcode
        try:
            if self._report.poll():
                self.returncode = self._report.recv()
        except EOFError:
            self._closed = min(self._closed, time.monotonic())
        if self.returncode is None and by_server != SERVER_GONE:
            self.returncode = by_server
        if self.returncode is None and time.monotonic() - self._closed > GRACE:
            self.returncode = UNKNOWN
        return self.returncode


class ForkServer:
    """The fork server of a sweep. Its imports go on while its owner does something else.

    Args:
        preload: modules it imports. None of them may start a thread or touch a device.
        env: added to this process's environment for it. It can't be changed later: what libraries
            read of the environment while they are imported is this, for every job.
    """

    def __init__(self, preload: Sequence[str], env: Mapping[str, str]) -> None:
        from multiprocessing import forkserver

        self._pid: int | None = None  # of the server, once it is known to be safe
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload([__name__, *preload])
        self._deadline = time.monotonic() + IMPORTS
        self._closed = False
        with _ready_for_server(env):
            forkserver.ensure_running()
        self._asking = threading.Thread(target=self._ask, daemon=True)
        self._asking.start()

    def settled(self) -> bool:
        """Return True if it is known by now whether it can fork."""
        return not self._asking.is_alive() or time.monotonic() > self._deadline

    def start(
        self, entry: str, label: str, env: Mapping[str, str], stdin: int, output: int
    ) -> ForkedProcess | None:
        """Fork a job; None where that is impossible, now or for good.

        Args:
            entry: "module:function" that returns its exit code.
            label: its only argument, in `sys.argv`.
            env: the whole of its environment.
            stdin, output: file descriptors that become its standard streams.
        """
        if not self._runs():
            return None
        report, theirs = self._context.Pipe(duplex=False)
        source = Connection(os.dup(stdin), writable=False)
        sink = Connection(os.dup(output), readable=False)
        arguments = (entry, label, dict(env), source, sink, theirs)
        process = self._context.Process(target=_run_job, args=arguments)
        # A server that stands still is ended: whoever waits for it finds that out.
        watchdog = threading.Timer(PATIENCE, self.close)
        watchdog.start()
        try:
            with theirs, source, sink, _hidden_main():
                process.start()
        except (OSError, EOFError):
            self.close()
            return None
        finally:
            watchdog.cancel()
        return ForkedProcess(process, report)

    def close(self) -> None:
        """End the server, which has nothing to lose. Its jobs, if any are left, go on."""
        pid, runs = self._pid, self._runs()
        self._pid, self._closed = None, True
        if pid is not None and runs:
            os.kill(pid, signal.SIGKILL)
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)  # multiprocessing reaps it

    def _ask(self) -> None:
        """Learn from a first child, forked when the imports are done, if others may follow."""
        answer, theirs = self._context.Pipe(duplex=False)
        process = self._context.Process(target=_send_parent, args=(theirs,))
        with answer, contextlib.suppress(OSError, EOFError):
            with theirs, _hidden_main():
                process.start()
            pid = answer.recv()
            process.join()
            if self._closed or not _is_safe(pid):
                os.kill(pid, signal.SIGKILL)
            else:
                self._pid = pid

    def _runs(self) -> bool:
        """Return True if it can fork, as far as anybody knows."""
        if self._pid is None:
            return False
        try:
            return os.waitid(os.P_PID, self._pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None
        except ChildProcessError:
            return False


@contextlib.contextmanager
def _ready_for_server(env: Mapping[str, str]) -> Iterator[None]:
    """Prepare what the server inherits: its environment, and that it gets no SIGINT.

    The terminal's Ctrl-C is the pool's alone. The server imports from where this process does, and
    from nowhere else; numpy's library starts no threads in it.
    """
    path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
    ours = {"PYTHONPATH": path, "PYTHONSAFEPATH": "1", "OPENBLAS_NUM_THREADS": "1"}
    before = dict(os.environ)
    os.environ.update({**env, **ours})
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        os.environ.clear()
        os.environ.update(before)


@contextlib.contextmanager
def _hidden_main() -> Iterator[None]:
    """Hide the program's own file, which multiprocessing would run again in each child."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _is_safe(pid: int) -> bool:
    """Return True if its children would find all in order: one thread, no GPU's driver open."""
    if len(os.listdir(f"/proc/{pid}/task")) > 1:
        return False
    files = [f"/proc/{pid}/fd/{number}" for number in os.listdir(f"/proc/{pid}/fd")]
    return not any(os.path.realpath(file).startswith(DRIVER) for file in files)


def _send_parent(answer: Connection) -> None:
    answer.send(os.getppid())


def _run_job(
    entry: str,
    label: str,
    env: Mapping[str, str],
    stdin: Connection,
    output: Connection,
    report: Connection,
) -> None:
    """Become what a started program would be, do the job's work, report the exit code, end."""
    os.setsid()
    for connection, standard in ((stdin, 0), (output, 1), (output, 2)):
        os.dup2(connection.fileno(), standard)
    stdin.close()
    output.close()
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 (as long as the process)
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", buffering=1, closefd=False)  # noqa: SIM115
    sys.argv[1:] = [label]
    os.environ.clear()
    os.environ.update(env)
    multiprocessing.set_start_method(None, force=True)  # the job's own processes: as by default
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
    gc.freeze()  # or a collection would copy what is shared with the server
    code = _work(entry)
    # The end of an interpreter, but for taking it apart, which takes 0.3 s with PyTorch in it.
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    with contextlib.suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    report.send(code)
    os._exit(code)


def _work(entry: str) -> int:
    """Return the exit code of the function `entry`; what it raises is printed."""
    try:
        module, _, function = entry.partition(":")
        return int(getattr(importlib.import_module(module), function)())
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        print(end.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    return 1
