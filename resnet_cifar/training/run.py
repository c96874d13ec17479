"""One run, from configuration to record."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import traceback
from datetime import datetime
from pathlib import Path

import torch

from resnet_cifar.compute import device
from resnet_cifar.compute.epoch_sums import Tally
from resnet_cifar.config.schema import Config
from resnet_cifar.data.augmentation import generator
from resnet_cifar.data.datasets import Cifar, Dataset, Split, steps_per_epoch
from resnet_cifar.data.images import DeviceImages
from resnet_cifar.errors import Interrupted, UserError, describe
from resnet_cifar.files import Busy, Lock, refuse_link, write_atomically
from resnet_cifar.identity import cell_name, flatten, items, run_directory
from resnet_cifar.probe import gradient_flow
from resnet_cifar.probe.gradient_flow import GradientFlow
from resnet_cifar.record import checkpoint, provenance
from resnet_cifar.record.layout import LOCK
from resnet_cifar.record.recorder import Recorder, now
from resnet_cifar.record.schema import RunRecord, Session, finished, objective, read_record, result
from resnet_cifar.text import duration
from resnet_cifar.training.engine import Engine
from resnet_cifar.training.interrupt import Interrupt
from resnet_cifar.training.live import Display
from resnet_cifar.training.notes import (
    LONG,
    best_line,
    config_file,
    expected_seconds,
    opening,
    shorter_run,
)
from resnet_cifar.training.precision import known_precision
from resnet_cifar.training.state import State


def run(config: Config) -> float:
    """Train the run that `config` names, or what is left of it.

    Returns:
        The objective: clean validation accuracy of the last epoch, 0 if diverged.

    Raises:
        UserError: it can't be run here; nothing has been written.
        Interrupted: a signal came; the same command goes on.
    """
    directory = run_directory(config)
    # A job that SLURM has requeued goes on: it is its first start that began anew.
    rerun = config.rerun and not int(os.environ.get("SLURM_RESTART_COUNT", "0"))
    with Display(config.trainer.progress) as display:
        if not rerun and (record := finished(directory)):
            display.say(f"{directory}: {record.status} before, skipped{result(record)}")
            return objective(record)
        if not directory.exists() and (note := shorter_run(directory, config.trainer.epochs)):
            display.say(note)
        # What this machine can't do comes out before anything is written.
        config.logger.check()
        device.find(config.trainer)
        split = _split(config.data)
        try:
            with Interrupt() as interrupt:
                if rerun and directory.exists():
                    with _lock(config, directory, display, interrupt):
                        display.say(f"set aside as {set_aside(directory)}")
                with _lock(config, directory, display, interrupt):
                    if record := finished(directory):  # by the process that had the lock
                        display.say(f"{directory}: {record.status} meanwhile{result(record)}")
                        return objective(record)
                    compute = _compute(config, directory)
                    with device.settings(compute, config.trainer.deterministic):
                        return train(config, directory, compute, split, display, interrupt)
        except Busy as busy:
            display.say(f"{directory}: {busy.holder} is training it, skipped")
            return objective(read_record(directory))
        except OSError as error:
            raise UserError(
                f"{directory} can't be written ({describe(error)}); what was there is intact"
            ) from error


def _compute(config: Config, directory: Path) -> device.Compute:
    """Resolve the device; a run that was begun goes on in the precision it was begun in."""
    precision = known_precision(config, read_record(directory))
    return device.resolve(config.trainer, config.model.width, precision)


_prepared: list[tuple[Dataset, Split]] = []  # in what a sweep's processes are forked from


def prepare(config: Config) -> None:
    """Load what the runs of a sweep share, before they are forked: its first run's images.

    What fails, and what would have to be downloaded, is left to the runs.
    """
    data = config.data
    if isinstance(data, Cifar):
        data = dataclasses.replace(data, download=False)
    with contextlib.suppress(Exception):
        _prepared.append((config.data, data.load()))


def _split(data: Dataset) -> Split:
    return next((split for known, split in _prepared if known == data), None) or data.load()


def train(
    config: Config,
    directory: Path,
    compute: device.Compute,
    split: Split,
    display: Display,
    interrupt: Interrupt,
) -> float:
    """Assemble the run, fit, record."""
    display.log_to(directory / "train.log")
    engine, notes = assemble(config, directory, compute, split, display, interrupt)
    state, recorder = engine.state, engine.recorder
    error: str | None = None
    status = "failed"
    try:
        write_atomically(directory / "config.yaml", config_file(config, directory))
        for line in (*notes, *opening(config, directory, compute, state, engine.steps)):
            display.say(line)
        expected = expected_seconds(config, state.epoch, recorder.session.matmul_flops_per_second)
        if expected > LONG:
            display.say(
                f"this will take about {duration(expected)} on {compute.name}, "
                f"{compute.threads} threads; it can be interrupted and resumed at any time. "
                "Shorter: model.width=16, trainer.epochs=15, data=synthetic"
            )
        status = engine.fit()
        display.say(f"{status}: {directory}{result(recorder.record)}")
        if state.best is not None and status == "completed":
            display.say(best_line(state.best, config.trainer.epochs))
    except Interrupted:
        status = "interrupted"
        display.say(
            f"interrupted in epoch {state.epoch + 1}, step {state.step}: "
            f"saved in {directory}; the same command goes on"
        )
        raise
    except BaseException as failure:
        error = describe(failure)
        display.note(traceback.format_exc())
        raise
    finally:
        # A full disk must not hide what went wrong first.
        with contextlib.suppress(OSError) if error else contextlib.nullcontext():
            recorder.end(status, error)
    return objective(recorder.record)


def assemble(
    config: Config,
    directory: Path,
    compute: device.Compute,
    split: Split,
    display: Display,
    interrupt: Interrupt,
) -> tuple[Engine, list[str]]:
    """The run's parts, its checkpoint loaded, its record open; and what loading had to say."""
    trainer, cell = config.trainer, cell_name(config)
    with torch.random.fork_rng(devices=[]):
        torch.random.set_rng_state(generator(config.seed, "initialisation").get_state())
        model = config.build_model()
    layout = device.place(model, compute)
    train, val = (
        DeviceImages(
            part,
            config.data.NORMALISATION,
            config.augmentation,
            compute.device,
            layout,
            len(config.data.CLASSES),
        )
        for part in split
    )
    groups = config.regularization.parameter_groups(model)
    optimizer = config.optimizer.build(groups, fused=compute.fused)
    descent = config.regularization.descent(model, optimizer, compute.scaler())
    steps = steps_per_epoch(len(train), trainer.batch_size)
    schedules = [
        config.scheduler.build(group["lr"], trainer.epochs, steps)
        for group in optimizer.param_groups
    ]
    tally = Tally(steps, trainer.batch_size, compute.device)
    rotations = gradient_flow.rotations(model)
    state = State(model, descent, tally, rotations, labels={"cell": cell, "seed": config.seed})
    owner = checkpoint.Owner(cell, config.seed, trainer.epochs, steps)
    saved, notes = checkpoint.load_last(directory, owner)
    if saved is not None:
        state.restore(saved)
    forward, loss = device.compiled(model, compute), config.regularization.loss()
    probe = GradientFlow(
        options=config.probe,
        epochs=trainer.epochs,
        steps=steps,
        seed=config.seed,
        loss=loss,
        schedule=schedules[0],
        train=train,
        val=val,
        batch_size=trainer.batch_size,
        compute=compute,
        model=model,
        account=rotations,
    )
    # Last, because it begins to write: whatever fails before leaves no run behind.
    recorder = Recorder(
        directory,
        RunRecord(
            status="running",
            cell=cell,
            seed=config.seed,
            epochs=trainer.epochs,
            config=flatten(config),
            device=compute.name,
            parameters=sum(p.numel() for p in model.parameters()),
            multiply_accumulates=config.multiply_accumulates(),
            epochs_done=state.epoch,
        ),
        Session(
            start=now(),
            epoch=state.epoch,
            step=state.step,
            matmul_flops_per_second=round(device.matmul_rate(compute)),
            **provenance.session(compute),
        ),
        hparams={**dict(items(config)), "seed": config.seed},
        logger=config.logger,
        digests=saved.get("digests") if saved else None,
        say=display.say,
    )
    engine = Engine(
        options=trainer,
        seed=config.seed,
        state=state,
        forward=forward,
        loss=loss,
        schedules=schedules,
        train=train,
        val=val,
        classes=config.data.CLASSES,
        probe=probe,
        compute=compute,
        directory=directory,
        recorder=recorder,
        display=display,
        interrupt=interrupt,
    )
    return engine, notes


def set_aside(directory: Path) -> Path:
    """Rename a run directory to a dated name beside it, which is returned."""
    stamp = datetime.now().strftime("%Y-%m-%dT%H-%M-%S")
    refuse_link(directory)
    aside = directory.with_name(f"{directory.name}.{stamp}")
    count = 1
    while aside.exists():
        count += 1
        aside = directory.with_name(f"{directory.name}.{stamp}-{count}")
    directory.rename(aside)
    return aside


def _lock(config: Config, directory: Path, display: Display, interrupt: Interrupt) -> Lock:
    def give_up() -> None:
        if interrupt.signal is not None:
            raise Interrupted(interrupt.signal)

    return Lock(
        directory / LOCK,
        wait=config.when_busy == "wait",
        on_wait=lambda holder: display.say(f"{directory}: {holder} is training it, waiting"),
        poll=give_up,
    )
