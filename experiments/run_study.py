"""The study in the minutes there are: cells in the order of what they teach, for a borrowed GPU.

    python experiments/run_study.py --minutes 25 --to carried
    python experiments/run_study.py --minutes 3 -- data=synthetic model.width=4 trainer.epochs=2

Benchmarks briefly, then trains what is missing: every cell once, then more seeds, then the lr × wd
grid; several runs at a time where that is faster, which is measured on the first of them. A run is
started only if it can end in time, so the next call finds whole runs and goes on. Once every cell
is there the test set is read for the baseline and for the cell that validation selects, once each.
What is carried away are the run directories without weights.
"""

from __future__ import annotations

import argparse
import itertools
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from resnet_cifar import sweep
from resnet_cifar.record import run_files

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from resnet_cifar.config import compose  # noqa: E402
from resnet_cifar.errors import UserError  # noqa: E402
from resnet_cifar.identity import cell_name, run_directory  # noqa: E402

SHORT = ("lr_0.01", "lr_0.1", "lr_0.001")
LONG = ("cosine_wd_1e-2", "cosine_wd_5e-4", "baseline", "cosine", "detached_bn")
SEEDS = 5
GRID = [
    (f"optimizer.lr={lr}", f"regularization.weight_decay={wd}", "scheduler=cosine",
     "trainer.epochs=60")
    for lr, wd in itertools.product((0.005, 0.01, 0.05, 0.1), (5e-4, 1e-3, 5e-3, 1e-2))
]  # fmt: skip
START_UP = 20.0  # seconds from a command to its first step, on a machine that was just started
RESERVE = 60.0  # seconds kept for evaluating and copying
WEIGHTS = "*.pt"
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}  # for `python -m` from any directory


def order() -> Iterator[tuple[str, ...]]:
    """Overrides of one run after the other, in the order of what they teach."""
    for cell in (*SHORT, *LONG):
        yield (f"cell={cell}", "seed=0")
    for cell, seed in itertools.product(SHORT, range(1, SEEDS)):
        yield (f"cell={cell}", f"seed={seed}")
    for seed, cell in itertools.product(range(1, 3), LONG):
        yield (f"cell={cell}", f"seed={seed}")
    for seed, point in itertools.product(range(3), GRID):
        yield (*point, f"seed={seed}")


@dataclass
class Job:
    """A run that has not been recorded yet."""

    overrides: tuple[str, ...]
    directory: Path
    images: float  # training images left; a validated one counts a third
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, str(ROOT / "train.py"), *self.overrides]
        self.process = subprocess.Popen([*command, "trainer.progress=quiet"])


def missing(extra: Sequence[str]) -> list[Job]:
    """Runs still to do, each once: `extra` overrides may make cells equal."""
    jobs: dict[Path, Job] = {}
    for overrides in order():
        config = compose([*overrides, *extra])
        item = sweep.planned_run(config)
        if item.images and item.state != "running":
            directory = run_directory(config)
            jobs.setdefault(directory, Job((*overrides, *extra), directory, item.images))
    return list(jobs.values())


def recorded_rate(directory: Path) -> float | None:
    """Images/s of a run's last session."""
    record = run_files.record_or_reason(directory)
    return None if isinstance(record, str) else record.sessions[-1].images_per_second


class Pool:
    """Runs jobs, first alone, then `width` at a time; keeps what is faster in sum."""

    def __init__(self, deadline: float, width: int, rate: float) -> None:
        self.deadline = deadline
        self.width = 1  # until one run has been timed alone
        self.wanted = width
        self.rates: dict[int, list[float]] = {1: [rate]}  # of one run, by how many ran at once
        self.running: list[Job] = []

    def rate(self) -> float:
        """Images/s to expect of one more run."""
        known = self.rates.get(self.width)
        # Nothing is known yet of runs side by side: as if they shared what one alone has.
        return statistics.median(known) if known else self.rates[1][-1] / self.width

    def fits(self, job: Job) -> bool:
        return time.monotonic() + START_UP + job.images / self.rate() < self.deadline

    def run(self, jobs: list[Job]) -> None:
        """Until nothing that is left can end in time."""
        waiting = list(jobs)
        while True:
            while len(self.running) < self.width:
                job = next((job for job in waiting if self.fits(job)), None)
                if job is None:
                    break
                waiting.remove(job)
                job.start()
                print(f"started {' '.join(job.overrides)}", flush=True)
                self.running.append(job)
            if not self.running:
                break
            self._collect()
            time.sleep(0.2)
        for job in waiting:
            print(f"left for the next call: {' '.join(job.overrides)}")

    def stop(self) -> None:
        """End what runs, each after its checkpoint."""
        for job in self.running:
            assert job.process is not None
            job.process.terminate()
        for job in self.running:
            assert job.process is not None
            job.process.wait()

    def _collect(self) -> None:
        for job in [j for j in self.running if j.process and j.process.poll() is not None]:
            record = run_files.record_or_reason(job.directory)
            if isinstance(record, str):
                print(f"failed: {record}", flush=True)
            else:
                what = f"{record.status}{run_files.result(record)}"
                print(f"{what}: {job.directory}", flush=True)
            rate = recorded_rate(job.directory)
            if rate is not None and len(self.running) == self.width:
                self.rates.setdefault(self.width, []).append(rate)
            self.running.remove(job)
            self._choose()

    def _choose(self) -> None:
        """As many at a time as has been, or may still be, the fastest in sum."""
        if len(self.rates[1]) < 2:
            return  # the first entry is an estimate
        alone = self.rates[1][-1]
        together = self.rates.get(self.wanted)
        packed = not together or self.wanted * statistics.median(together) > alone
        width = self.wanted if packed else 1
        if width != self.width:
            print(f"{width} at a time", flush=True)
        self.width = width


def evaluate(extra: Sequence[str]) -> None:
    """The protocol's two looks at the test set, once every cell has its first seed."""
    directories = {cell: run_directory(compose([f"cell={cell}", *extra]))
                   for cell in (*SHORT, *LONG)}  # fmt: skip
    records = {cell: run_files.finished(path) for cell, path in directories.items()}
    if not all(records.values()):
        print("test set: not read before every cell is there")
        return
    scores = {cell: run_files.objective(record) for cell, record in records.items() if record}
    selected = max(scores, key=lambda cell: scores[cell])
    for cell in dict.fromkeys((selected, "baseline")):
        record, path = records[cell], directories[cell]
        if record and any(e.split == "test" for e in record.evaluations):
            continue  # once
        if not (path / "last.pt").exists():
            print(f"test set: {cell} was selected but its weights are gone; train it again")
            continue
        command = [sys.executable, "-m", "resnet_cifar.evaluate", str(path), "--test"]
        subprocess.run(command, env=ENVIRONMENT, check=True)


def carry(root: Path, to: Path) -> None:
    """Copy every recorded run to `to`, without weights."""
    ignore = shutil.ignore_patterns(WEIGHTS, ".lock", ".*.tmp")
    for directory in sorted(root.glob("*/seed=*")):
        if run_files.finished(directory):
            target = to / directory.relative_to(root)
            shutil.copytree(directory, target, ignore=ignore, dirs_exist_ok=True)


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line and do what fits; the process's exit code."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--minutes", type=float, required=True, help="all there are")
    parser.add_argument("--to", type=Path, help="copy run directories without weights here")
    parser.add_argument("--at-once", type=int, default=3, help="runs at a time to try (default 3)")
    parser.add_argument("--no-benchmark", action="store_true")
    parser.add_argument("overrides", nargs="*", help="after --: for every run")
    options = parser.parse_args(arguments)
    deadline = time.monotonic() + 60 * options.minutes - RESERVE
    try:
        first = compose([*next(order()), *options.overrides])
        jobs = missing(options.overrides)
        if options.to and not options.no_benchmark:
            benchmark(options.to, options.minutes, options.overrides)
        rate = sweep.measure(first, 1)
        print(f"{len(jobs)} runs to do; {rate:,.0f} images/s alone, measured now", flush=True)
        pool = Pool(deadline, options.at_once, rate)
        try:
            pool.run(jobs)
        finally:
            pool.stop()
        evaluate(options.overrides)
        if options.to:
            carry(run_directory(first).parents[1], options.to)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(f"the first cell is {cell_name(first)}; python -m resnet_cifar.report puts all together")
    return 0


def benchmark(to: Path, minutes: float, overrides: Sequence[str]) -> None:
    """A short benchmark into `to`/benchmark.json; its failure doesn't cost the runs."""
    to.mkdir(parents=True, exist_ok=True)
    width = next((o.split("=")[1] for o in overrides if o.startswith("model.width=")), "64")
    command = [sys.executable, "-m", "resnet_cifar.benchmark.__main__", "--width", width,
               "--out", str(to / "benchmark.json")]  # fmt: skip
    try:
        subprocess.run(command, env=ENVIRONMENT, timeout=60 * minutes / 5, check=True)
    except subprocess.SubprocessError as error:
        print(f"no benchmark: {error}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
