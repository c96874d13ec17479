"""The plan before a sweep: runs done and to do, their arithmetic, the time they take here."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hydra_plugins.local_pool import AtOnce
from resnet_cifar.compute.cpu import cpu_name, has_no_gpu
from resnet_cifar.config.schema import Config
from resnet_cifar.identity import cell_name, run_directory
from resnet_cifar.model.options import training_flop
from resnet_cifar.record.layout import RUN
from resnet_cifar.record.schema import Session, record_or_reason
from resnet_cifar.runs.find import Run, find_runs

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

    from resnet_cifar.text import duration, wide_console

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
    record = record_or_reason(run_directory(config))
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


def recorded_speed(config: Config, counts: Callable[[Session], bool]) -> RecordedSpeed | None:
    """The speed that the latest runs of this kind beside `config`'s had, in sessions that count."""
    found: list[tuple[str, float]] = []
    wanted = _kind(config)
    root = run_directory(config).parents[1]
    for run in find_runs(root) if root.is_dir() else ():
        with contextlib.suppress(OSError):
            kind, sessions = _sessions(run.path, (run.path / RUN).lstat().st_mtime_ns)
            for session in sessions if kind == wanted else ():
                enough = session.images_trained >= 50 * config.trainer.batch_size
                if enough and session.images_per_second and counts(session):
                    found.append((session.start, session.images_per_second))
    if not found:
        return None
    latest = sorted(found)[-5:]  # the median, because one may have met a busy machine
    return RecordedSpeed(statistics.median(rate for _, rate in latest), len(latest))


@functools.lru_cache(maxsize=100_000)
def _sessions(directory: Path, changed: int) -> tuple[Any, list[Session]]:
    """A run's kind and its sessions, read once as long as its record has not `changed`."""
    record = Run(directory).record
    return (_kind_of(record.config), record.sessions) if record else (None, [])


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
            from resnet_cifar.compute.device import resolve

            compute = resolve(trainer, config.model.width, keep=False)
            name, kind, threads = compute.name, compute.device.type, compute.threads

        def like_this(session: Session) -> bool:
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

    from resnet_cifar.compute import device
    from resnet_cifar.compute.step import update

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
