"""Several networks on one device: which way trains the most images per second?

    python experiments/packing.py --width 64 --networks 1 2 4 8

processes   one for each network, as the launcher's jobs_per_device runs them
mps         the same, sharing the GPU by NVIDIA's MPS, as the launcher's mps=true has them
threads     one process, a thread for each network and on CUDA a stream
stacked     one process, one set of kernels for all: torch.func.vmap over stacked weights

Untried on a GPU so far: on CPUs it runs, but says nothing of streams and MPS.

Bare training steps on random images, uncompiled, every way in turn; images/s are of all networks
together.
"""

from __future__ import annotations

import argparse
import copy
import functools
import multiprocessing
import os
import statistics
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, stack_module_state, vmap

from hydra_plugins.local_pool._mps import available, mps
from resnet_cifar.compute import device
from resnet_cifar.compute.device import Compute
from resnet_cifar.compute.step import update
from resnet_cifar.config.compose import compose
from resnet_cifar.config.schema import Config

WARM_UP = 2  # steps
WAIT = 300.0  # seconds for the others; one that fails must not leave them waiting


@dataclass(frozen=True)
class Setting:
    config: Config
    compute: Compute
    seconds: float  # per measurement


def models(config: Config, compute: Compute, count: int) -> list[nn.Module]:
    built = []
    for seed in range(count):
        torch.manual_seed(seed)
        model = config.model.build(config.norm.build, len(config.data.CLASSES))
        built.append(model.to(compute.device, memory_format=device.memory_format(compute, model)))
    return built


def batch(config: Config, compute: Compute, *shape: int) -> tuple[Tensor, Tensor]:
    """Random images [*shape, n, 3, 32, 32] and labels [*shape, n]."""
    size = (*shape, config.trainer.batch_size)
    x = torch.randn(*size, 3, 32, 32, device=compute.device)
    return x, torch.randint(10, size, device=compute.device)


def one_of_many(setting: Setting, barrier: Any) -> float:
    """Images/s of one network, begun together with the others that meet at `barrier`."""
    config, compute = setting.config, setting.compute
    (model,) = models(config, compute, 1)
    loss = config.regularization.loss()
    optimizer = config.optimizer.build(config.regularization.parameter_groups(model))
    descent = config.regularization.descent(model, optimizer, compute.scaler())
    x, y = batch(config, compute)
    x = x.contiguous(memory_format=device.memory_format(compute, model))
    compute.synchronize()
    cuda = compute.device.type == "cuda"
    stream = torch.cuda.Stream(compute.device) if cuda else None
    with torch.cuda.stream(stream):  # None: does nothing

        def step() -> None:
            update(x, y, model, loss, descent, compute)

        return rate(step, len(y), setting.seconds, compute, functools.partial(barrier.wait, WAIT))


def threads(setting: Setting, count: int) -> float:
    barrier = threading.Barrier(count)
    with device.settings(setting.compute, deterministic=False), ThreadPoolExecutor(count) as pool:
        return sum(pool.map(one_of_many, [setting] * count, [barrier] * count))


def processes(setting: Setting, count: int) -> float:
    context = multiprocessing.get_context("spawn")
    with context.Manager() as manager, context.Pool(count) as pool:
        barrier = manager.Barrier(count)
        return sum(pool.starmap(_in_process, [(setting, barrier)] * count, chunksize=1))


def under_mps(setting: Setting, count: int) -> float:
    with mps() as env, mock.patch.dict(os.environ, env):
        return processes(setting, count)


def _in_process(setting: Setting, barrier: Any) -> float:
    with device.settings(setting.compute, deterministic=False):
        return one_of_many(setting, barrier)


class Stacked:
    """Networks of one shape whose weights are stacked, trained by one set of kernels.

    The optimizer works element by element, so one over stacked weights is one for each network, as
    long as its options are the same for all and weight decay is on all parameters.
    """

    def __init__(self, networks: list[nn.Module], config: Config, compute: Compute) -> None:
        weights, self.buffers = stack_module_state(networks)
        self.weights = {name: w.detach().requires_grad_() for name, w in weights.items()}
        decay = config.regularization.weight_decay
        group = {"params": list(self.weights.values()), "weight_decay": decay}
        self.optimizer = config.optimizer.build([group])
        self.compute = compute
        skeleton = copy.deepcopy(networks[0]).to("meta")
        criterion = config.regularization.loss()

        def loss(weights: Any, buffers: Any, x: Tensor, y: Tensor) -> Tensor:
            logits: Tensor = functional_call(skeleton, (weights, buffers), (x,))
            found: Tensor = criterion(logits, y)
            return found

        self.gradients = vmap(grad_and_value(loss))

    def update(self, x: Tensor, y: Tensor) -> Tensor:
        """One step on images [k, n, 3, 32, 32] and labels [k, n]; the losses [k]."""
        with self.compute.autocast():
            gradients, losses = self.gradients(self.weights, self.buffers, x, y)
        for name, weight in self.weights.items():
            weight.grad = gradients[name]
        self.optimizer.step()
        result: Tensor = losses.detach()
        return result


def stacked(setting: Setting, count: int) -> float:
    config, compute = setting.config, setting.compute
    with device.settings(compute, deterministic=False):
        networks = Stacked(models(config, compute, count), config, compute)
        x, y = batch(config, compute, count)
        step = functools.partial(networks.update, x, y)
        return rate(step, y.numel(), setting.seconds, compute, lambda: None)


def rate(
    step: Callable[[], Any], images: int, seconds: float, compute: Compute, begin: Callable[[], Any]
) -> float:
    """Images/s of `step`s of so many images each, after a warm-up and `begin()`."""
    for _ in range(WARM_UP):
        step()
    begin()
    start, steps = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        step()
        steps += 1
    if compute.device.type == "cuda":  # this network's own work, not that of every thread
        torch.cuda.current_stream(compute.device).synchronize()
    return steps * images / (time.perf_counter() - start)


WAYS = {"processes": processes, "mps": under_mps, "threads": threads, "stacked": stacked}


def main(arguments: list[str] | None = None) -> None:
    default = [way for way in WAYS if way != "mps" or available()]
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--width", default="64")
    parser.add_argument("--batch-size", default="128")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--threads", default="1", help="CPU threads of each network (1)")
    parser.add_argument("--networks", nargs="+", type=int, default=[1, 2, 4])
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=default)
    parser.add_argument("--seconds", type=float, default=10.0, help="per measurement (10)")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each (3)")
    options = parser.parse_args(arguments)
    config = compose(
        [
            f"model.width={options.width}",
            f"trainer.batch_size={options.batch_size}",
            f"trainer.device={options.device}",
            f"trainer.precision={options.precision}",
            f"trainer.threads={options.threads}",
            "trainer.compile=false",
        ]
    )
    compute = device.resolve(config.trainer)
    setting = Setting(config, compute, options.seconds)
    found: dict[tuple[int, str], list[float]] = {}
    for _ in range(options.rounds):
        for count in options.networks:
            for way in options.ways:
                found.setdefault((count, way), []).append(WAYS[way](setting, count))
    print(
        f"{compute.name}, {compute.precision}, torch {torch.__version__}; images/s in all, median"
    )
    print(f"(smallest to largest) of {options.rounds} rounds of {options.seconds:g} s\n")
    print(f"| networks | {' | '.join(options.ways)} |\n|{'---|' * (1 + len(options.ways))}")
    for count in options.networks:
        cells = (found[count, way] for way in options.ways)
        texts = (f"{statistics.median(c):,.0f} ({min(c):,.0f} to {max(c):,.0f})" for c in cells)
        print(f"| {count} | {' | '.join(texts)} |")


if __name__ == "__main__":
    main()
