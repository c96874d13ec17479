"""The precision on a CPU, by measurement: whether bfloat16 is clearly faster there than float32.

The CPU's flags don't tell: AVX512-BF16 is twice as fast as float32 on one maker's chips and half as
fast on another's (docs/speed.md).
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Mapping

import torch
from torch import nn

from resnet_cifar.compute.cpu import has_bf16

MIN_SPEEDUP = 1.15  # times as fast is worth the digits that bfloat16 has not
MEASURED_SECONDS = 0.5  # of CPU time, about
TURN_SECONDS = 0.025  # of passes in one precision, about; then the other's turn


def faster(seconds: Mapping[str, float]) -> str:
    """bf16 where it is clearly faster, else fp32.

    A time of zero is what a coarse clock makes of a short one: it proves nothing.
    """
    fp32, bf16 = seconds.get("fp32", 0.0), seconds.get("bf16", 0.0)
    return "bf16" if bf16 > 0 and fp32 >= MIN_SPEEDUP * bf16 else "fp32"


@functools.cache
def precision_seconds(width: int, layout: torch.memory_format) -> dict[str, float]:
    """CPU seconds of convolutions of such a network, forward and backward, by precision.

    Measured once a process. Empty where the CPU has no instructions for bfloat16: nothing is to be
    decided there.

    In one thread and by its own CPU time: others on the machine then hardly matter. Threads that
    wait for one another, on two cores that others use too, gave ratios of 0.02 where 1.4 is right.
    The ratio of the two precisions is the same for every thread.

    Args:
        layout: of a run of one thread, so that runs agree whatever their threads.
    """
    if not has_bf16():
        return {}
    spent = {"fp32": 0.0, "bf16": 0.0}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            run_pass = convolutions(width, layout)
            for precision in spent:
                run_pass(precision)  # kernels are chosen at first use
            start = time.perf_counter()
            run_pass("fp32")
            one_pass = max(time.perf_counter() - start, 1e-4)
            passes = math.ceil(TURN_SECONDS / one_pass)
            turns = max(3, math.ceil(MEASURED_SECONDS / (2 * passes * one_pass)))
            # Summed over all turns: a clock that goes on in steps of 15 ms is right on average.
            for _ in range(turns):
                for precision in spent:
                    start = time.thread_time()
                    for _ in range(passes):
                        run_pass(precision)
                    spent[precision] += time.thread_time() - start
    finally:
        torch.set_num_threads(threads)
    return {precision: round(seconds / passes / turns, 6) for precision, seconds in spent.items()}


def convolutions(width: int, layout: torch.memory_format) -> Callable[[str], None]:
    """A layer of each of a network's stages, forward and backward, in the precision it is given."""
    images = min(64, max(8, 512 // width))
    layers = []
    for stage in range(4):
        channels, size = width * 2**stage, 32 >> stage
        layer = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels)
        )
        x = torch.ones(images, channels, size, size).contiguous(memory_format=layout)
        layers.append((layer.to(memory_format=layout), x.requires_grad_()))

    def run_pass(precision: str) -> None:
        for layer, x in layers:
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16"):
                y = torch.relu(layer(x))
            torch.autograd.backward(y, torch.ones_like(y))

    return run_pass
