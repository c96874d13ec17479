"""The contract between the launchers, a project's jobs and a search."""

from __future__ import annotations

import os
import re
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

from omegaconf import DictConfig


class Outcome(NamedTuple):
    """A job's end for good."""

    value: Any  # what the task function returns: the objective of a search
    text: str  # for people: "completed, 94.2 %"


class Progress(NamedTuple):
    """A job's progress, in any unit."""

    done: float
    total: float
    text: str = ""  # for people: "epoch 3/15"
    detail: str = ""  # shown where there is room: "val 84.1 %"


class AtOnce(NamedTuple):
    """The number of jobs that share a CPU.

    The last jobs, when fewer are left to start than run, may be more than there are cores: so none
    waits beside an idle core for one that has just begun. Three equal ones on two cores take the
    time of one and a half, not of two. Only jobs of one thread each share cores that well.
    """

    runs: int
    last: int = 0  # as many of the last ones; 0: no more than `runs`


class SweepFailed(Exception):
    """Jobs failed; which and why has been printed. `exit_code` is for the process."""

    exit_code = 1


def one_line(text: str) -> str:
    """Fold `text` into one line of 300 characters at most, without its middle."""
    line = " ".join(text.split())
    return line if len(line) <= 300 else f"{line[:150]} … {line[-147:]}"


class Job:
    """One configuration of a sweep. Subclass it to tell the pool more.

    Args:
        config: the composed configuration, resolved, without Hydra's own node.
        overrides: the command line that composes it.

    Raises:
        Exception: the configuration is not allowed. The sweep ends before any job has started.
    """

    # "module:function", the work of its process, which returns the exit code. With it, several jobs
    # on a CPU are forked from a process that has imported `preload`, in place of starting
    # `command()`. Those modules may start no threads and touch no device. A job finds in its
    # environment what it would find as a program; but what a library has read there while it was
    # imported (OMP_NUM_THREADS) is the sweep's.
    entry: ClassVar[str] = ""
    preload: ClassVar[Sequence[str]] = ()

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
        """The text its process finds on standard input, which stays open while the pool lives.

        The place for the configuration, if the process has a way to take it: files edited since the
        sweep began, or a time of day in a name, then mean what they meant when it was checked.
        """
        return ""

    def outcome(self) -> Outcome | None:
        """Its end for good, or None while there is something left to do.

        Asked before the job starts (then an outcome means: skip it) and after its process ended.
        Exit code 0 without an outcome means that another process is at it (`busy`); else it failed.
        """
        return Outcome(None, "completed") if self.exit_code == 0 else None

    def busy(self) -> bool:
        """Return True if a process that is not this pool's is working on it now."""
        return False

    def progress(self) -> Progress | None:
        """Its progress, as far as it is known."""
        return None

    def last_sign(self) -> float:
        """The time of the last sign that it works; now, if it gives none."""
        return time.time()

    def curve(self) -> Sequence[tuple[int, float]]:
        """The objective by step, for a search to compare: of all steps but the last."""
        return []

    def cost(self) -> float:
        """The work that is left of it, in a unit that the jobs of a sweep share."""
        return 1.0

    def seconds(self) -> float | None:
        """The time that is left of it, its start included; None if nobody knows."""
        return None

    def log(self) -> str | None:
        """The path of its own log, if there is one."""
        return None

    @classmethod
    def cpus(cls) -> int:
        """The CPUs that this process may use, and no more than OMP_NUM_THREADS says."""
        if hasattr(os, "sched_getaffinity"):
            here = len(os.sched_getaffinity(0))
        else:
            here = os.cpu_count() or 1
        said = os.environ.get("OMP_NUM_THREADS", "")
        return min(here, int(said)) if re.fullmatch("0*[1-9][0-9]{0,8}", said) else here

    @classmethod
    def at_once(cls, jobs: Sequence[Job], cpus: int) -> AtOnce:
        """The number of `jobs` that should share so many CPUs, each with its part of them.

        Asked at a sweep's start where `jobs_per_device` is "auto" and several jobs are to be done.
        """
        return AtOnce(1)

    @staticmethod
    def cause(error: BaseException) -> str:
        """Say in one line for people why a job's process raised `error`."""
        kind = "" if hasattr(error, "exit_code") else f"{type(error).__name__}: "
        return one_line(f"{kind}{error}")

    @classmethod
    def labels(cls, jobs: Sequence[Job]) -> list[str]:
        """Short names of the jobs of one sweep: what tells them apart."""
        return [job.label for job in jobs]

    @classmethod
    def prepare(cls, jobs: Sequence[Job], at_once: AtOnce, threads: int) -> None:
        """Get what `jobs` share, before the first starts; of a search, examples, 0 at once."""

    @classmethod
    def answer(cls, jobs: Sequence[Job]) -> None:
        """Print what a sweep has shown, by those of its jobs that have their outcome."""

    @classmethod
    def plan(cls, jobs: Sequence[Job], at_once: AtOnce, threads: int) -> None:
        """Print the plan of a sweep: so many at once on `threads` CPU threads each."""
        for job in jobs:
            print(job.label)
        print(f"{len(jobs)} jobs on {at_once.runs} × {threads} threads")


class JobSource(ABC):
    """Proposes a pool's jobs one by one, each by the results of others."""

    total: int  # how many there will be at most, those of earlier processes included
    before: int  # how many of them earlier processes got done

    @abstractmethod
    def next(self) -> Job | None:
        """Return a job to start now; None: there is none, at least until a running one ends."""

    @abstractmethod
    def label(self, job: Job) -> str:
        """Return the short name of one of its jobs."""

    def count(self, job: Job) -> int:
        """Return how many of its proposals a job stands for."""
        return 1

    @abstractmethod
    def stop(self, job: Job) -> str:
        """Say why a job, also one that has ended, should save what it has and end; "": go on."""

    @abstractmethod
    def ended(self, job: Job, outcome: Outcome) -> None:
        """Take in the outcome of a job."""

    @abstractmethod
    def stopped(self, job: Job) -> None:
        """Take in that a job has ended without an outcome, as `stop` wanted."""
