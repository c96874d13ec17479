"""The measurements of a benchmark: contenders in turns, the parts of an epoch."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
import sys
import time
from collections.abc import Sequence
from importlib.metadata import version
from importlib.util import find_spec
from statistics import median
from typing import Any

import torch

from benchmarks.contenders import Contender, Process
from benchmarks.markdown import ratios
from resnet_cifar import paths
from resnet_cifar.compute import device
from resnet_cifar.compute.cpu import available_cpus
from resnet_cifar.config.compose import compose
from resnet_cifar.config.schema import Config
from resnet_cifar.model.options import training_flop
from resnet_cifar.record.provenance import git_state, versions
from resnet_cifar.record.recorder import now


def measure(overrides: tuple[str, ...], options: argparse.Namespace) -> dict[str, Any]:
    """Measure everything; what the JSON file holds, but for the command.

    Takes the configuration to measure, and the options of the benchmark's command line. Raises
    UserError where something isn't possible here.
    """
    began, start = now(), time.monotonic()
    load = round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else "unknown"  # Windows
    config = compose(list(overrides))
    compute = device.resolve(config.trainer, config.model.width)
    with torch.device("meta"):
        layout = device.memory_format(compute, config.build_model())
    peers = [name for name in options.peers if find_spec(name) is not None]
    defaults = dataclasses.replace(compute, precision="fp32", compile=False)  # PyTorch's own
    plain = {n: f"plain, {n} workers" for n in options.workers}
    everybody = [
        Contender("engine", overrides, compute),
        *(Contender(name, overrides, defaults, "plain", n) for n, name in plain.items()),
        *(Contender(name, overrides, compute, name, max(options.workers)) for name in peers),
    ]
    contenders, epoch = time_steps(everybody, options)
    rates = {name: values["images_per_second"] for name, values in contenders.items()}
    fastest = max(plain.values(), key=lambda name: median(rates[name]))
    macs, matmul = config.multiply_accumulates(), contenders["engine"]["matmul_flops_per_second"]
    return {
        "made": began,
        "seconds": round(time.monotonic() - start, 1),
        "device": compute.name,
        "device_type": compute.device.type,
        "cores": available_cpus(),
        "load_before": load,
        "versions": versions() | {name: version(name) for name in peers},
        "git": git_state(paths.checkout()),
        "setting": {
            "data": config.data.NAME,
            "width": config.model.width,
            "batch_size": config.trainer.batch_size,
            "threads": compute.threads,
            "precision": compute.precision,
            "precision_seconds": dict(compute.precision_seconds),
            "layout": str(layout).removeprefix("torch."),
            "compile": compute.compile,
            "rounds": options.rounds,
            "seconds": options.seconds,
        },
        "contenders": contenders,
        "fastest_plain": fastest,
        "ratio": ratios(rates["engine"], rates[fastest]),
        "peers": {name: ratios(rates["engine"], rates[name]) for name in peers},
        "peers_missing": [name for name in options.peers if name not in peers],
        "multiply_accumulates": macs,
        "share_of_matmul_rate": ratios([training_flop(macs) * r for r in rates["engine"]], matmul),
        "epoch": epoch | {"whole_epoch_seconds": whole_epoch(epoch, config)},
    }


def time_steps(
    everybody: Sequence[Contender], options: argparse.Namespace
) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """Time training steps, every process alive and all but one idle; the engine comes first.

    Returns each contender's measurements by its name, and the parts of the engine's epochs.
    """
    with contextlib.ExitStack() as stack:
        processes = []
        for contender in everybody:
            say(f"{contender.name}: starting")
            processes.append(stack.enter_context(contextlib.closing(Process(contender))))
        contenders = take_turns(processes, options.rounds, options.seconds)
        engine, *others = processes
        for process in others:
            process.close()
        say("epochs of the engine")
        return contenders, engine.call("epochs", options.seconds)


def take_turns(
    processes: Sequence[Process], rounds: int, seconds: float
) -> dict[str, dict[str, Any]]:
    """Measure each process once a round; by its name, a list of one figure per round.

    The order is reversed from round to round, so that a drift of the machine favours nobody.
    """
    measured: dict[str, dict[str, Any]] = {
        process.name: {"first_step_seconds": process.first_step_seconds} for process in processes
    }
    for number in range(rounds):
        for process in processes if number % 2 == 0 else reversed(processes):
            for key, value in process.call("measure", seconds).items():
                measured[process.name].setdefault(key, []).append(value)
        latest = (f"{p.name} {measured[p.name]['images_per_second'][-1]:,.0f}" for p in processes)
        say(f"round {number + 1} of {rounds}, images/s: {'; '.join(latest)}")
    return measured


def whole_epoch(measured: dict[str, Any], config: Config) -> dict[str, float]:
    """Scale the parts of an epoch `measured` on some of the data to all of it, in seconds.

    Steps and validation grow with the data; the record and the checkpoint don't.
    """
    seconds = dict(measured["seconds"])
    seconds["steps"] *= config.data.training_images / measured["train_images"]
    seconds["validation"] *= config.data.val_size / measured["val_images"]
    return seconds


def say(text: str) -> None:
    """Print a line of progress to stderr, with the time of day."""
    print(f"{time.strftime('%H:%M:%S')}  {text}", file=sys.stderr, flush=True)
