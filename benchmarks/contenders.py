"""The contenders of the benchmark: the engine, its variants and other recipes, a process each.

A process of its own gives each its own peak memory and leaves the process-wide settings of one
(threads, arithmetic, the allocator) out of the others' way. All stay idle but the one measured.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import itertools
import multiprocessing
import os
import signal
import statistics
import sys
import time
import warnings
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from benchmarks import peers
from resnet_cifar.compute import device
from resnet_cifar.compute.device import Compute
from resnet_cifar.config.compose import compose
from resnet_cifar.config.schema import Config
from resnet_cifar.data.augmentation import TRAINING
from resnet_cifar.data.datasets import Images, Split
from resnet_cifar.data.images import DeviceImages, View
from resnet_cifar.errors import UserError, describe
from resnet_cifar.record.recorder import Recorder
from resnet_cifar.training.engine import Engine
from resnet_cifar.training.interrupt import Interrupt
from resnet_cifar.training.live import Display
from resnet_cifar.training.run import assemble

PREFETCH = 2  # batches a DataLoader's worker keeps ready, PyTorch's default
EPOCHS = 4  # the first warms up and the last writes predictions and pictures: neither counts


@dataclass(frozen=True)
class Contender:
    """A recipe and its settings, to be timed in a process of its own."""

    name: str
    overrides: tuple[str, ...]  # of the configuration
    compute: Compute
    recipe: str | None = None  # a key of peers.RECIPES; None: the engine
    workers: int = 0  # of its DataLoader; 0 for the engine: its images lie on the device


class Process:
    """A contender in a process that ends with this one, or with `close()`.

    Raises:
        UserError: it can't be built here, or its process died.
    """

    def __init__(self, contender: Contender) -> None:
        # Forked from a clean process that has imported torch and nothing more: quick, and CUDA
        # allows no fork of a process that has used it. Windows has no fork.
        context: Any = multiprocessing.get_context("forkserver" if hasattr(os, "fork") else "spawn")
        context.set_forkserver_preload([__name__])
        self.name = contender.name
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, contender))
        self._process.start()
        theirs.close()
        try:
            self.first_step_seconds = float(self._answer())
        except UserError:
            self.close()
            raise

    def measure(self, seconds: float) -> dict[str, float]:
        """Train for `seconds`: images_per_second, matmul_flops_per_second, peak_memory_bytes."""
        return self._call("measure", seconds)

    def epochs(self, seconds: float) -> dict[str, float]:
        """Time the parts of an epoch of about `seconds`; see `Session.epochs`."""
        return self._call("epochs", seconds)

    def close(self) -> None:
        """End the process and the DataLoader's with it."""
        self._connection.close()
        self._process.join()

    def _call(self, method: str, seconds: float) -> dict[str, float]:
        self._connection.send((method, seconds))
        return dict(self._answer())

    def _answer(self) -> Any:
        try:
            answer, error = self._connection.recv()
        except (EOFError, ConnectionError):
            self._process.join()
            code = self._process.exitcode
            raise UserError(f"the process of {self.name} died (exit code {code})") from None
        if error is not None:
            raise UserError(f"{self.name}: {error}")
        return answer


def _serve(connection: Connection, contender: Contender) -> None:
    """Run in the process: build, take a step, then answer calls until the connection closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the other side, and so this one
    # DataLoaders start their workers as in any program, not as this process was started.
    multiprocessing.set_start_method(None, force=True)
    compute = contender.compute
    torch.set_num_threads(compute.threads)
    ours = device.settings(compute, deterministic=False)
    quiet = warnings.catch_warnings(action="ignore")  # advice of libraries on workers and loggers
    try:
        with quiet if contender.recipe else ours, TemporaryDirectory() as folder:
            start = time.perf_counter()
            with contextlib.closing(Session(contender, Path(folder))) as session:
                next(session.steps)
                compute.synchronize()
                connection.send((time.perf_counter() - start, None))
                while True:
                    method, seconds = connection.recv()
                    connection.send((getattr(session, method)(seconds), None))
    except (EOFError, ConnectionError):
        pass
    except Exception as error:
        connection.send((None, describe(error)))


class Session:
    """The contender as built in its process: its stream of steps, and what is timed of it."""

    def __init__(self, contender: Contender, directory: Path) -> None:
        self.compute = contender.compute
        self.config = compose(list(contender.overrides))
        self.split = self.config.data.load()
        self.directory = directory
        self._warm_up = max(1, PREFETCH * contender.workers)
        self._recorders: list[Recorder] = []
        self._loader: Iterator[tuple[Tensor, Tensor]] | None = None
        if contender.recipe:
            build = peers.RECIPES[contender.recipe]
            recipe = build(self.config, self.split, self.compute, contender.workers)
            self.steps = recipe.steps(None)
            return
        if contender.workers:
            plain = peers.Plain(self.config, self.split, self.compute, contender.workers)
            self._loader = _forever(plain.training_batches())
        self.steps = self._engine_steps()

    def measure(self, seconds: float) -> dict[str, float]:
        """Train for `seconds`, after emptying what the DataLoader read ahead in idle time."""
        for _ in range(self._warm_up):
            next(self.steps)
        matmul = device.matmul_rate(self.compute)
        start, images = time.perf_counter(), 0
        while time.perf_counter() - start < seconds:
            images += next(self.steps)
        self.compute.synchronize()
        rate = images / (time.perf_counter() - start)
        return {
            "images_per_second": rate,
            "matmul_flops_per_second": matmul,
            "peak_memory_bytes": peak_memory(self.compute),
        }

    def epochs(self, seconds: float) -> dict[str, float]:
        """Run the engine's own fit() on about `seconds` of data an epoch, everything recorded.

        Returns:
            Medians of the epochs: images and seconds of the steps and of validation, seconds of
            recording (metrics.jsonl, TensorBoard, run.json) and of checkpoints (last.pt, best.pt);
            and the images/s of forward passes alone on a batch that lies ready.
        """
        batch = self.config.trainer.batch_size
        rate = self.measure(min(1.0, seconds))["images_per_second"]
        steps = max(2, round(rate * seconds / batch))
        train = _first(self.split.train, steps * batch)
        share = len(train.labels) / len(self.split.train.labels)
        val = _first(self.split.val, max(batch, round(share * len(self.split.val.labels))))
        trainer = dataclasses.replace(
            self.config.trainer,
            epochs=EPOCHS,
            checkpoint_epochs=1,
            checkpoint_seconds=1e9,
            augmented_val_every=EPOCHS,
        )
        config = dataclasses.replace(self.config, trainer=trainer)
        engine = self._assemble(config, Split(train, val), self.directory / "epochs")
        spent: dict[str, list[float]] = {}
        for owner, method in (
            (engine, "train_epoch"),
            (engine, "validate"),
            (engine, "finish_epoch"),
            (engine.recorder, "epoch"),
            (engine.recorder, "progress"),
        ):
            spent[method] = _watch(owner, method, self.compute)
        engine.fit()
        middle = {name: statistics.median(times[1:-1]) for name, times in spent.items()}
        recording = middle["epoch"] + middle["progress"]
        return {
            "train_images": len(train.labels),
            "val_images": len(val.labels),
            "steps_seconds": middle["train_epoch"],
            "validation_seconds": middle["validate"],
            "recording_seconds": recording,
            "checkpoint_seconds": middle["finish_epoch"] - recording,
            "forward_images_per_second": self._forward_rate(engine, min(1.0, seconds)),
        }

    def close(self) -> None:
        """Close the records and end the DataLoader's processes."""
        self.steps.close()
        self._loader = None
        for recorder in self._recorders:
            recorder.end("completed")

    def _assemble(self, config: Config, split: Split, directory: Path) -> Engine:
        directory.mkdir()
        display = Display("quiet")
        engine = assemble(config, directory, self.compute, split, display, Interrupt())
        self._recorders.append(engine.recorder)
        return engine

    def _engine_steps(self) -> Generator[int, None, None]:
        engine = self._assemble(self.config, self.split, self.directory / "steps")
        if self._loader:
            engine.train = LoadedImages(engine.train, self._loader)
        size, count = engine.options.batch_size, len(engine.train)
        for epoch in itertools.count(1):
            draws = engine.train.augmentation.draws(engine.seed, TRAINING, epoch, count)
            view = engine.train.view(draws)
            engine.state.model.train()
            order = list(range(engine.steps))
            if self.compute.compile:  # the smaller shape, too, before anything is timed
                order.insert(1, order.pop())
            for step in order:
                engine.step(view, step, step)
                yield min(size, count - step * size)

    def _forward_rate(self, engine: Engine, seconds: float) -> float:
        size = min(engine.options.eval_batch_size, len(engine.val))
        view = engine.val.view(engine.val.augmentation.clean(len(engine.val)))
        x, _ = engine.val.batch(view, slice(size))
        model = engine.state.model.eval()
        with torch.inference_mode(), self.compute.autocast():
            model(x)
            self.compute.synchronize()
            start, passes = time.perf_counter(), 0
            while time.perf_counter() - start < seconds:
                model(x)
                passes += 1
            self.compute.synchronize()
        return passes * size / (time.perf_counter() - start)


class LoadedImages(DeviceImages):
    """Images from a DataLoader in place of the device, to switch off "data on the device".

    Order and augmentation are then the DataLoader's; the engine's draws are not used.
    """

    def __init__(self, images: DeviceImages, batches: Iterator[tuple[Tensor, Tensor]]) -> None:
        vars(self).update(vars(images))
        self.batches = batches

    def batch(self, view: View, at: slice | Tensor) -> tuple[Tensor, Tensor]:
        """Send the DataLoader's next batch to the device."""
        x, y = next(self.batches)
        x = x.to(self.device, non_blocking=True, memory_format=self.memory_format)
        return x, y.to(self.device, non_blocking=True)


def peak_memory(compute: Compute) -> int:
    """Bytes: of tensors on a CUDA device, else of this process (not of its DataLoader's)."""
    if compute.device.type == "cuda":
        return torch.cuda.max_memory_allocated(compute.device)
    usage: Any = importlib.import_module("resource") if hasattr(os, "fork") else None
    peak = usage.getrusage(usage.RUSAGE_SELF).ru_maxrss if usage else 0  # unknown on Windows
    return int(peak * (1 if sys.platform == "darwin" else 1024))


def _forever(loader: DataLoader[tuple[Tensor, int]]) -> Iterator[tuple[Tensor, Tensor]]:
    while True:
        yield from loader


def _first(images: Images, count: int) -> Images:
    return Images(images.pixels[:count], images.labels[:count], images.positions[:count])


def _watch(owner: object, method: str, compute: Compute) -> list[float]:
    """Time every call of `owner.method` from now on, in seconds, the device's work included."""
    seconds: list[float] = []
    original = getattr(owner, method)

    def timed(*arguments: Any) -> Any:
        start = time.perf_counter()
        result = original(*arguments)
        compute.synchronize()
        seconds.append(time.perf_counter() - start)
        return result

    setattr(owner, method, timed)
    return seconds
