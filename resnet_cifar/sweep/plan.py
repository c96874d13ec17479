"""The plan before a sweep: runs done and to do, their arithmetic, the time they take here."""

import contextlib
import dataclasses
import functools
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hydra_plugins.local_pool import AtOnce
from resnet_cifar.compute.cpu import cpu_name, has_no_gpu
from resnet_cifar.config.schema import Config
from resnet_cifar.identity import cell_name, flatten, run_directory
from resnet_cifar.model.options import training_flop
from resnet_cifar.record.layout import RUN
from resnet_cifar.record.schema import Session
from resnet_cifar.runs.find import Run
from resnet_cifar.text import LONG, duration, long_line, plural, print_table

# The states of runs, in the order of the table's columns.
STATES = ("done", "diverged", "running", "partial", "failed", "to do")
STATE_OF = {"completed": "done", "interrupted": "partial"}
MEASURED_SECONDS = 1.0  # of training steps, for a speed no earlier run here has recorded
# Seconds from a run's command to its first step, on a machine just started; what is compiled is in
# the compiler's cache (docs/speed.md).
START_UP = 20.0
SLOW = 1e10  # FLOP/s that two slow cores reach with a narrow network
ENOUGH_STEPS = 50  # of a session, for its speed to count
# The keys of a configuration that decide the speed; a group's name stands for all its options.
SPEED_KEYS = ("model", "norm", "trainer.batch_size", "trainer.precision", "trainer.deterministic")


class PlannedRun(NamedTuple):
    """A run of the plan."""

    config: Config
    state: str
    images: float  # that are left to train on; a validated one counts a third
    flop: float  # of the whole run: forward, backward and validation


def planned_run(config: Config) -> PlannedRun:
    """Read how far the run of `config` is."""
    record = None if config.rerun else Run(run_directory(config)).record
    state = STATE_OF.get(record.status, record.status) if record else "to do"
    epochs = config.trainer.epochs
    left = config.images(epochs - record.epochs_done if record else epochs)
    flop = training_flop(config.multiply_accumulates()) * config.images(epochs)
    return PlannedRun(config, state, 0.0 if state in ("done", "diverged") else left, flop)


def show_plan(
    configs: Sequence[Config], at_once: AtOnce, threads: int, always: bool = True
) -> None:
    """Print the plan of a sweep on so many CPU threads each; or only if it takes LONG on a CPU."""
    runs = [planned_run(config) for config in configs]
    # Measuring takes seconds, and memory for torch.
    if not always and (sum(run.flop for run in runs) < LONG * SLOW or not has_no_gpu()):
        return
    speeds: dict[Any, tuple[float, str]] = {}
    seconds = []
    cells: dict[str, list[int]] = {}
    for position, run in enumerate(runs):
        cells.setdefault(cell_name(run.config), []).append(position)
        kind = _speed_values(flatten(run.config))
        if run.images and kind not in speeds:
            speeds[kind] = find_speed(run.config, threads)
        seconds.append(run.images / speeds[kind][0] if run.images else 0.0)
    if (whole := makespan(seconds, at_once)) < LONG and not always:
        return
    states = [state for state in STATES if any(run.state == state for run in runs)]
    rows = []
    for name, positions in [*cells.items(), (plural(len(cells), "cell"), range(len(runs)))]:
        those = [runs[p] for p in positions]
        counts = [sum(run.state == state for run in those) for state in states]
        pflop = f"{sum(run.flop for run in those) / 1e15:.3g}"
        left = duration(sum(seconds[p] for p in positions))
        rows.append([name, str(len(those)), *(str(n or "") for n in counts), pflop, left])
    rows[-1][-1] = duration(whole)
    heads = ["cell", "runs", *states, "PFLOP", "left"]
    print_table(heads, rows, numbers=heads[1:], cut=True)
    where = f"{at_once.runs} at once" if at_once.runs > 1 else "one after the other"
    print(f"{where}, {plural(threads, 'CPU thread')} each; training and validation only.")
    for _, note in speeds.values():
        print(note)
    if whole > LONG:
        print(long_line("this sweep", whole, (way for c in configs for way in c.shorter)))


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

    On the device of this name, "" for any, with so many CPU threads, 0 for any number.
    """
    sessions: list[Session] = []
    kind, enough = _speed_values(flatten(config)), ENOUGH_STEPS * config.trainer.batch_size
    for path in Path(config.output_root).glob(f"*/seed=*/{RUN}"):
        with contextlib.suppress(OSError):
            its_kind, its_sessions = _read_sessions(path.parent, path.lstat().st_mtime_ns)
            sessions += its_sessions if its_kind == kind else ()
    rates = [
        (session.start, session.images_per_second)
        for session in sessions
        if session.images_per_second and session.images_trained >= enough
        if device in ("", session.device) and threads in (0, session.threads)
    ]
    return [rate for _, rate in sorted(rates)[-5:]]


@functools.lru_cache(maxsize=100_000)
def _read_sessions(directory: Path, changed: int) -> tuple[Any, list[Session]]:
    """A run's kind and its sessions, read once as long as its record has not `changed`."""
    record = Run(directory).record
    return (_speed_values(record.config), record.sessions) if record else ((), [])


def _speed_values(flat: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """The values of a flattened configuration that decide the speed."""
    return tuple(sorted((k, str(v)) for k, v in flat.items() if k.startswith(SPEED_KEYS)))


def find_speed(config: Config, threads: int) -> tuple[float, str]:
    """Find the training images/s of a run on this machine: from the runs here, or measured now.

    Returns the speed of one at a time, and a line for people: it and where it comes from.
    """
    trainer = config.trainer
    if trainer.device == "cpu" or (trainer.device == "auto" and has_no_gpu()):
        device, own = cpu_name(), trainer.threads or threads
    else:
        from resnet_cifar.compute.device import resolve

        compute = resolve(trainer, begun="fp32")  # so that no precision is measured
        device, own = compute.name, compute.threads if compute.device.type == "cpu" else 0
    detach = getattr(config.norm, "detach", "none")
    norm = config.norm.NAME + (f" detach={detach}" if detach != "none" else "")
    name = f"{config.model.NAME} width {config.model.width}, {norm}"
    if recorded := recorded_speeds(config, device, own):
        speed = statistics.median(recorded)  # one may have met a busy machine
        return speed, f"{name}: {speed:,.0f} images/s in {len(recorded)} sessions here"
    print(f"measuring {name} …", file=sys.stderr, flush=True)
    speed = measure(config, threads)
    return speed, f"{name}: {speed:,.0f} images/s, measured now"


def measure(config: Config, threads: int) -> float:
    """Images/s of training steps on random images, uncompiled, in a second or two steps."""
    import torch

    from resnet_cifar.compute import device
    from resnet_cifar.compute.step import update
    from resnet_cifar.training.run import known_precision

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
        # Buffers and kernels are chosen at first use.
        update(x, y, model, loss, optimizer_step, compute)
        compute.synchronize()
        start, steps = time.perf_counter(), 0
        while time.perf_counter() - start < MEASURED_SECONDS:
            update(x, y, model, loss, optimizer_step, compute)
            compute.synchronize()
            steps += 1
        rate = steps * batch / (time.perf_counter() - start)
    # The last batch of an epoch may be smaller, but costs about as many launches.
    return rate * config.data.training_images / (config.steps_per_epoch * batch)
