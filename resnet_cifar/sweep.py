"""A run as the launcher's pool sees it, the plan before the work, the answer after it.

Imports no torch; the plan does where it has to measure.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import functools
import pickle
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from textwrap import fill
from typing import Any, NamedTuple

from hydra_plugins.local_pool import AtOnce, Job, Outcome, Progress
from resnet_cifar.config import Config, from_dictconfig, groups
from resnet_cifar.errors import describe
from resnet_cifar.files import is_held
from resnet_cifar.identity import cell_name, items, number, run_directory, varying_keys
from resnet_cifar.machine import available_memory, cpu_name, has_no_gpu
from resnet_cifar.model.options import training_flop
from resnet_cifar.places import command_name
from resnet_cifar.record import run_files


class RunJob(Job):
    """One run of a sweep. Raises ConfigError where its configuration is not allowed."""

    entry = "resnet_cifar.cli:train_handed"
    # torch comes with the first; the second, a second and a half, every optimizer of PyTorch's
    # imports at its first step (torch 2.14, optim/optimizer.py), also where nothing is compiled.
    preload = ("resnet_cifar.run", "torch._dynamo")
    warm = "resnet_cifar.cli:prepare_handed"

    def __init__(self, config: Any, overrides: Sequence[str]) -> None:
        super().__init__(config, overrides)
        self.run = from_dictconfig(config)
        self.run.logger.check()
        self.directory = run_directory(self.run)

    @property
    def key(self) -> str:
        return str(self.directory)

    @property
    def label(self) -> str:
        return f"{cell_name(self.run)}/seed={self.run.seed}"

    def command(self) -> list[str]:
        # It imports from where this process does, however that was started; ps shows the label.
        module, _, function = self.entry.partition(":")
        program = (
            f"import sys; sys.path[:] = {sys.path}; from {module} import {function}; "
            f"sys.exit({function}())"
        )
        return [sys.executable, "-c", program, self.label]

    def handed(self) -> str:
        # The pool waits for a busy run in its own way, without a process that sits on a slot.
        config = dataclasses.replace(self.run, when_busy="skip")
        return base64.b64encode(pickle.dumps(config)).decode() + "\n"

    def outcome(self) -> Outcome | None:
        if self.run.rerun and self.exit_code is None:
            return None
        record = run_files.record_or_reason(self.directory)
        if isinstance(record, str) or not record.finished:
            return None  # what is wrong with a record, the job that meets it says
        return Outcome(run_files.objective(record), f"{record.status}{run_files.result(record)}")

    def busy(self) -> bool:
        return is_held(self.directory / run_files.LOCK)

    def progress(self) -> Progress | None:
        record = run_files.record_or_reason(self.directory)
        if isinstance(record, str) or not record.epochs_done:
            return None
        done, total = record.epochs_done, record.epochs
        reached = (record.final or {}).get(run_files.OBJECTIVE)
        detail = "" if reached is None else f"val {100 * reached:.2f} %"
        return Progress(done, total, f"epoch {done}/{total}", detail)

    def curve(self) -> Sequence[tuple[int, float]]:
        try:
            lines = run_files.read_metrics(self.directory / run_files.METRICS)
        except run_files.RecordError:  # the job that meets it says what is wrong
            return []
        return [
            (line["epoch"], line[run_files.OBJECTIVE])
            for line in lines
            if line["epoch"] < self.run.trainer.epochs and line.get(run_files.OBJECTIVE) is not None
        ]

    def cost(self) -> float:
        """The arithmetic that is left, in multiply-accumulates."""
        return self.run.multiply_accumulates() * self.run.images(self._epochs_left())

    def seconds(self) -> float | None:
        speed = recorded_speed(self.run, lambda session: True)
        if speed is None:
            return None
        return START_UP + self.run.images(self._epochs_left()) / speed.images_per_second

    def _epochs_left(self) -> int:
        anew = self.run.rerun and self.exit_code is None
        record = run_files.record_or_reason(self.directory)
        done = 0 if anew or isinstance(record, str) else record.epochs_done
        return max(0, self.run.trainer.epochs - done)

    def log(self) -> str | None:
        path = self.directory / "train.log"
        return str(path) if path.exists() else None

    @staticmethod
    def cause(error: BaseException) -> str:
        return describe(error)

    @classmethod
    def at_once(
        cls, jobs: Sequence[Job], threads: int, keep: bool, say: Callable[[str], None]
    ) -> AtOnce:
        runs = [job for job in jobs if isinstance(job, RunJob)]
        used = max(job.run.trainer.threads for job in runs)
        room = int(available_memory() / max(memory(job.run) for job in runs))
        most = min(len(runs), room, threads // max(1, used))
        if most < 2:
            return AtOnce(1)
        alone = (used or threads // most) == 1  # a thread waits for no other
        several = AtOnce(most, min(2 * most - 1, room) if alone else 0)
        if used:  # with its own number of threads a run leaves the others idle
            return several
        from resnet_cifar.together import Question, pays

        widest = max((job.run for job in runs), key=lambda run: run.model.width)
        question = Question(widest.model.width, widest.trainer.precision, most, threads)
        root = runs[0].directory.parents[1]
        return several if pays(question, root, keep, say) else AtOnce(1)

    @classmethod
    def labels(cls, jobs: Sequence[Job]) -> list[str]:
        short = varying([job.run for job in jobs if isinstance(job, RunJob)])
        names = [" ".join(parts) for parts in short]
        telling = all(names) and len(set(names)) == len(
            jobs
        )  # a single run has nothing that varies
        return names if telling else [job.label for job in jobs]

    @classmethod
    def answer(cls, jobs: Sequence[Job]) -> None:
        print_answer([job.run for job in jobs if isinstance(job, RunJob)])

    @classmethod
    def plan(cls, jobs: Sequence[Job], at_once: AtOnce, threads: int) -> None:
        show_plan([job.run for job in jobs if isinstance(job, RunJob)], at_once, threads)


def memory(config: Config) -> float:
    """Bytes a run takes at its peak on a CPU, about: libraries, activations and the data."""
    activations = 2e5 * config.model.width * config.trainer.batch_size  # 1.6 GB at 64 and 128
    return 5e8 + activations + 2 * 3072 * config.data.training_images


def varying(configs: Sequence[Config], but: Sequence[str] = ()) -> list[list[str]]:
    """For each configuration what tells it from the others: "lr=0.1", "cosine", "seed=0".

    Args:
        but: keys that are left out.
    """
    flat = [{**dict(items(config)), "seed": config.seed} for config in configs]
    names = varying_keys([{k: v for k, v in f.items() if k not in but} for f in flat])
    return [
        [
            number(f[key]) if key in groups() else f"{name}={number(f[key])}"
            for key, name in names.items()
            if key in f
        ]
        for f in flat
    ]


# The answer --------------------------------------------------------------------------------------

SHOWN = 10  # cells of the ranking; `runs` lists all


@dataclasses.dataclass
class RankedCell:
    """A cell of a sweep with the accuracies its seeds have reached."""

    label: str
    configs: list[Config]
    accuracies: dict[int, float]  # by seed: the last epoch's on validation, per cent
    diverged: int  # seeds

    @property
    def mean(self) -> float:
        return statistics.fmean(self.accuracies.values()) if self.accuracies else -1.0

    @property
    def result(self) -> str:
        """The mean with the half width of its 95 % t-interval, where there are seeds."""
        if not self.accuracies:
            return "diverged"
        if len(self.accuracies) == 1:  # without the second that scipy takes
            return f"{self.mean:.2f}"
        from resnet_cifar.report.statistics import estimate

        found = estimate(self.accuracies.values())
        return f"{found.mean:.2f} ± {found.half_width:.2f}"


def ranked_cells(configs: Sequence[Config]) -> list[RankedCell]:
    """The cells of a sweep that have results, best first; one with a diverged seed after others."""
    by_cell: dict[str, list[Config]] = {}
    for config in configs:
        by_cell.setdefault(str(run_directory(config).parent), []).append(config)
    labels = varying([cell[0] for cell in by_cell.values()], but=("seed",))
    ranked = []
    for label, cell in zip(labels, by_cell.values(), strict=True):
        accuracies, diverged = {}, 0
        for config in cell:
            record = run_files.record_or_reason(run_directory(config))
            if isinstance(record, str) or not record.finished:
                continue
            if record.status == "diverged":
                diverged += 1
            else:
                accuracies[config.seed] = 100 * run_files.objective(record)
        if accuracies or diverged:
            ranked.append(RankedCell(" ".join(label) or "this cell", cell, accuracies, diverged))
    return sorted(ranked, key=lambda cell: (cell.diverged > 0, -cell.mean))


def verdict(best: RankedCell, other: RankedCell) -> str:
    """How far `best` is ahead of `other`, and whether that means anything: paired by seed."""
    if not other.accuracies:
        return f"{other.label} diverged."
    ahead = f"{best.mean - other.mean:.2f} points ahead of {other.label}"
    seeds = sorted(best.accuracies.keys() & other.accuracies.keys())
    if not seeds:
        return f"{ahead}; they share no seed, so chance can't be told apart."
    if len(seeds) == 1:
        return f"{ahead}, with one seed: whether more than chance can't be said (try seed=0,1,2)."
    from resnet_cifar.report.statistics import estimate, seeds_to_resolve

    found = estimate(best.accuracies[seed] - other.accuracies[seed] for seed in seeds)
    ahead = f"{found.mean:.2f} ± {found.half_width:.2f} points ahead of {other.label}"
    paired = f"paired over {found.n} seeds, 95 % t-interval"
    if found.low > 0:
        return f"{ahead} ({paired}): more than chance between seeds."
    needed = seeds_to_resolve(found.mean, found.sd) if found.mean > 0 else None
    more = f"; {needed} seeds would tell, if it is as large as it looks" if needed else ""
    return f"{ahead} ({paired}): undecided{more}."


def print_answer(configs: Sequence[Config]) -> None:
    """Print the sweep's runs ranked, the best in words, and the commands to look further."""
    from resnet_cifar.display import wide_console

    ranked = ranked_cells(configs)
    if not ranked:
        return
    console = wide_console()
    width = max(len(cell.label) for cell in ranked[:SHOWN])
    seeds = len({config.seed for config in configs}) > 1
    console.print()
    console.print("accuracy on validation, last epoch, %" + ", mean ± 95 % t-interval" * seeds)
    for place, cell in enumerate(ranked[:SHOWN], 1):
        line = f"{place:>3}  {cell.label:<{width}}  {cell.result}"
        if seeds and cell.accuracies:
            line += f"  n = {len(cell.accuracies)}"
        if cell.diverged and cell.accuracies:
            line += f", {cell.diverged} diverged"
        console.print(line, markup=False)
    if len(ranked) > SHOWN:
        console.print(f"     and {len(ranked) - SHOWN} more")
    best = ranked[0]
    root = run_directory(best.configs[0]).parents[1]
    if len(ranked) > 1 and best.accuracies:
        words = f"Best: {best.label}, {best.result} %; {verdict(best, ranked[1])}"
        console.print(fill(words, min(console.width, 100)), markup=False)
    console.print()
    console.print("Look further")
    best_run = run_directory(best.configs[0])
    for line in (
        f"{command_name('runs')} {root}",
        f"{command_name('report')} {root}",
        f"{command_name('evaluate')} {best_run}",
        f"tensorboard --logdir {root}",
    ):
        console.print(f"  {line}", markup=False)


# The plan ----------------------------------------------------------------------------------------

# How a run stands, in the order of the table's columns.
STATES = ("done", "diverged", "running", "partial", "failed", "to do")
STATE_OF = {"completed": "done", "interrupted": "partial"}
MEASURED_SECONDS = 1.0  # of training steps, for a speed no earlier run here has recorded
START_UP = 20.0  # seconds from a run's command to its first step, on a machine just started


@dataclasses.dataclass
class PlannedRun:
    """A run of the plan."""

    config: Config
    state: str
    epochs_done: int
    macs: int  # multiply-accumulates of one image's forward pass

    @property
    def images(self) -> float:
        """What is left to do, in training images; a validated one counts a third."""
        if self.state in ("done", "diverged"):
            return 0.0
        return self.config.images(self.config.trainer.epochs - self.epochs_done)

    @property
    def flop(self) -> float:
        """The arithmetic of the whole run, forward, backward and validation."""
        return training_flop(self.macs) * self.config.images(self.config.trainer.epochs)


def show_plan(configs: Sequence[Config], at_once: AtOnce, threads: int) -> None:
    """Print the plan of a sweep that runs so many at once with `threads` CPU threads each."""
    from rich.table import Table

    from resnet_cifar.display import duration, wide_console

    items = [planned_run(config) for config in configs]
    speeds = Speeds(threads)
    seconds = [entry.images / speeds.of(entry) if entry.images else 0.0 for entry in items]
    cells: dict[str, list[int]] = {}
    for position, entry in enumerate(items):
        cells.setdefault(cell_name(entry.config), []).append(position)

    console = wide_console()
    present = [state for state in STATES if any(entry.state == state for entry in items)]
    table = Table("cell", "runs", *present, "PFLOP", "left")
    table.columns[0].overflow = "fold"
    for column in table.columns[1:]:
        column.justify, column.no_wrap = "right", True
    for cell, positions in cells.items():
        table.add_row(
            cell, *_row(items, positions, present), duration(sum(seconds[p] for p in positions))
        )
    everything = list(range(len(items)))
    total = makespan(seconds, at_once)
    table.add_section()
    table.add_row(f"{len(cells)} cells", *_row(items, everything, present), duration(total))
    console.print(table)
    runs = at_once.runs
    where = f"{runs} at once" if runs > 1 else "one after the other"
    console.print(f"{where}, {threads} CPU threads each; training and validation only.")
    for line in speeds.notes:
        console.print(line)


def _row(
    items: Sequence[PlannedRun], positions: Sequence[int], present: Sequence[str]
) -> list[str]:
    states = [items[p].state for p in positions]
    counts = [str(states.count(state) or "") for state in present]
    flop = sum(items[p].flop for p in positions)
    return [str(len(positions)), *counts, f"{flop / 1e15:.3g}"]


def planned_run(config: Config) -> PlannedRun:
    """How the run of `config` stands."""
    record = run_files.record_or_reason(run_directory(config))
    state, done = "to do", 0
    if not isinstance(record, str) and not config.rerun:
        state, done = STATE_OF.get(record.status, record.status), record.epochs_done
    return PlannedRun(config, state, done, config.multiply_accumulates())


def makespan(seconds: Sequence[float], at_once: AtOnce) -> float:
    """When the last run ends if each takes the slot that is free first, in the order given.

    Where the last ones may share the time of what the others leave, no slot is ever idle.
    """
    free = [0.0] * at_once.runs
    for needed in seconds:
        first = min(range(at_once.runs), key=free.__getitem__)
        free[first] += needed
    if at_once.last < 2 * at_once.runs - 1:
        return max(free)
    return max([sum(free) / at_once.runs, *seconds])


class RecordedSpeed(NamedTuple):
    images_per_second: float
    sessions: int  # it is the median of


def recorded_speed(
    config: Config, counts: Callable[[run_files.Session], bool]
) -> RecordedSpeed | None:
    """The speed that the latest runs of this kind beside `config`'s had, in sessions that count."""
    found: list[tuple[str, float]] = []
    wanted = _kind(config)
    for path in run_directory(config).parents[1].glob(f"*/seed=*/{run_files.RUN}"):
        with contextlib.suppress(OSError):
            kind, sessions = _sessions(path.parent, path.lstat().st_mtime_ns)
            for session in sessions if kind == wanted else ():
                enough = session.images_trained >= 50 * config.trainer.batch_size
                if enough and session.images_per_second and counts(session):
                    found.append((session.start, session.images_per_second))
    if not found:
        return None
    latest = sorted(found)[-5:]  # the median, because one may have met a busy machine
    return RecordedSpeed(statistics.median(rate for _, rate in latest), len(latest))


@functools.lru_cache(maxsize=100_000)
def _sessions(directory: Path, changed: int) -> tuple[Any, list[run_files.Session]]:
    """A run's kind and its sessions, read once as long as its record has not `changed`."""
    record = run_files.record_or_reason(directory)
    return (None, []) if isinstance(record, str) else (_kind_of(record.config), record.sessions)


class Speeds:
    """Training images/s on this machine: from the runs recorded here, or measured now."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self.notes: list[str] = []
        self._known: dict[Any, float] = {}

    def of(self, entry: PlannedRun) -> float:
        """Images/s of the run, one at a time on its device."""
        kind = _kind(entry.config)
        if kind not in self._known:
            self._known[kind] = self._recorded(entry.config) or self._measured(entry)
        return self._known[kind]

    def _recorded(self, config: Config) -> float | None:
        trainer = config.trainer
        if trainer.device == "cpu" or (trainer.device == "auto" and has_no_gpu()):
            name, kind, threads = cpu_name(), "cpu", trainer.threads or self.threads
        else:
            from resnet_cifar.device import resolve

            compute = resolve(trainer, config.model.width, keep=False)
            name, kind, threads = compute.name, compute.device.type, compute.threads

        def like_this(session: run_files.Session) -> bool:
            return session.device == name and (kind != "cpu" or session.threads == threads)

        found = recorded_speed(config, like_this)
        if found is None:
            return None
        speed, sessions = found
        self.notes.append(f"{_name(config)}: {speed:,.0f} images/s in {sessions} sessions here")
        return speed

    def _measured(self, entry: PlannedRun) -> float:
        print(f"measuring {_name(entry.config)} …", file=sys.stderr, flush=True)
        speed = measure(entry.config, self.threads)
        self.notes.append(f"{_name(entry.config)}: {speed:,.0f} images/s, measured now")
        return speed


def measure(config: Config, threads: int) -> float:
    """Images/s of training steps on random images, uncompiled; takes a second or two steps."""
    import torch

    from resnet_cifar import device
    from resnet_cifar.steps import update

    root = run_directory(config).parents[1]
    trainer = dataclasses.replace(config.trainer, threads=config.trainer.threads or threads)
    compute = device.resolve(trainer, config.model.width, root, keep=False)
    model = config.build_model()
    layout = device.place(model, compute)
    optimizer = config.optimizer.build(config.regularization.parameter_groups(model))
    descent = config.regularization.descent(model, optimizer, compute.scaler())
    loss = config.regularization.loss()
    batch = config.trainer.batch_size
    x = torch.randn(batch, 3, 32, 32, device=compute.device).contiguous(memory_format=layout)
    y = torch.zeros(batch, dtype=torch.int64, device=compute.device)
    with device.settings(compute, config.trainer.deterministic):
        update(x, y, model, loss, descent, compute)  # buffers and kernels are chosen at first use
        compute.synchronize()
        start, steps = time.perf_counter(), 0
        while time.perf_counter() - start < MEASURED_SECONDS:
            update(x, y, model, loss, descent, compute)
            compute.synchronize()
            steps += 1
        rate = steps * batch / (time.perf_counter() - start)
    # The last batch of an epoch may be smaller, but costs about as many launches.
    return rate * config.data.training_images / (config.steps_per_epoch * batch)


SPEED_KEYS = ("model", "norm", "trainer.batch_size", "trainer.precision", "trainer.deterministic")


def _kind(config: Config) -> Any:
    from resnet_cifar.identity import flatten

    return _kind_of(flatten(config))


def _kind_of(flat: dict[str, Any]) -> Any:
    """What of a flattened configuration decides the speed."""
    return tuple(sorted((k, str(v)) for k, v in flat.items() if k.startswith(SPEED_KEYS)))


def _name(config: Config) -> str:
    detach = getattr(config.norm, "detach", "none")
    norm = config.norm.NAME if detach == "none" else f"{config.norm.NAME} detach={detach}"
    return f"{config.model.NAME} width {config.model.width}, {norm}"
