"""Several runs at once in one process, each on a stream of its own; for `benchmarks.gpu`."""

from __future__ import annotations

import statistics
import subprocess
import tempfile
import time
import timeit
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch._dynamo  # takes seconds, and every optimizer imports it: here for all processes
from torch.profiler import profile

from resnet_cifar.compute import captured, device
from resnet_cifar.config.compose import compose
from resnet_cifar.data.datasets import Images, Split
from resnet_cifar.errors import ConfigError
from resnet_cifar.training.engine import Engine
from resnet_cifar.training.interrupt import Interrupt
from resnet_cifar.training.live import Display
from resnet_cifar.training.run import assemble

STEPS = 40  # full batches of an epoch: a tenth of a second where CIFAR-10's takes one
VALIDATION = 10_000  # images on a GPU, as CIFAR-10's
WARM_UP = 2  # epochs; the first compiles, chooses algorithms and captures


class StreamedRun:
    """An engine that is built and trains on `stream` (None: the current one).

    Every tensor is made and used on that one, so that the allocator never gives away what another
    stream still reads. The step is captured here, while no other run of the process is at work.
    """

    def __init__(self, stream: Any, build: Callable[[], Engine]) -> None:
        self.stream, self.epoch = stream, 0
        with torch.cuda.stream(stream):
            self.engine = build()
        self.warm_up = [self.train() for _ in range(WARM_UP)]

    def train(self) -> float:
        """Train an epoch; its seconds, the device's work included."""
        device_or_stream = self.stream or self.engine.compute
        with torch.cuda.stream(self.stream):
            start, self.epoch = time.perf_counter(), self.epoch + 1
            self.engine.train_epoch(self.epoch)
            self.engine.state.end_epoch()
            device_or_stream.synchronize()
            return time.perf_counter() - start

    def train_until(self, stop: Callable[[], bool]) -> list[float]:
        """Seconds of the epochs until `stop()`, but of the last: others may stop before it."""
        seconds = [self.train()]
        while not stop():
            seconds.append(self.train())
        return seconds[:-1] or seconds


def train_at_once(runs: Sequence[StreamedRun], stop: Callable[[], bool]) -> list[list[float]]:
    """Train all `runs` until `stop()`, a thread each; the seconds of their epochs, by run.

    A captured step is one launch, a tenth of a millisecond of Python beside milliseconds of the
    device: an interpreter has time for several runs. And while one waits for the sums of its epoch
    the others go on, as they would not in one thread for all.
    """
    if len(runs) == 1:  # in this thread, to which the graphs of torch.compile belong
        return [runs[0].train_until(stop)]
    with ThreadPoolExecutor(len(runs)) as threads:
        return list(threads.map(lambda run: run.train_until(stop), runs))


def parts(
    connection: Connection, place: str, overrides: Sequence[str], streams: int
) -> Iterator[dict[str, Any]]:
    """Measure in this process, whose runs get directories in `place`.

    Yields the first epochs of `streams` runs when all are ready; what they train until a time that
    is received then; validation and kernels of one; {}, the end. Of no runs the machine.
    """
    config = compose(list(overrides))
    compute = device.resolve(config.trainer, config.model.width)
    cuda = compute.device.type == "cuda"
    if not cuda and config.trainer.device == "auto":
        raise ConfigError("no CUDA device is here; --dry-run plays everything on the CPU")
    if not streams:
        ask = "nvidia-smi --query-gpu=driver_version --format=csv,noheader"
        driver = subprocess.getoutput(ask).partition("\n")[0] if cuda else None
        cudnn = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
        yield {"card": compute.name, "driver": driver, "cuda": torch.version.cuda, "cudnn": cudnn}
        return
    if not cuda and config.trainer.capture != "off":  # Python runs what a graph would
        captured.obstacle = lambda *of: None
    train, val = config.data.load()
    images = (STEPS if cuda else 4) * config.trainer.batch_size
    split = Split(_repeated(train, images), _repeated(val, VALIDATION if cuda else images))
    notes: list[str] = []

    def build() -> Engine:
        display, directory = Display("quiet"), Path(tempfile.mkdtemp(dir=place))
        display.say = lambda text, shown="": notes.append(text)  # type: ignore[method-assign]
        engine = assemble(config, directory, compute, split, display, Interrupt())
        notes.extend([f"not captured: {engine.uncaptured}"] if engine.uncaptured else [])
        return engine

    with device.settings(compute, deterministic=False):
        of: Any = torch.cuda.Stream if cuda and streams > 1 else lambda: None
        runs = [StreamedRun(of(), build) for _ in range(streams)]
        yield {"first_epoch_seconds": [run.warm_up[0] for run in runs], "notes": notes}
        end = connection.recv()  # by the monotonic clock, which all processes share
        seconds = train_at_once(runs, lambda: time.monotonic() > end)
        free, total = torch.cuda.mem_get_info() if cuda else (0, 0)  # of all on the card
        rates = [images / statistics.median(epochs) for epochs in seconds]
        yield {"of_each": rates, "epoch_seconds": seconds, "memory_bytes": [total - free]}
        validate = timeit.repeat(lambda: runs[0].engine.validate(1), number=1, repeat=7)
        rate = len(split.val.labels) / statistics.median(validate[2:])  # the first ones capture
        yield {"validation_images_per_second": rate, "validations": len(validate[2:])}
        with profile(acc_events=True) as profiled:
            runs[0].train()
        by = f"self_{'cuda' if cuda else 'cpu'}_time_total"
        yield {"table": profiled.key_averages().table(by, 60, max_name_column_width=100)}
    yield {}


def _repeated(images: Images, count: int) -> Images:
    """Repeat or cut to `count` images: drawing them would take longer than timing them."""
    parts = (images.pixels, images.labels, images.positions)
    return Images(*(np.resize(part, (count, *part.shape[1:])) for part in parts))
