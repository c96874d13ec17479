"""The plan before a sweep: runs done and to do, their arithmetic, the time they take here."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra_plugins.local_pool import AtOnce
from resnet_cifar.compute.cpu import cpu_name, has_no_gpu
from resnet_cifar.config.schema import Config
from resnet_cifar.identity import cell_name, flatten, run_directory
from resnet_cifar.model.options import training_flop
from resnet_cifar.record.layout import RUN
from resnet_cifar.record.schema import Session, record_or_reason
from resnet_cifar.training.precision import known_precision

# The states of runs, in the order of the table's columns.
STATES = ("done", "diverged", "running", "partial", "failed", "to do")
STATE_OF = {"completed": "done", "interrupted": "partial"}
MEASURED_SECONDS = 1.0  # of training steps, for a speed no earlier run here has recorded
START_UP = 20.0  # seconds from a run's command to its first step, on a machine just started
ENOUGH_STEPS = 50  # of a session, for its speed to count
# The keys of a configuration that decide the speed; a group's name stands for all its options.
SPEED_KEYS = ("model", "norm", "trainer.batch_size", "trainer.precision", "trainer.deterministic")


@dataclasses.dataclass
class PlannedRun:
    """A run of the plan."""

    config: Config
    state: str
    epochs_done: int
    macs: int  # multiply-accumulates of one image's forward pass

    @property
    def images(self) -> float:
        """Training images that are left; a validated one counts a third."""
        if self.state in ("done", "diverged"):
            return 0.0
        return self.config.images(self.config.trainer.epochs - self.epochs_done)

    @property
    def flop(self) -> float:
        """The arithmetic of the whole run, forward, backward and validation."""
        return training_flop(self.macs) * self.config.images(self.config.trainer.epochs)


def planned_run(config: Config) -> PlannedRun:
    """Read how far the run of `config` is."""
    record = record_or_reason(run_directory(config))
    state, done = "to do", 0
    if not isinstance(record, str) and not config.rerun:
        state, done = STATE_OF.get(record.status, record.status), record.epochs_done
    return PlannedRun(config, state, done, config.multiply_accumulates())


def show_plan(configs: Sequence[Config], at_once: AtOnce, threads: int) -> None:
    """Print the plan of a sweep that runs so many at once with `threads` CPU threads each."""
    from rich.table import Table

    from resnet_cifar.text import duration, wide_console

    runs = [planned_run(config) for config in configs]
    speeds = Speeds(threads)
    seconds = [run.images / speeds.find(run.config) if run.images else 0.0 for run in runs]
    cells: dict[str, list[int]] = {}
    for position, run in enumerate(runs):
        cells.setdefault(cell_name(run.config), []).append(position)

    states = [state for state in STATES if any(run.state == state for run in runs)]
    table = Table("cell", "runs", *states, "PFLOP", "left")
    table.columns[0].overflow = "fold"
    for column in table.columns[1:]:
        column.justify, column.no_wrap = "right", True

    def add_row(name: str, those: Sequence[PlannedRun], left: float) -> None:
        counts = [sum(run.state == state for run in those) for state in states]
        flop = sum(run.flop for run in those)
        table.add_row(
            name,
            str(len(those)),
            *(str(count or "") for count in counts),
            f"{flop / 1e15:.3g}",
            duration(left),
        )

    for cell, positions in cells.items():
        add_row(cell, [runs[p] for p in positions], sum(seconds[p] for p in positions))
    table.add_section()
    add_row(f"{len(cells)} cells", runs, makespan(seconds, at_once))
    console = wide_console()
    console.print(table)
    where = f"{at_once.runs} at once" if at_once.runs > 1 else "one after the other"
    console.print(f"{where}, {threads} CPU threads each; training and validation only.")
    for line in speeds.notes:
        console.print(line)


def makespan(seconds: Sequence[float], at_once: AtOnce) -> float:
    """Time until the last run ends if each takes the slot that is free first, in the order given.

    Where the last ones may share the time of what the others leave, no slot is ever idle.
    """
    free = [0.0] * at_once.runs
    for needed in seconds:
        first = min(range(at_once.runs), key=free.__getitem__)
        free[first] += needed
    if at_once.last < 2 * at_once.runs - 1:
        return max(free)
    return max([sum(free) / at_once.runs, *seconds])


def recorded_speeds(config: Config, device: str = "", threads: int = 0) -> list[float]:
    """Images/s of the latest sessions, five at most, of runs of this kind beside `config`'s.

    Args:
        device: the name of the device they were on; "": any.
        threads: of the CPU; 0: any number.
    """
    rates: list[tuple[str, float]] = []
    kind = _speed_values(flatten(config))
    for path in Path(config.output_root).glob(f"*/seed=*/{RUN}"):
        with contextlib.suppress(OSError):
            its_kind, sessions = _read_sessions(path.parent, path.lstat().st_mtime_ns)
            for session in sessions if its_kind == kind else ():
                enough = session.images_trained >= ENOUGH_STEPS * config.trainer.batch_size
                alike = session.device == (device or session.device)
                alike = alike and session.threads == (threads or session.threads)
                if enough and alike and session.images_per_second:
                    rates.append((session.start, session.images_per_second))
    return [rate for _, rate in sorted(rates)[-5:]]


@functools.lru_cache(maxsize=100_000)
def _read_sessions(directory: Path, changed: int) -> tuple[Any, list[Session]]:
    """A run's kind and its sessions, read once as long as its record has not `changed`."""
    record = record_or_reason(directory)
    return ((), []) if isinstance(record, str) else (_speed_values(record.config), record.sessions)


def _speed_values(flat: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """The values of a flattened configuration that decide the speed."""
    return tuple(sorted((k, str(v)) for k, v in flat.items() if k.startswith(SPEED_KEYS)))


class Speeds:
    """Training images/s on this machine: from the runs recorded here, or measured now."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self.notes: list[str] = []  # for people: the speeds and where they come from
        self._known: dict[Any, float] = {}

    def find(self, config: Config) -> float:
        """Images/s of the run of `config`, one at a time on its device."""
        kind = _speed_values(flatten(config))
        if kind not in self._known:
            detach = getattr(config.norm, "detach", "none")
            norm = config.norm.NAME + (f" detach={detach}" if detach != "none" else "")
            name = f"{config.model.NAME} width {config.model.width}, {norm}"
            if recorded := recorded_speeds(config, *self._device_and_threads(config)):
                speed = statistics.median(recorded)  # one may have met a busy machine
                source = f" in {len(recorded)} sessions here"
            else:
                print(f"measuring {name} …", file=sys.stderr, flush=True)
                speed, source = measure(config, self.threads), ", measured now"
            self.notes.append(f"{name}: {speed:,.0f} images/s{source}")
            self._known[kind] = speed
        return self._known[kind]

    def _device_and_threads(self, config: Config) -> tuple[str, int]:
        trainer = config.trainer
        if trainer.device == "cpu" or (trainer.device == "auto" and has_no_gpu()):
            return cpu_name(), trainer.threads or self.threads
        from resnet_cifar.compute.device import resolve

        compute = resolve(trainer, begun="fp32")  # so that no precision is measured
        return compute.name, compute.threads if compute.device.type == "cpu" else 0


def measure(config: Config, threads: int) -> float:
    """Images/s of training steps on random images, uncompiled; takes a second or two steps.

    On a CPU in the precision of the runs recorded here, or else in float32.
    """
    import torch

    from resnet_cifar.compute import device
    from resnet_cifar.compute.step import update

    trainer = dataclasses.replace(config.trainer, threads=config.trainer.threads or threads)
    compute = device.resolve(trainer, begun=known_precision(config, None) or "fp32")
    model = config.build_model()
    layout = device.place(model, compute)
    optimizer = config.optimizer.build(config.regularization.parameter_groups(model))
    optimizer_step = config.regularization.build_step(model, optimizer, compute.scaler())
    loss = config.regularization.loss()
    batch = config.trainer.batch_size
    x = torch.randn(batch, 3, 32, 32, device=compute.device).contiguous(memory_format=layout)
    y = torch.zeros(batch, dtype=torch.int64, device=compute.device)
    with device.settings(compute, config.trainer.deterministic):
        update(
            x, y, model, loss, optimizer_step, compute
        )  # buffers and kernels are chosen at first use
        compute.synchronize()
        start, steps = time.perf_counter(), 0
        while time.perf_counter() - start < MEASURED_SECONDS:
            update(x, y, model, loss, optimizer_step, compute)
            compute.synchronize()
            steps += 1
        rate = steps * batch / (time.perf_counter() - start)
    # The last batch of an epoch may be smaller, but costs about as many launches.
    return rate * config.data.training_images / (config.steps_per_epoch * batch)
