"""A sweep's run as a job of the launcher. Imports no torch; the plan does where it measures."""

import base64
import contextlib
import dataclasses
import os
import pickle
import statistics
import sys
from collections.abc import Sequence
from typing import Any

from hydra_plugins.local_pool import AtOnce, Job, Outcome, Progress
from resnet_cifar.compute.cpu import available_cores, available_memory
from resnet_cifar.config.compose import from_dictconfig
from resnet_cifar.config.schema import Config
from resnet_cifar.errors import describe
from resnet_cifar.files import is_held
from resnet_cifar.identity import run_directory
from resnet_cifar.record.layout import LOCK, METRICS
from resnet_cifar.record.lines import read_metrics
from resnet_cifar.record.schema import OBJECTIVE, RecordError, objective, result
from resnet_cifar.runs.find import Run
from resnet_cifar.sweep.answer import print_answer, varying
from resnet_cifar.sweep.plan import START_UP, planned_run, recorded_speeds, show_plan


class RunJob(Job):
    """One run of a sweep. Raises ConfigError where its configuration is not allowed."""

    entry = "resnet_cifar.cli.train:train_handed"
    # torch comes with the first; the second, a second and a half, every optimizer of PyTorch's
    # imports at its first step (torch 2.14, optim/optimizer.py), also where nothing is compiled.
    preload = ("resnet_cifar.training.run", "torch._dynamo")

    def __init__(self, config: Any, overrides: Sequence[str]) -> None:
        super().__init__(config, overrides)
        self.run = from_dictconfig(config)
        self.directory = run_directory(self.run)
        self.run.check_new(self.directory)
        self.run.logger.check()

    @property
    def key(self) -> str:
        return str(self.directory)

    @property
    def label(self) -> str:
        return f"{self.directory.parent.name}/{self.directory.name}"

    def command(self) -> list[str]:
        # It imports from where this process does, however that was started; ps shows the label.
        module, _, function = self.entry.partition(":")
        train = f"from {module} import {function}; sys.exit({function}())"
        return [sys.executable, "-c", f"import sys; sys.path[:] = {sys.path}; {train}", self.label]

    def handed(self) -> str:
        # The pool waits for a busy run in its own way, without a process that sits on a slot.
        config = dataclasses.replace(self.run, when_busy="skip")
        return base64.b64encode(pickle.dumps(config)).decode() + "\n"

    def outcome(self) -> Outcome | None:
        # A damaged one counts as none: the job that meets it says so.
        anew = self.run.rerun and self.exit_code is None
        record = None if anew else Run(self.directory).record
        if record is None or not record.finished:
            return None
        if self.exit_code is None and self.run.logger.lacks(record):  # its process hands that in
            return None
        return Outcome(objective(record), f"{record.status}{result(record)}")

    def busy(self) -> bool:
        return is_held(self.directory / LOCK)

    def progress(self) -> Progress | None:
        if (record := Run(self.directory).record) is None:
            return None
        done, total = record.epochs_done, record.epochs
        reached = (record.final or {}).get(OBJECTIVE)
        detail = "" if reached is None else f"val {100 * reached:.2f} %"
        return Progress(done, total, f"epoch {done}/{total}", detail)

    def last_sign(self) -> float:
        with contextlib.suppress(OSError):  # not there yet
            return os.stat(self.directory / "train.log").st_mtime
        return 0.0

    def curve(self) -> Sequence[tuple[int, float]]:
        try:
            lines = read_metrics(self.directory / METRICS)
        except RecordError:  # the job that meets it says what is wrong
            return []
        before_last = [line for line in lines if line["epoch"] < self.run.trainer.epochs]
        curve = [(line["epoch"], line.get(OBJECTIVE)) for line in before_last]
        return [(epoch, value) for epoch, value in curve if value is not None]

    def cost(self) -> float:
        """The arithmetic that is left, in multiply-accumulates."""
        return self.run.multiply_accumulates() * planned_run(self.run).images

    def seconds(self) -> float | None:
        if not (speeds := recorded_speeds(self.run)):
            return None
        return START_UP + planned_run(self.run).images / statistics.median(speeds)

    def log(self) -> str | None:
        path = self.directory / "train.log"
        return str(path) if os.path.exists(path) else None  # never raises

    @staticmethod
    def cause(error: BaseException) -> str:
        return describe(error)

    @classmethod
    def cpus(cls) -> int:
        return available_cores()

    @classmethod
    def at_once(cls, jobs: Sequence[Job], cpus: int) -> AtOnce:
        """Start as many as there are cores and memory, each with its share of the cores.

        A narrow network gains little from more threads: at width 8 two runs at once on two cores
        got 1.3 to 1.5 times as much done as one with both, at width 64 1.09 times.
        """
        runs = _configs(jobs)
        own_threads = max(run.trainer.threads for run in runs)  # 0: its share
        memory = available_memory() or 0.0  # one at a time where the system doesn't say
        room = int(memory / max(peak_memory(run) for run in runs))
        count = max(1, min(len(runs), room, cpus // max(1, own_threads)))
        # Threads of a run wait for one another.
        if count == 1 or (own_threads or cpus // count) > 1:
            return AtOnce(count)
        return AtOnce(count, min(2 * count - 1, room))

    @classmethod
    def labels(cls, jobs: Sequence[Job]) -> list[str]:
        names = [" ".join(parts) for parts in varying(_configs(jobs))]
        distinct = all(names) and len(set(names)) == len(jobs)  # a single run has nothing to vary
        return names if distinct else [job.label for job in jobs]

    @classmethod
    def prepare(cls, jobs: Sequence[Job], at_once: AtOnce, threads: int) -> None:
        configs = _configs(jobs)
        for data in {repr(run.data): run.data for run in configs}.values():
            data.prepare()
        if at_once.runs:
            show_plan(configs, at_once, threads, always=False)

    @classmethod
    def answer(cls, jobs: Sequence[Job]) -> None:
        print_answer(_configs(jobs))

    @classmethod
    def plan(cls, jobs: Sequence[Job], at_once: AtOnce, threads: int) -> None:
        show_plan(_configs(jobs), at_once, threads)


def _configs(jobs: Sequence[Job]) -> list[Config]:
    return [job.run for job in jobs if isinstance(job, RunJob)]


def peak_memory(config: Config) -> float:
    """Bytes a run takes on a CPU at most, about: libraries, activations and the data."""
    activations = 2e5 * config.model.width * config.trainer.batch_size  # 1.6 GB at 64 and 128
    return 5e8 + activations + 2 * 3072 * config.data.training_images
