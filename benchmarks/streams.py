"""Several runs at once in one process, each on a stream of its own; `serve` has them timed."""

from __future__ import annotations

import contextlib
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch._dynamo  # which every optimizer imports, in seconds: here for all processes
from torch.profiler import ProfilerActivity, profile

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
    stream still reads. The step is captured here, in the thread that builds one run after the
    other: while a graph is captured, nothing else may ask CUDA for memory.
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
            device_or_stream.synchronize()
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

    Yields the first epochs of `streams` runs, when all are ready; their epochs between two messages
    that come then; validation and kernels of one; {}, the end. Of no runs the machine.
    """
    config = compose(list(overrides))
    compute = device.resolve(config.trainer, config.model.width)
    cuda = compute.device.type == "cuda"
    if not cuda and config.trainer.device == "auto":
        raise ConfigError("no CUDA device is here; --dry-run plays everything on the CPU")
    if not streams:
        cudnn = torch.backends.cudnn.version()
        yield {"card": compute.name, "cuda": torch.version.cuda, "cudnn": cudnn, "driver": driver()}
        return
    train, val = config.data.load()
    images = (STEPS if cuda else 4) * config.trainer.batch_size
    split = Split(_repeated(train, images), _repeated(val, VALIDATION if cuda else images))

    def build() -> Engine:
        directory = Path(tempfile.mkdtemp(dir=place))
        display = Display("quiet")
        display.say = lambda text, shown="": notes.append(text)  # type: ignore[method-assign]
        engine = assemble(config, directory, compute, split, display, Interrupt())
        if config.trainer.capture != "off":
            reason = captured.obstacle(config.trainer, compute, engine.state.optimizer_step)
            notes.extend([f"not captured: {reason}"] if reason else [])
            engine.uncaptured = engine.uncaptured if cuda else None  # Python runs the same body
        return engine

    notes: list[str] = []
    with device.settings(compute, deterministic=False):
        own = [torch.cuda.Stream() if cuda and streams > 1 else None for _ in range(streams)]
        runs = [StreamedRun(stream, build) for stream in own]
        yield {"first_epoch_seconds": [run.warm_up[0] for run in runs], "notes": notes}
        connection.recv()
        seconds = train_at_once(runs, connection.poll)
        connection.recv()
        free, total = torch.cuda.mem_get_info() if cuda else (0, 0)  # of all on the card
        yield {"images": images, "epoch_seconds": seconds, "memory_bytes": total - free}
        yield _validation(runs[0].engine)
        yield _kernels(runs[0], cuda)
    yield {}


def driver() -> str | None:
    """Ask for the version of NVIDIA's driver."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    with contextlib.suppress(OSError, subprocess.SubprocessError, IndexError):
        return subprocess.run(command, capture_output=True, text=True, timeout=5).stdout.split()[0]
    return None


def _validation(engine: Engine) -> dict[str, Any]:
    seconds = []
    for _ in range(7):
        start = time.perf_counter()
        engine.validate(1)  # its end reads from the device
        seconds.append(time.perf_counter() - start)
    rate = len(engine.val) / statistics.median(seconds[2:])  # the first two capture
    return {"validation_images_per_second": rate, "validations": len(seconds) - 2}


def _kernels(run: StreamedRun, cuda: bool) -> dict[str, Any]:
    """Profile an epoch: its longest kernels, or a CPU's operations, and the profiler's table."""
    with profile(
        activities=[*([ProfilerActivity.CUDA] if cuda else []), ProfilerActivity.CPU]
    ) as p:
        run.train()
    by, events = f"self_{'device' if cuda else 'cpu'}_time_total", p.key_averages()
    longest = sorted(((getattr(e, by), e.count, e.key[:120]) for e in events), reverse=True)[:15]
    kernels = [
        {
            "name": key,
            "microseconds_a_step": time / run.engine.steps,
            "calls_a_step": count / run.engine.steps,
        }
        for time, count, key in longest
    ]
    return {"kernels": kernels, "table": events.table(by, 60, max_name_column_width=100)}


def _repeated(images: Images, count: int) -> Images:
    """Repeat or cut to `count` images: drawing them would take longer than timing them."""
    parts = (images.pixels, images.labels, images.positions)
    return Images(*(np.resize(part, (count, *part.shape[1:])) for part in parts))
