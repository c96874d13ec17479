"""What the pool needs to know of a job."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

from omegaconf import DictConfig


class Outcome(NamedTuple):
    """How a job ended for good."""

    value: Any  # what the task function returns: the objective of a search
    text: str  # for people: "completed, 94.2 %"


class Progress(NamedTuple):
    """How far a job is, in any unit."""

    done: float
    total: float
    text: str = ""  # for people: "epoch 3/15"
    detail: str = ""  # shown where there is room: "val 84.1 %"


class AtOnce(NamedTuple):
    """How many jobs share a CPU.

    Between `runs` and `last` it is time they share, which only jobs of a thread each do well. So
    the last jobs never wait beside an idle core for one that has just begun: three equal ones on
    two cores take the time of one and a half, not of two.
    """

    runs: int
    last: int = 0  # of the last ones, when fewer are left to start than run; 0: no more than `runs`


class SweepFailed(Exception):
    """Jobs failed; which and why has been printed. `exit_code` is for the process."""

    exit_code = 1


class Job:
    """One configuration of a sweep. Subclass it to tell the pool more.

    Args:
        config: the composed configuration, resolved, without Hydra's own node.
        overrides: the command line that composes it.

    Raises:
        Exception: the configuration is not allowed. The sweep ends before any job has started.
    """

    # What its process does as "module:function", which returns the exit code. Where that is said,
    # several jobs on a CPU are forked from a process that has imported `preload`, in place of
    # starting `command()`. Those modules may start no threads and touch no device; what libraries
    # read of the environment while they are loaded is the pool's, not the job's.
    entry: ClassVar[str] = ""
    preload: ClassVar[Sequence[str]] = ()
    # "module:function", called there with what the first job is `handed`: for what jobs share.
    warm: ClassVar[str] = ""

    def __init__(self, config: DictConfig, overrides: Sequence[str]) -> None:
        self.config, self.overrides = config, list(overrides)
        self.exit_code: int | None = None  # set by the pool when the job's process has ended

    @property
    def key(self) -> str:
        """Jobs of one key are the same work: it is done once."""
        return " ".join(self.overrides)

    @property
    def label(self) -> str:
        """The name people know it by."""
        return " ".join(self.overrides)

    def command(self) -> list[str]:
        """The command line of its process. This one composes the configuration again."""
        return [sys.executable, sys.argv[0], *self.overrides, "hydra.mode=RUN"]

    def handed(self) -> str:
        """What its process finds on standard input, which stays open as long as the pool lives.

        The place for the configuration, if the process has a way to take it: files edited since the
        sweep began, or a time of day in a name, then mean what they meant when it was checked.
        """
        return ""

    def outcome(self) -> Outcome | None:
        """How it ended for good, or None while there is something left to do.

        Asked before the job starts (then an outcome means: skip it) and after its process ended.
        Exit code 0 without an outcome means that another process is at it (`busy`); else it failed.
        """
        return Outcome(None, "completed") if self.exit_code == 0 else None

    def busy(self) -> bool:
        """Whether a process that is not this pool's is working on it now."""
        return False

    def progress(self) -> Progress | None:
        """How far it is, as far as anybody can tell."""
        return None

    def curve(self) -> Sequence[tuple[int, float]]:
        """What a search compares before the end: (step, objective), of all steps but the last."""
        return []

    def cost(self) -> float:
        """What is left to do of it, in a unit that jobs of one sweep share."""
        return 1.0

    def seconds(self) -> float | None:
        """How long what is left will take from now, its start included; None if nobody knows."""
        return None

    def log(self) -> str | None:
        """Where its own log is, if there is one."""
        return None

    @classmethod
    def cpus(cls) -> int:
        """The CPUs that jobs share."""
        return os.cpu_count() or 1

    @classmethod
    def at_once(cls, jobs: Sequence[Job], cpus: int) -> AtOnce:
        """The number of `jobs` that should share so many CPUs, each with its part of them.

        Asked where `jobs_per_device` is "auto" and several jobs are to be done.
        """
        return AtOnce(1)

    @staticmethod
    def cause(error: BaseException) -> str:
        """An exception from a job's process, in one line for people."""
        text = " ".join(str(error).split())
        return text if hasattr(error, "exit_code") else f"{type(error).__name__}: {text}"

    @classmethod
    def labels(cls, jobs: Sequence[Job]) -> list[str]:
        """The jobs of one sweep by short names: what tells them apart."""
        return [job.label for job in jobs]

    @classmethod
    def answer(cls, jobs: Sequence[Job]) -> None:
        """Print what those of a sweep's jobs that have their outcome say."""

    @classmethod
    def plan(cls, jobs: Sequence[Job], at_once: AtOnce, threads: int) -> None:
        """Print what a sweep would do with so many at once on `threads` CPU threads each."""
        for job in jobs:
            print(job.label)
        print(f"{len(jobs)} jobs on {at_once.runs} × {threads} threads")
