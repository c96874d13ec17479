"""The measurements of a benchmark: contenders in turns, an epoch, whole runs."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib.metadata import version
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import torch

from benchmarks.contenders import Contender, Process
from benchmarks.markdown import ratios
from benchmarks.peers import RECIPES
from resnet_cifar import paths
from resnet_cifar.compute import device
from resnet_cifar.compute.cpu import available_cpus
from resnet_cifar.compute.device import Compute
from resnet_cifar.config.compose import compose
from resnet_cifar.config.schema import Config
from resnet_cifar.errors import UserError
from resnet_cifar.model.options import training_flop
from resnet_cifar.record.provenance import git_state, versions
from resnet_cifar.record.recorder import now

SMALL_RUN = (  # seconds of training
    *("data=synthetic", "data.train_size=4000", "data.val_size=1000"),
    *("model.width=8", "trainer.epochs=4", "trainer.progress=quiet"),
)


def measure(overrides: tuple[str, ...], options: argparse.Namespace) -> dict[str, Any]:
    """Measure everything; what the JSON file holds, but for the command.

    Takes the configuration to measure, and the options of the benchmark's command line. Raises
    UserError where something isn't possible here.
    """
    began, start = now(), time.monotonic()
    load = round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else "unknown"  # Windows
    config = compose(list(overrides))
    compute = device.resolve(config.trainer, config.model.width)
    workers = max(options.workers)
    peers = [name for name in options.peers if RECIPES[name].installed()]
    defaults = dataclasses.replace(compute, precision="fp32", compile=False)  # PyTorch's own
    plain = {n: f"plain, {n} workers" for n in options.workers}
    everybody = [
        Contender("engine", overrides, compute),
        *(Contender(name, overrides, defaults, "plain", n) for n, name in plain.items()),
        *(Contender(name, overrides, compute, name, workers) for name in peers),
    ]
    contenders, epoch = time_steps(everybody, options)
    startup, small = time_runs(("engine", "plain", *peers), overrides, config, options)
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
            "layout": _layout(config, compute),
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
        "startup_seconds": startup,
        "small_runs": {"runs": options.small_runs, "settings": list(SMALL_RUN), "seconds": small},
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


def time_runs(
    recipes: Sequence[str], overrides: Sequence[str], config: Config, options: argparse.Namespace
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Time whole runs from command to end, in turns; seconds by recipe, a figure per repetition.

    Returns:
        A run of one step of `overrides`; `options.small_runs` small runs (empty where it is 0).
    """
    images, workers = max(10, config.trainer.batch_size), max(options.workers)
    one_step = [word for word in overrides if not word.startswith("data")]
    one_step += ["data=synthetic", f"data.train_size={images}", f"data.val_size={images}"]
    one_step += ["trainer.epochs=1"]
    startup: dict[str, list[float]] = {name: [] for name in recipes}
    small: dict[str, list[float]] = {name: [] for name in recipes if options.small_runs}
    for number in range((options.rounds + 1) // 2):
        for name in recipes if number % 2 == 0 else reversed(recipes):
            say(f"{name}: start-up")
            startup[name].append(time_commands(name, one_step, 1, workers))
            if name in small:
                say(f"{name}: {options.small_runs} small runs")
                small[name].append(time_commands(name, SMALL_RUN, options.small_runs, workers))
    return startup, small


def time_commands(recipe: str, overrides: Sequence[str], runs: int, workers: int) -> float:
    """Seconds that `runs` runs of one cell take, from the command to the end.

    The engine's are a sweep; the others' are a loop over commands, which is what their users have.
    """
    with TemporaryDirectory() as folder:
        if recipe == "engine":
            sweep = ["-m"] if runs > 1 else []
            seeds = f"seed={','.join(map(str, range(runs)))}"
            words = ["-m", "resnet_cifar", "train", *sweep, *overrides, seeds]
            commands = [[*words, f"output_root={folder}"]]
        else:
            words = ["-m", "benchmarks.peers", recipe, *overrides]
            commands = [[*words, f"seed={seed}", f"--workers={workers}"] for seed in range(runs)]
        start = time.perf_counter()
        for command in commands:
            ended = subprocess.run(
                [sys.executable, *command], capture_output=True, text=True, check=False
            )
            if ended.returncode:
                raise UserError(f"a run that times {recipe} failed: {ended.stderr.strip()}")
        return time.perf_counter() - start


def _layout(config: Config, compute: Compute) -> str:
    """The memory layout that the engine chooses for this network."""
    with torch.device("meta"):
        last = device.memory_format(compute, config.build_model()) == torch.channels_last
    return "channels_last" if last else "contiguous"


def say(text: str) -> None:
    """Print a line of progress to stderr, with the time of day."""
    print(f"{time.strftime('%H:%M:%S')}  {text}", file=sys.stderr, flush=True)
