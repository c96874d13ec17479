"""The study in the minutes there are, on one device: the cells in the order of what they teach.

    python experiments/run_study.py --minutes 12 --at-once 3 --to study.tar.gz

A run starts if it can end in time, by the epochs that were trained with as many at once; the first
of a process, which compiles, is left out. The archive has every run's record and curve, no weights.
Runs save when the time is up, at Ctrl-C, and when this process is gone; the same command goes on.
"""

import argparse
import contextlib
import dataclasses
import io
import statistics
import sys
import tarfile
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path

from hydra_plugins.local_pool._process import JobProcess
from resnet_cifar.cli.edge import Parser, run_command
from resnet_cifar.compute.device import find, resolve
from resnet_cifar.config.compose import compose_untyped
from resnet_cifar.errors import UserError, describe, require
from resnet_cifar.files import check_writable, write_atomically
from resnet_cifar.identity import run_directory
from resnet_cifar.record.layout import METRICS
from resnet_cifar.record.lines import read_metrics
from resnet_cifar.runs.find import Run
from resnet_cifar.sweep.job import RunJob
from resnet_cifar.training.interrupt import WATCH_PARENT

CELLS = (
    *("lr_0.01", "lr_0.1", "lr_0.001"),  # 15 epochs: together a whole table, in minutes
    *("cosine_wd_1e-2", "detached_bn", "baseline", "cosine_wd_5e-4", "cosine"),
)
RECORDED = Path(__file__).parent / "results" / "runs"
RESERVE, SAVING = 25.0, 20.0  # seconds kept for the end; of them, for runs to save
TICK, ENOUGH, TOLERANCE = 0.5, 3, 1.05  # to stop a run: epochs measured, and of the time left


class Member:
    """A run of the study and its process. `done` counts its epochs, `seen` those of the process."""

    def __init__(self, job: RunJob) -> None:
        self.job, self.epochs, self.name = job, job.run.trainer.epochs, " ".join(job.overrides)
        self.done, self.seen, self.told = len(epoch_seconds(job)), 0, False

    def start(self, env: dict[str, str]) -> None:
        say(f"{self.name}: started in {self.job.directory}")
        self.before, self.seen, self.told = epoch_seconds(self.job), 0, False
        self.started = self.since = time.monotonic()
        self.process = JobProcess(self.job, "", {**env, WATCH_PARENT: "1"}, None, lambda *_: None)

    def look(self) -> list[float]:
        """Return the seconds of the epochs that ended since the last look, but for the first."""
        recorded, was = epoch_seconds(self.job), self.seen
        new = [seconds for seconds in recorded if seconds not in self.before]
        if len(new) > was:
            self.done, self.seen, self.since = len(recorded), len(new), time.monotonic()
        return new[max(was, 1) :]

    def stop(self, why: str) -> None:
        if not self.told:
            say(f"{self.name}: {why}; it saves, {self.done} of {self.epochs} epochs done")
        self.told = True
        self.process.stop()  # the second time it is ended; what its last checkpoint has is kept


class Study:
    """Starts, watches and stops runs until `deadline`, a time.monotonic()."""

    def __init__(self, jobs: Sequence[RunJob], deadline: float, at_once: int, to: Path) -> None:
        self.jobs, self.deadline, self.at_once, self.to = jobs, deadline, at_once, to
        self.waiting = [Member(job) for job in jobs if not is_recorded(job)]
        self.running: list[Member] = []
        self.speeds: dict[int, deque[float]] = {}  # seconds of an epoch, by the runs at once
        self.ready, self.changed = 0, 0.0  # runs past their first epoch; since when so many
        self.first, self.failed = 0.0, 0  # seconds to the end of the latest first epoch; runs

    def run(self) -> None:
        """Train what fits."""
        try:
            while time.monotonic() < self.deadline:
                self.collect()
                self.learn()
                self.give_up()
                self.start()
                if not self.running and not any(each.job.busy() for each in self.waiting):
                    return
                time.sleep(TICK)
        finally:
            patience = time.monotonic() + SAVING
            while self.running:
                for member in self.running:
                    if not member.told or time.monotonic() > patience:
                        member.stop("the time is up")
                time.sleep(TICK)
                self.collect()

    def collect(self) -> None:
        """Take in the runs that have ended."""
        for member in self.running.copy():
            job, code = member.job, member.process.poll()
            if code is None:
                if job.outcome() and not job.busy():  # everything is written: it may hang no more
                    member.process.stop()
                continue
            self.running.remove(member)
            job.exit_code = code
            member.look()
            if outcome := job.outcome():
                how = outcome.text
            elif member.told:
                how = "saved"
                self.waiting.append(member)
            else:
                how = f"FAILED: {member.process.explain(code)}"
                self.failed += 1
            how += f", {member.done} of {member.epochs} epochs"
            say(f"{member.name}: {how}, {time.monotonic() - member.started:.0f} s")
            with contextlib.suppress(OSError):  # the runs go on, and the end says it
                self.carry()

    def learn(self) -> None:
        """Take in epochs that were trained from begin to end with as many at once."""
        now = time.monotonic()
        for member in self.running:
            compiled, new = member.seen > 0, member.look()
            whole = [seconds for seconds in new if now - seconds > self.changed]
            if self.ready and whole:
                self.speeds.setdefault(self.ready, deque(maxlen=5 * self.ready)).extend(whole)
            if member.seen and not compiled:
                self.first = now - member.started
        ready = sum(member.seen > 0 for member in self.running)
        if ready != self.ready:
            self.ready, self.changed = ready, now

    def speed(self, count: int) -> float:
        """Seconds of an epoch with so many at once; at best, where that was not measured."""
        nearest = min(self.speeds, key=lambda measured: abs(measured - count))
        return statistics.fmean(self.speeds[nearest]) * min(1.0, count / nearest)

    def ends(self, members: Sequence[Member]) -> dict[Member, float]:
        """Seconds until each ends if these run from now on: as some end, the others get faster."""
        left, found, at, before = {}, {}, 0.0, 0.0
        for each in members:
            begun, speed = each in self.running, self.speed(len(members))
            this = speed if begun and each.seen else max(self.first, speed)
            rest = max(0.0, this - (time.monotonic() - each.since)) if begun else this
            left[each] = each.epochs - each.done - 1 + rest / speed
        for position, each in enumerate(sorted(left, key=left.__getitem__)):
            at += (left[each] - before) * self.speed(len(left) - position)
            before, found[each] = left[each], at
        return found

    def fits(self, new: Member) -> bool:
        """True if it can end in time, and those that could without it still can. At first: True."""
        if not self.speeds:
            return True
        without, beside = self.ends(self.running), self.ends([*self.running, new])
        left = self.deadline - time.monotonic()
        return all(beside[each] <= left for each in beside if without.get(each, 0.0) <= left)

    def start(self) -> None:
        """Start what fits on the places that are free."""
        for new in self.waiting.copy():
            if len(self.running) < self.at_once and not new.job.busy() and self.fits(new):
                self.waiting.remove(new)
                new.start({"OMP_NUM_THREADS": str(max(1, RunJob.cpus() // self.at_once))})
                self.running.append(new)

    def give_up(self) -> None:
        """Stop the run with the least done where more of the work then ends in time."""
        runs = sorted(self.running, key=lambda member: member.done / member.epochs)
        if self.ready < len(runs) or len(self.speeds.get(len(runs), ())) < ENOUGH:
            return
        left = TOLERANCE * (self.deadline - time.monotonic())
        ends = (self.ends(runs[stopped:]) for stopped in range(len(runs)))
        in_time = [sum(each.epochs for each in of if of[each] <= left) for of in ends]
        if max(in_time) > in_time[0] and not runs[0].told:
            runs[0].stop("not all can end in time")

    def carry(self) -> None:
        """Write the archive of what the runs have recorded. Raises OSError; a whole one stays."""
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=1) as archive:
            for job in self.jobs:
                for path in sorted(job.directory.glob("[!.]*")):  # nothing half written
                    if path.suffix != ".pt":
                        archive.add(path, f"{job.label}/{path.name}")
        write_atomically(self.to, buffer.getvalue())


def say(text: str) -> None:
    """Print a line with the time."""
    print(f"{time.strftime('%H:%M:%S')}  {text}", flush=True)


def epoch_seconds(job: RunJob) -> list[float]:
    """Seconds of each epoch that a run has recorded."""
    key = "speed/epoch_seconds"  # not of an epoch that diverged
    with contextlib.suppress(UserError):  # it is damaged: the run's process says so
        return [line[key] for line in read_metrics(job.directory / METRICS) if key in line]
    return []


def list_jobs(cells: Sequence[str], seeds: Sequence[int], extra: Sequence[str]) -> list[RunJob]:
    """The runs, every cell once before the next seed; those of equal configuration once."""
    for key in (each.lstrip("+~").partition("=")[0] for each in extra):
        require(key not in ("cell", "seed", "rerun"), key, "…", "left to --cells and --seeds")
    chosen = [[f"cell={cell}", f"seed={seed}"] for seed in seeds for cell in cells]
    jobs = [RunJob(compose_untyped([*extra, *each]), each) for each in chosen]
    return list({job.key: job for job in jobs}.values())


def is_recorded(job: RunJob) -> bool:
    """True if a run has its outcome, here or, in this machine's precision, among the committed."""
    if job.outcome():
        return True
    record = Run(run_directory(dataclasses.replace(job.run, output_root=str(RECORDED)))).record
    if not (record and record.finished and record.sessions):
        return False
    used = record.sessions[-1].precision  # runs of different precision are not compared
    return resolve(job.run.trainer, job.run.model.width, used).precision == used


def work(options: argparse.Namespace) -> None:
    """Check everything, train what fits, write the archive."""
    deadline, to = time.monotonic() + 60 * options.minutes - RESERVE, options.to
    require(0.5 <= options.minutes <= 1e5, "--minutes", options.minutes, "0.5 to 100000")
    require(options.at_once > 0, "--at-once", options.at_once, "1 or more")
    require(to.name.endswith(".tar.gz") and not to.is_dir(), "--to", to, "a file *.tar.gz")
    try:
        to.parent.mkdir(parents=True, exist_ok=True)
        check_writable(to)
    except OSError as error:
        raise UserError(f"--to={to} can't be written: {describe(error)}") from error
    jobs = list_jobs(options.cells, options.seeds, options.overrides)
    find(jobs[0].run.trainer)  # the device and the data, before each run would miss them
    jobs[0].run.data.prepare()
    study = Study(jobs, deadline, options.at_once, to)
    say(f"{len(jobs)} runs, {len(jobs) - len(study.waiting)} recorded before")
    try:
        study.run()
    finally:
        say(f"left: {', '.join(member.name for member in study.waiting) or 'nothing'}")
        study.carry()
    if study.failed:
        raise UserError(f"{study.failed} runs failed: see above")


def main(arguments: list[str] | None = None) -> int:
    """Do what the command line says; the process's exit code."""
    parser = Parser(description=__doc__.split("\n")[0])
    parser.add_argument("--minutes", type=float, required=True, help="all there are")
    parser.add_argument("--to", type=Path, required=True, help="the archive, a file *.tar.gz")
    parser.add_argument("--cells", nargs="+", choices=CELLS, default=CELLS, metavar="CELL")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], metavar="SEED")
    parser.add_argument("--at-once", type=int, default=1, help="runs that share the device (1)")
    parser.add_argument("overrides", nargs="*", help="after --: for every run")
    return run_command(parser, work, arguments)


if __name__ == "__main__":
    sys.exit(main())
