"""Jobs that are not known at the start: each is chosen by what came of others."""

from __future__ import annotations

from abc import ABC, abstractmethod

from hydra_plugins.local_pool._job import Job, Outcome


class JobSource(ABC):
    """Where a pool's jobs come from, one by one.

    Attributes:
        kind: the class of its jobs.
        total: how many there will be at most, those of earlier processes included.
        before: how many of them earlier processes got done.
    """

    kind: type[Job]
    total: int
    before: int

    @abstractmethod
    def next(self) -> Job | None:
        """A job to start now; None: there is none, or not before one that runs has ended."""

    @abstractmethod
    def label(self, job: Job) -> str:
        """The short name of one of its jobs."""

    @abstractmethod
    def stop(self, job: Job) -> str:
        """Why a job that runs should save what it has and end, in words; "": it goes on."""

    @abstractmethod
    def ended(self, job: Job, outcome: Outcome) -> None:
        """A job has its outcome."""

    @abstractmethod
    def stopped(self, job: Job) -> None:
        """A job has ended as `stop` wanted it to, without an outcome."""
