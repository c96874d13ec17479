"""Make this project's modules see another platform: on PYTHONPATH, with SEEN_AS=win32 or darwin.

Names that Python lacks there are hidden from them, modules can't be imported, `sys.platform` and
`os.name` are what they are there, an open file can't be replaced or moved (Windows), and /proc is
not there. Libraries, which have such code of their own, see the platform as it is.
"""

import builtins
import contextlib
import ctypes
import glob
import importlib.util
import io
import os
import pathlib
import sys
import types

PLATFORM = os.environ["SEEN_AS"]
OURS = ("resnet_cifar", "hydra_plugins", "benchmarks", "__main__")
# "Availability: Unix" (and "not macOS") in the documentation of Python's library.
HIDDEN = {
    "win32": {
        "os": "O_CLOEXEC O_DIRECTORY O_DSYNC O_NOCTTY O_NOFOLLOW O_NONBLOCK O_SYNC O_TMPFILE "
        "P_ALL P_PID P_PGID WCONTINUED WEXITED WIFSIGNALED WNOHANG WNOWAIT WTERMSIG WUNTRACED "
        "chown chroot ctermid fchdir fchown fork forkpty getegid geteuid getgid getgroups "
        "getloadavg getpgid getpgrp getpriority getresuid getsid getuid initgroups kill killpg "
        "lchown lockf major makedev minor mkfifo mknod nice openpty pathconf pidfd_open pipe2 "
        "posix_fadvise posix_fallocate posix_spawn pread preadv pwrite pwritev readv "
        "sched_getaffinity sched_setaffinity sched_yield sendfile setegid seteuid setgid setpgid "
        "setpgrp setpriority setsid setuid statvfs fstatvfs sync sysconf tcgetpgrp ttyname uname "
        "wait wait3 wait4 waitid writev",
        "signal": "ITIMER_REAL SIGALRM SIGBUS SIGCHLD SIGCONT SIGHUP SIGIO SIGKILL SIGPIPE SIGPROF "
        "SIGQUIT SIGRTMAX SIGRTMIN SIGSTOP SIGSYS SIGTRAP SIGTSTP SIGTTIN SIGTTOU SIGURG "
        "SIGUSR1 SIGUSR2 SIGVTALRM SIGWINCH SIGXCPU SIGXFSZ SIG_BLOCK SIG_SETMASK SIG_UNBLOCK "
        "alarm getitimer pause pthread_kill pthread_sigmask setitimer siginterrupt sigpending "
        "sigtimedwait sigwait sigwaitinfo",
        "time": "clock_gettime clock_gettime_ns pthread_getcpuclockid tzset CLOCK_MONOTONIC",
        "subprocess": "_posixsubprocess",
        "multiprocessing.context": "ForkContext ForkServerContext ForkServerProcess ForkProcess",
        "socket": "AF_UNIX",
    },
    "darwin": {
        "os": "O_TMPFILE pidfd_open posix_fadvise posix_fallocate sched_getaffinity "
        "sched_setaffinity getresuid waitid P_PID WEXITED WNOWAIT",
        "signal": "SIGPWR SIGSTKFLT SIGPOLL SIGRTMAX SIGRTMIN sigtimedwait sigwaitinfo",
    },
}[PLATFORM]
VALUES = {"win32": {"sys": {"platform": "win32"}, "os": {"name": "nt"}}}.get(
    PLATFORM, {"sys": {"platform": "darwin"}}
)
POSIX = "crypt curses fcntl grp nis posix pty pwd readline resource syslog termios tty"
ABSENT = set(POSIX.split()) if PLATFORM == "win32" else set()


class Elsewhere(types.ModuleType):
    """A module as it is there."""

    def __init__(self, here: types.ModuleType) -> None:
        self.__dict__.update(
            _here=here,
            _values=dict(VALUES.get(here.__name__, {})),
            _hidden=set(HIDDEN.get(here.__name__, "").split()),
        )

    def __getattr__(self, name: str) -> object:
        if name in self._hidden:
            raise AttributeError(f"module {self._here.__name__!r} has no attribute {name!r}")
        return self._values[name] if name in self._values else getattr(self._here, name)

    def __setattr__(self, name: str, value: object) -> None:
        setattr(self._here, name, value)

    def __delattr__(self, name: str) -> None:
        delattr(self._here, name)


def _make(name: str) -> Elsewhere:
    return Elsewhere(importlib.import_module(name))


elsewhere = {name: _make(name) for name in {*HIDDEN, *VALUES, "ctypes"}}
find, bring = importlib.util.find_spec, builtins.__import__


def import_there(name, globals=None, locals=None, fromlist=(), level=0):
    if (globals or {}).get("__name__", "").partition(".")[0] in OURS and level == 0:
        if name in ABSENT:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        bring(name, globals, locals, fromlist, level)
        wanted = name if fromlist else name.partition(".")[0]
        if wanted in elsewhere:
            return elsewhere[wanted]
    return bring(name, globals, locals, fromlist, level)


builtins.__import__ = import_there
importlib.util.find_spec = lambda name, *rest: None if name in ABSENT else find(name, *rest)
opened = builtins.open


def open_there(file, *rest, **more):
    if str(file).startswith("/proc/"):
        raise FileNotFoundError(2, "No such file or directory", file)
    return opened(file, *rest, **more)


builtins.open = io.open = open_there

if PLATFORM == "win32":

    class Locks:  # of bytes, from where the file stands
        LK_NBLCK = 2

        @staticmethod
        def locking(file: int, mode: int, count: int) -> None:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)

    sys.modules["msvcrt"] = Locks
    load = ctypes.CDLL

    def load_there(name, *rest, **more):
        if name is None:
            raise TypeError("bad argument type for built-in operation")
        return load(name, *rest, **more)

    elsewhere["ctypes"]._values["CDLL"] = load_there

    def refuse_open(path: object) -> None:
        """Raise what Windows raises where a process has `path`, or a file below it, open."""
        real = os.path.realpath(path)
        for descriptor in glob.iglob("/proc/[0-9]*/fd/*"):
            with contextlib.suppress(OSError):  # gone
                link = os.readlink(descriptor)
                if link == real or link.startswith(real + os.sep):
                    break
        else:
            return
        error = PermissionError(13, f"{link} is open ({descriptor})", path)
        error.winerror = 32
        raise error

    def move_there(move):
        def moved(source, target, **more):
            refuse_open(source)
            refuse_open(target)
            return move(source, target, **more)

        return moved

    def unlink_there(path, *rest, **more):
        refuse_open(path)
        return unlinked(path, *rest, **more)

    unlinked = os.unlink
    elsewhere["os"]._values |= {
        "replace": move_there(os.replace),
        "rename": move_there(os.rename),
        "unlink": unlink_there,
        "remove": unlink_there,
    }
    pathlib.Path.replace = lambda self, target: elsewhere["os"].replace(self, target)
    pathlib.Path.rename = lambda self, target: elsewhere["os"].rename(self, target)

    def path_unlink(self, missing_ok=False):
        try:
            unlink_there(self)
        except FileNotFoundError:
            if not missing_ok:
                raise

    pathlib.Path.unlink = path_unlink
