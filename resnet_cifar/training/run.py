"""One run, from configuration to record: `run`, then `train`, then `assemble`."""

import contextlib
import math
import os
import shlex
import traceback
from collections import Counter
from datetime import datetime
from importlib.metadata import version
from pathlib import Path

import torch

from resnet_cifar.compute import captured, device
from resnet_cifar.compute.cpu import cpu_name
from resnet_cifar.compute.epoch_sums import EpochSums
from resnet_cifar.config.saved import check_readable, to_yaml
from resnet_cifar.config.schema import Config
from resnet_cifar.data.augmentation import generator
from resnet_cifar.data.datasets import Split
from resnet_cifar.data.images import DeviceImages
from resnet_cifar.errors import Interrupted, UserError, describe, shorten
from resnet_cifar.files import Lock, LockHeld, refuse_link, write_atomically
from resnet_cifar.identity import flatten, items, run_directory
from resnet_cifar.paths import command_name
from resnet_cifar.probe.gradient_flow import empty_rotations
from resnet_cifar.record import checkpoint, provenance, schema
from resnet_cifar.record.layout import CONFIG, LOCK, RUN
from resnet_cifar.record.recorder import Recorder, hand_in, now
from resnet_cifar.text import printable
from resnet_cifar.training.engine import Engine
from resnet_cifar.training.interrupt import Interrupt
from resnet_cifar.training.live import Display
from resnet_cifar.training.notes import closing, opening
from resnet_cifar.training.state import State

BUSY = "is training it"
VOTES = 9  # runs that are enough to say which precision `auto` is
MOST_READ = 200  # records, at 2 ms each


def run(config: Config) -> float:
    """Train the run that `config` names, or what is left of it.

    Returns the objective: clean validation accuracy of the last epoch, 0 if diverged.

    Raises:
        UserError: it can't be run here; nothing has been written.
        Interrupted: a signal came; the same command goes on.
    """
    directory = run_directory(config)
    config.check_new(directory)
    # A job that SLURM has requeued goes on: it is its first start that began anew.
    restarted = os.environ.get("SLURM_RESTART_COUNT", "").strip(" 0").isdecimal()
    rerun = config.rerun and not restarted
    with Display(config.trainer.progress) as display:
        if not rerun and (record := schema.read_record(directory)) and record.finished:
            display.say(f"{directory}: {record.status} before, skipped{schema.result(record)}")
            if config.logger.lacks(record):
                config.logger.check()
                with Interrupt() as interrupt:
                    hand_in(directory, config.logger, display.say, interrupt.came)
                    interrupt.check()
            return schema.objective(record)
        # What this machine can't do comes out before anything is written.
        config.logger.check()
        device.find(config.trainer)
        # So does what its readers would refuse.
        check_readable(config)
        schema.check_readable(directory, begin_record(config))
        split = config.data.load()
        try:
            with Interrupt() as interrupt:
                lock = Lock(
                    directory / LOCK,
                    wait=config.when_busy == "wait",
                    on_wait=lambda holder: display.say(f"{directory}: {holder} {BUSY}, waiting"),
                    poll=interrupt.check,
                )
                if rerun and directory.exists():
                    refuse_link(directory)
                    with lock:
                        dated = f"{directory.name}.{datetime.now():%Y-%m-%dT%H-%M-%S}"
                        lock.move_directory(directory.with_name(dated))
                    display.say(f"set aside as {directory.with_name(dated)}")
                with lock:
                    return train(config, directory, split, display, interrupt)
        except LockHeld as busy:
            display.say(f"{directory}: {busy} {BUSY}, skipped")
            return schema.objective(schema.read_record(directory))
        except OSError as error:
            problem = f"can't be written ({describe(error)}); what was there is intact"
            raise UserError(f"{directory} {problem}") from error


def train(
    config: Config, directory: Path, split: Split, display: Display, interrupt: Interrupt
) -> float:
    """Assemble the run, whose lock is held, fit it, record how it ended."""
    before = schema.read_record(directory)
    if before and before.finished:
        display.say(f"{directory}: {before.status} meanwhile{schema.result(before)}")
        return schema.objective(before)
    compute = device.resolve(config.trainer, config.model.width, known_precision(config, before))
    display.log_to(directory / "train.log")
    with device.settings(compute, config.trainer.deterministic):
        engine = assemble(config, directory, compute, split, display, interrupt, before)
        state, recorder = engine.state, engine.recorder
        status, error = "failed", None
        try:
            how = f"# {command_name('runs')} command {printable(shlex.quote(str(directory)))}\n"
            how += "# prints the command that trains this configuration again.\n"
            write_atomically(directory / CONFIG, how + to_yaml(config))
            for line in opening(config, directory, compute, recorder.session, engine.uncaptured):
                display.say(line)
            status = engine.fit()
            for line in closing(directory, recorder.record, status):
                display.say(line)
        except BaseException as failure:
            saved, error = f"saved in {directory}", shorten(describe(failure))
            if not isinstance(failure, Interrupted):
                display.note(traceback.format_exc())
                saved = f"{error}; what the last checkpoint has is kept"
            if isinstance(failure, Interrupted | KeyboardInterrupt) or interrupt.came():
                status, error = "interrupted", None
                at = f"epoch {state.epoch + 1}, step {state.step}"
                same = "the same command" + " without rerun=true" * config.rerun
                display.say(f"interrupted in {at}: {saved}; {same} goes on")
            raise
        finally:
            # A full disk must not hide what went wrong first.
            ended = status in schema.FINAL
            with contextlib.nullcontext() if ended else contextlib.suppress(OSError):
                recorder.end(status, error)
    return schema.objective(recorder.record)


def known_precision(config: Config, record: schema.RunRecord | None) -> str | None:
    """The precision that `auto` already stands for on this CPU; None: it has to be measured.

    A run that was begun goes on in its own, which its `record` says; a new one takes that of the
    runs beside it, so that what is compared was computed alike: of the latest ones of its width,
    begun and finished alike, that had `auto`, this CPU and this version of torch. Where they
    differ, which a measurement near its threshold may, the majority decides, in doubt for float32.
    """
    if config.trainer.precision != "auto" or config.trainer.device not in ("auto", "cpu"):
        return None
    if begun := record.precision_on("cpu") if record else None:
        return begun
    dated = []
    for path in Path(config.output_root).glob(f"*/seed=*/{RUN}"):
        with contextlib.suppress(OSError):  # gone meanwhile
            dated.append((path.lstat().st_mtime_ns, path.parent))
    latest = (directory for _, directory in sorted(dated, reverse=True)[:MOST_READ])
    asked = {"model.width": config.model.width, "trainer.precision": "auto"}.items()
    votes: Counter[str] = Counter()
    for other in map(schema.record_or_reason, latest):
        if not isinstance(other, str) and asked <= other.config.items() and other.sessions:
            last = other.sessions[-1]
            where = (last.device_type, last.device, last.versions.get("torch"))
            if last.precision and where == ("cpu", cpu_name(), version("torch")):
                votes[last.precision] += 1
        if votes.total() == VOTES:
            break
    return max(("fp32", "bf16"), key=lambda precision: votes[precision]) if votes else None


def assemble(
    config: Config,
    directory: Path,
    compute: device.Compute,
    split: Split,
    display: Display,
    interrupt: Interrupt,
    before: schema.RunRecord | None = None,
) -> Engine:
    """Build the parts of a run, load its checkpoint, go on with its record as it was `before`.

    Raises UserError if its checkpoints or records can't be gone on from.
    """
    trainer, regularization = config.trainer, config.regularization

    # Network and norm: weights drawn from the seed alone, so that cells are paired by seed.
    model = draw_network(config)
    layout = device.place(model, compute)

    # Data: every image on the device as uint8; crops, flips and normalisation happen there.
    kept = (config.augmentation, compute.device, layout, len(config.data.CLASSES))
    train, val = (DeviceImages(images, config.data.NORMALISATION, *kept) for images in split)
    steps = math.ceil(len(train) / trainer.batch_size)

    # Optimizer: parameter groups with their weight decay. Clipping, averaging and loss scaling
    # surround its step, and do nothing where they are off.
    optimizer = config.optimizer.build(regularization.parameter_groups(model))
    optimizer_step = regularization.build_step(model, optimizer, compute.scaler())

    # Schedule: for each group, from the group's own rate, as a function of the update's number.
    rates = [group["lr"] for group in optimizer.param_groups]
    schedules = [config.scheduler.build(rate, trainer.epochs, steps) for rate in rates]

    # Forward pass, compiled where it pays, and loss: cross-entropy of labels or of their shares.
    uncaptured = captured.obstacle(trainer, compute, optimizer_step)
    forward, loss = device.compiled(model, compute, uncaptured is None), regularization.loss()

    # State: all that training changes, as the newest checkpoint left it.
    epoch_sums = EpochSums(steps, trainer.batch_size, compute.device)
    record = begin_record(config)
    record.device, record.parameters = compute.name, sum(p.numel() for p in model.parameters())
    state = State(model, optimizer_step, epoch_sums, empty_rotations(model), steps, record)
    saved, notes = checkpoint.load_last(directory, record, steps, state.restore)
    for line in notes:
        display.say(line)

    # Record: last, because it begins to write. Whatever fails before leaves no run behind.
    record.epochs_done, record.best = state.epoch, state.best
    session = schema.Session(start=now(), **provenance.session(compute))
    session.epoch, session.step = state.epoch, state.step
    hparams = {**dict(items(config)), "seed": config.seed}
    of_run = (directory, record, before, session, hparams, config.logger)
    recorder = Recorder(*of_run, saved and saved.get("digests"), display.say, interrupt.came)

    # Loop: `Engine.fit`.
    return Engine(
        options=trainer,
        seed=config.seed,
        state=state,
        forward=forward,
        loss=loss,
        schedules=schedules,
        steps=steps,
        train=train,
        val=val,
        probe=config.probe,
        compute=compute,
        recorder=recorder,
        display=display,
        interrupt=interrupt,
        uncaptured=uncaptured,
    )


def draw_network(config: Config) -> torch.nn.Module:
    """Build the network on the CPU, with its initial weights."""
    with torch.random.fork_rng(devices=[]):
        torch.random.set_rng_state(generator(config.seed, "initialisation").get_state())
        return config.build_model()


def begin_record(config: Config) -> schema.RunRecord:
    """Make the record of a run before its device and its network are known."""
    return schema.RunRecord(
        status="running",
        cell=run_directory(config).parent.name,
        seed=config.seed,
        epochs=config.trainer.epochs,
        config=flatten(config),
        device=config.trainer.device,
        multiply_accumulates=config.multiply_accumulates(),
    )
