"""The device of a run: found, resolved, set up; and how fast it multiplies."""

import contextlib
import ctypes
import functools
import importlib.util
import math
import os
import shutil
import time
import timeit
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler

from resnet_cifar.compute.cpu import available_cpus, cpu_name, has_bf16, omp_num_threads
from resnet_cifar.compute.options import Trainer
from resnet_cifar.errors import ConfigError
from resnet_cifar.model.resnet import conv3x3

AMPERE, VOLTA = (8, 0), (7, 0)  # first with units for bfloat16 and TF32; for float16
AUTOCAST_DTYPE = {"bf16": torch.bfloat16, "fp16": torch.float16}
MIN_SPEEDUP = 1.15  # times as fast is worth the digits that bfloat16 has not
MEASURED_SECONDS = 0.5  # of CPU time, about
# Of passes in one precision, about; then the other's turn. Windows' clock goes on by 15.6 ms.
TURN_SECONDS = 0.3 if os.name == "nt" else 0.025


@dataclass(frozen=True)
class Compute:
    """A resolved device: nothing in it is `auto`."""

    device: torch.device
    name: str
    precision: str  # fp32, tf32, bf16 or fp16
    threads: int
    compile: bool
    cudnn_benchmark: bool = True  # unless deterministic
    # CPU seconds of the same work by precision, where `auto` was decided by them.
    precision_seconds: Mapping[str, float] = field(default_factory=dict)

    def autocast(self) -> torch.autocast:
        """16 bits where that is the precision, otherwise a context that does nothing."""
        half = AUTOCAST_DTYPE.get(self.precision)
        return torch.autocast(self.device.type, half or torch.bfloat16, enabled=half is not None)

    def scaler(self) -> GradScaler:
        """A scaler of the loss, so that gradients fit float16; elsewhere one that does nothing."""
        return GradScaler(self.device.type, enabled=self.precision == "fp16")

    def synchronize(self) -> None:
        """Wait for the device's queue."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        elif self.device.type == "mps":
            torch.mps.synchronize()


def find(trainer: Trainer) -> torch.device:
    """The device asked for. Raises ConfigError: it, or the precision asked for, is not here."""
    wanted = trainer.device
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if wanted == "auto":
        wanted = "cuda" if count else "cpu"
    device = torch.device(wanted)
    if device.type == "cuda" and (device.index or 0) >= count:
        seen = f"{count} CUDA device(s)" if count else "no CUDA device"
        raise ConfigError(f"trainer.device={trainer.device} is not here: PyTorch sees {seen}")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ConfigError("trainer.device=mps is not here: PyTorch sees no Apple GPU")
    if trainer.precision == "tf32" and _cuda_capability(device) < AMPERE:
        rule = "a CUDA device from Ampere on: use auto, fp32, bf16 or fp16"
        raise ConfigError(f"trainer.precision=tf32 needs {rule}")
    return device


def resolve(trainer: Trainer, width: int = 64, begun: str | None = None) -> Compute:
    """Turn `auto` into what this machine has. Raises ConfigError as `find`.

    On a CPU the precision that is faster at the network's `width` is measured, unless one has
    `begun` to be used there, by the run itself or by others beside it.
    """
    device = find(trainer)
    threads = trainer.threads or min(omp_num_threads() or torch.get_num_threads(), available_cpus())
    precision, seconds = trainer.precision, {}
    if precision == "auto" and device.type == "cpu":
        seconds = {} if begun else precision_seconds(width, cpu_layout(width, threads=1))
        precision = begun or faster(seconds)
    elif precision == "auto":  # an Apple GPU could do with less, but nobody has measured it
        capability = _cuda_capability(device)
        precision = "bf16" if capability >= AMPERE else "fp16" if capability >= VOLTA else "fp32"
    cuda = device.type == "cuda"
    name = "Apple GPU" if device.type == "mps" else cpu_name()
    name = torch.cuda.get_device_name(device) if cuda else name
    use = cuda and _can_compile() if trainer.compile == "auto" else trainer.compile == "true"
    return Compute(device, name, precision, threads, use, trainer.cudnn_benchmark, seconds)


def _cuda_capability(device: torch.device) -> tuple[int, int]:
    return torch.cuda.get_device_capability(device) if device.type == "cuda" else (0, 0)


def _can_compile() -> bool:
    """True if torch.compile finds what it needs on CUDA: Triton, and for that a C compiler."""
    compilers = (os.environ.get("CC") or "gcc", "clang")
    return importlib.util.find_spec("triton") is not None and any(map(shutil.which, compilers))


def faster(seconds: Mapping[str, float]) -> str:
    """Choose bf16 where it is clearly faster, else fp32. A coarse clock's zero proves nothing.

    The CPU's flags don't tell: AVX512-BF16 is twice as fast as float32 on one maker's chips and
    half as fast on another's (docs/speed.md).
    """
    fp32, bf16 = seconds.get("fp32", 0.0), seconds.get("bf16", 0.0)
    return "bf16" if bf16 > 0 and fp32 >= MIN_SPEEDUP * bf16 else "fp32"


@functools.cache
def precision_seconds(width: int, layout: torch.memory_format) -> dict[str, float]:
    """CPU seconds of convolutions of such a network, forward and backward, by precision.

    Empty where the CPU has no instructions for bfloat16. In one thread and by its own CPU time:
    others on the machine then hardly matter. `layout` is that of a run of one thread, too, so that
    runs agree whatever their threads.
    """
    if not has_bf16():
        return {}
    spent = {"fp32": 0.0, "bf16": 0.0}
    with contextlib.ExitStack() as undo:
        undo.callback(torch.set_num_threads, torch.get_num_threads())
        undo.enter_context(torch.random.fork_rng(devices=[]))
        torch.set_num_threads(1)
        run_pass = convolutions(width, layout)
        work = {precision: functools.partial(run_pass, precision) for precision in spent}
        for call in work.values():
            call()  # kernels are chosen at first use
        one_pass = max(timeit.timeit(work["fp32"], timer=time.perf_counter, number=1), 1e-4)
        passes = math.ceil(TURN_SECONDS / one_pass)
        turns = max(3, math.ceil(MEASURED_SECONDS / (2 * passes * one_pass)))
        for _ in range(turns):
            for precision, call in work.items():
                spent[precision] += timeit.timeit(call, timer=time.thread_time, number=passes)
    return {precision: round(seconds / passes / turns, 6) for precision, seconds in spent.items()}


def convolutions(width: int, layout: torch.memory_format) -> Callable[[str], None]:
    """A layer of each of a network's stages, forward and backward, in the precision it is given."""
    images = min(64, max(8, 512 // width))
    layers = []
    for stage in range(4):
        channels, size = width * 2**stage, 32 >> stage
        layer = nn.Sequential(conv3x3(channels, channels), nn.BatchNorm2d(channels))
        x = torch.ones(images, channels, size, size).contiguous(memory_format=layout)
        layers.append((layer.to(memory_format=layout), x.requires_grad_()))

    def run_pass(precision: str) -> None:
        for layer, x in layers:
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16"):
                y = torch.relu(layer(x))
            torch.autograd.backward(y, torch.ones_like(y))

    return run_pass


def compiled(
    model: nn.Module, compute: Compute, captured: bool = False
) -> Callable[[Tensor], Tensor]:
    """The model's forward pass, as it is or compiled for batches of one size.

    On CUDA with graphs of its own, unless the whole step is `captured` in one.
    """
    if not compute.compile:
        return model
    graphs = compute.device.type == "cuda" and not captured
    mode = "reduce-overhead" if graphs else "default"
    return torch.compile(model, mode=mode, dynamic=False)


def memory_format(compute: Compute, model: nn.Module) -> torch.memory_format:
    """channels_last, the fastest, but for narrow networks on a CPU and for an Apple GPU."""
    if compute.device.type == "mps":
        return torch.contiguous_format
    if compute.device.type != "cpu":
        return torch.channels_last
    channels = (m.out_channels for m in model.modules() if isinstance(m, nn.Conv2d))
    return cpu_layout(min(channels, default=64), compute.threads)


def cpu_layout(channels: int, threads: int) -> torch.memory_format:
    """The layout on a CPU of a network whose narrowest layers have so many `channels`.

    channels_last from 8 on: below, oneDNN's backward pass corrupts the heap (seen with torch 2.14
    on AVX2: "double free or corruption" within a few steps). With several threads from 16 on:
    below, a channel's sums of two threads lie in one line of the cache, and the contiguous layout
    trains 1.35 times as fast (experiments/benchmark.md).
    """
    enough = channels >= (8 if threads == 1 else 16)
    return torch.channels_last if enough else torch.contiguous_format


def place(model: nn.Module, compute: Compute) -> torch.memory_format:
    """Move `model` to the run's device; return its layout, which its images should have, too."""
    layout = memory_format(compute, model)
    model.to(compute.device).to(memory_format=layout)
    return layout


def keep_freed_memory() -> None:
    """Have the C library reuse freed memory in place of handing it back to the system.

    An activation of 33 MB is otherwise mapped, zeroed page by page and unmapped again at every
    step: 12 to 16 % of a CPU step, for up to 14 % more memory at the peak (docs/speed.md). glibc
    only. Lasts as long as the process.
    """
    trim_threshold, mmap_max = -1, -4  # M_TRIM_THRESHOLD, M_MMAP_MAX of malloc.h
    with contextlib.suppress(OSError, AttributeError, TypeError):  # TypeError: on Windows
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(mmap_max, 0)
        mallopt(trim_threshold, -1)


@contextlib.contextmanager
def settings(compute: Compute, deterministic: bool) -> Iterator[None]:
    """Set PyTorch's process-wide switches for one run and put them back afterwards."""
    cudnn, was_deterministic = torch.backends.cudnn, torch.are_deterministic_algorithms_enabled()
    with contextlib.ExitStack() as undo:
        undo.callback(torch.set_num_threads, torch.get_num_threads())
        undo.callback(setattr, cudnn, "benchmark", cudnn.benchmark)
        undo.callback(_be_deterministic, was_deterministic, compute.compile)
        torch.set_num_threads(compute.threads)
        _be_deterministic(deterministic, compute.compile)
        if compute.device.type == "cuda":
            cudnn.benchmark = compute.cudnn_benchmark and not deterministic
            # cuBLAS reads this at its first call; without it deterministic mode refuses to run.
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
            # The current one, which memory counts, kernels and graphs go by.
            undo.enter_context(torch.cuda.device(compute.device))
            undo.enter_context(tf32(compute.precision != "fp32"))
        else:
            keep_freed_memory()
        yield


@contextlib.contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Compute CUDA's float32 matrix products and convolutions in TF32, or with all their digits.

    By the older of PyTorch's two interfaces, which keeps the newer one's settings in step. The
    newer (`fp32_precision`) leaves the older's behind, and reading those then raises RuntimeError:
    versions of the compiler do (pytorch/pytorch#166387).
    """
    cudnn = torch.backends.cudnn
    with contextlib.ExitStack() as undo:
        undo.callback(torch.set_float32_matmul_precision, torch.get_float32_matmul_precision())
        undo.callback(setattr, cudnn, "allow_tf32", cudnn.allow_tf32)
        torch.set_float32_matmul_precision("high" if allowed else "highest")
        cudnn.allow_tf32 = allowed
        yield


def _be_deterministic(wanted: bool, compiled: bool) -> None:
    if compiled:
        torch.use_deterministic_algorithms(wanted)
    else:  # the same without telling the compiler, whose import takes more than a second
        torch.set_deterministic_debug_mode("error" if wanted else "default")


def matmul_rate(compute: Compute) -> float:
    """FLOP/s of a square matrix product in the run's precision: what the device can do.

    Takes about 0.2 s. On the CPU a product of 1024 × 1024, on a GPU of 8192 × 8192. Of random
    numbers: ones take less power, so a GPU at its limit multiplies them faster.
    """
    size = 1024 if compute.device.type == "cpu" else 8192
    dtype = AUTOCAST_DTYPE.get(compute.precision, torch.float32)
    own = torch.Generator(compute.device).manual_seed(0)
    a = torch.randn(size, size, generator=own, device=compute.device, dtype=dtype)

    def multiply() -> None:
        torch.mm(a, a)
        compute.synchronize()

    multiply()
    repeat = math.ceil(0.2 / timeit.timeit(multiply, number=1))
    return 2 * size**3 / min(timeit.repeat(multiply, number=1, repeat=repeat))
