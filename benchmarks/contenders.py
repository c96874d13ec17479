"""The contenders of the benchmark: the engine and other recipes, a process each.

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
from collections.abc import Generator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from benchmarks import peers
from resnet_cifar.compute import device
from resnet_cifar.compute.device import Compute
from resnet_cifar.config.compose import compose
from resnet_cifar.config.schema import Config
from resnet_cifar.data.augmentation import TRAINING
from resnet_cifar.data.datasets import Images, Split
from resnet_cifar.errors import UserError, describe
from resnet_cifar.training.engine import Engine
from resnet_cifar.training.interrupt import Interrupt
from resnet_cifar.training.live import Display
from resnet_cifar.training.run import assemble

PREFETCH = 2  # batches a DataLoader's worker keeps ready, PyTorch's default
EPOCHS = 4  # the first warms up and the last writes predictions and pictures: neither counts
PARTS = {"steps": "train_epoch", "validation": "validate", "records and checkpoint": "finish_epoch"}


@dataclass(frozen=True)
class Contender:
    """A recipe and its settings, to be timed in a process of its own."""

    name: str
    overrides: tuple[str, ...]  # of the configuration
    compute: Compute
    recipe: str | None = None  # a key of peers.RECIPES; None: the engine
    workers: int = 0  # of its DataLoader


class Process:
    """A contender in a process that ends with this one, or with `close()`.

    Raises UserError, here and at every call: it can't be built here, or its process died.
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
        self.first_step_seconds = float(self._answer())

    def call(self, method: str, seconds: float) -> Any:
        """Call a method of its Session."""
        self._connection.send((method, seconds))
        return self._answer()

    def close(self) -> None:
        """End the process and the DataLoader's with it."""
        self._connection.close()
        self._process.join()

    def _answer(self) -> Any:
        try:
            answer, error = self._connection.recv()
        except (EOFError, ConnectionError):
            self._process.join()
            answer, error = None, f"its process died (exit code {self._process.exitcode})"
        if error is not None:
            self.close()
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
            session = Session(contender, Path(folder))
            with contextlib.closing(session.steps):
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
        self.compute, self.directory = contender.compute, directory
        self.config = compose(list(contender.overrides))
        self.split = self.config.data.load()
        self._warm_up = max(1, PREFETCH * contender.workers)
        if contender.recipe is None:
            self.steps = self._engine_steps()
        else:
            of_recipe = (self.config, self.split, self.compute, contender.workers)
            self.steps = peers.RECIPES[contender.recipe](*of_recipe).steps()

    def measure(self, seconds: float) -> dict[str, float]:
        """Train for `seconds`, after emptying what the DataLoader read ahead in idle time."""
        for _ in range(self._warm_up):
            next(self.steps)
        matmul = device.matmul_rate(self.compute)
        start, images = time.perf_counter(), 0
        while time.perf_counter() - start < seconds:
            images += next(self.steps)
        self.compute.synchronize()
        return {
            "images_per_second": images / (time.perf_counter() - start),
            "matmul_flops_per_second": matmul,
            "peak_memory_bytes": peak_memory(self.compute),
        }

    def epochs(self, seconds: float) -> dict[str, Any]:
        """Run the engine's own fit() on about `seconds` of data an epoch, everything recorded.

        Returns the images of an epoch's training and validation, and the median seconds of its
        parts: steps, validation, and what follows before the next (record and checkpoint).
        """
        batch = self.config.trainer.batch_size
        rate = self.measure(min(1.0, seconds))["images_per_second"]
        train = _first(self.split.train, batch * max(2, round(rate * seconds / batch)))
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
        with self._assemble(config, Split(train, val), "epochs") as engine:
            spent = {part: _watch(engine, name, self.compute) for part, name in PARTS.items()}
            engine.fit()
        return {
            "train_images": len(train.labels),
            "val_images": len(val.labels),
            "seconds": {part: statistics.median(times[1:-1]) for part, times in spent.items()},
        }

    @contextlib.contextmanager
    def _assemble(self, config: Config, split: Split, name: str) -> Generator[Engine, None, None]:
        directory = self.directory / name
        directory.mkdir()
        engine = assemble(config, directory, self.compute, split, Display("quiet"), Interrupt())
        try:
            yield engine
        finally:
            engine.recorder.end("completed")

    def _engine_steps(self) -> Generator[int, None, None]:
        with self._assemble(self.config, self.split, "steps") as engine:
            size, count = engine.options.batch_size, len(engine.train)
            for epoch in itertools.count(1):
                view = engine.train.draw_view(engine.seed, TRAINING, epoch)
                engine.model.train()
                for step in range(engine.steps):
                    engine.step(view, step, step)
                    yield min(size, count - step * size)


def peak_memory(compute: Compute) -> int:
    """Bytes: of tensors on a CUDA device, else of this process (not of its DataLoader's)."""
    if compute.device.type == "cuda":
        return torch.cuda.max_memory_allocated(compute.device)
    usage: Any = importlib.import_module("resource") if hasattr(os, "fork") else None
    peak = usage.getrusage(usage.RUSAGE_SELF).ru_maxrss if usage else 0  # unknown on Windows
    return int(peak * (1 if sys.platform == "darwin" else 1024))


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
