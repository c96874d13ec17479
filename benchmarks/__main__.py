"""How fast the engine is: `python -m benchmarks`.

The engine against the plain recipe (plain.py) and what people would use instead (peers.py), the
same network on the same data in one run, taking turns; what each of the engine's options is worth;
where an epoch's time goes; and a sweep of small runs as a whole. Prints Markdown and saves JSON.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resnet_cifar import paths
from resnet_cifar.cli.edge import Parser, run_command
from resnet_cifar.compute.cpu import available_cpus
from resnet_cifar.errors import UserError, describe, require
from resnet_cifar.files import write_json
from resnet_cifar.model.options import training_flop

if TYPE_CHECKING:
    from benchmarks.contenders import Contender, Process
    from resnet_cifar.compute.device import Compute
    from resnet_cifar.config.schema import Config

SMALL = (  # a run of seconds
    "data=synthetic",
    "data.train_size=4000",
    "data.val_size=1000",
    "model.width=8",
    "trainer.epochs=4",
    "trainer.progress=quiet",
)
SYNTHETIC = ("data.train_size=4000", "data.val_size=1000")  # CIFAR-10's proportion
PEERS = ("timm", "lightning")  # peers.py, which imports torch
OPTIONS = ("precision", "layout", "compile", "cuda_graphs", "data", "fused")
KEYS = {  # options of the command line that are the configuration's
    "width": "model.width",
    "batch-size": "trainer.batch_size",
    "device": "trainer.device",
    "threads": "trainer.threads",
    "precision": "trainer.precision",
    "compile": "trainer.compile",
    "data-root": "data.root",
}


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line and measure; the process's exit code."""
    parser = Parser(
        prog=paths.command_name("benchmark"),
        description="The engine against the plain recipe, what each option is worth, and where "
        "an epoch's time goes. Prints Markdown, saves JSON.",
    )
    parser.add_argument("--data", choices=("cifar10", "synthetic"), default="cifar10")
    for name, key in KEYS.items():
        parser.add_argument(f"--{name}", metavar="VALUE", help=f"{key}, as in conf/")
    parser.add_argument(
        "--workers",
        nargs="+",
        type=int,
        default=[2, 4],
        help="the plain recipe is measured with each of these numbers of DataLoader workers (2 4)",
    )
    parser.add_argument(
        "--options",
        nargs="*",
        choices=OPTIONS,
        default=list(OPTIONS),
        help="those to switch, one at a time (all); none: --options",
    )
    parser.add_argument(
        "--peers",
        nargs="*",
        choices=PEERS,
        default=list(PEERS),
        help="other libraries' recipes, with the most workers; those not installed are left out "
        "and that is said (all); none: --peers",
    )
    parser.add_argument(
        "--small-runs",
        type=int,
        default=0,
        help="time a sweep of so many small runs, too, by every recipe (0: none)",
    )
    parser.add_argument("--seconds", type=float, default=10.0, help="per measurement (10)")
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each (5)")
    parser.add_argument("--out", type=Path, default=Path("outputs/benchmark.json"))
    return run_command(parser, _benchmark, arguments)


def _benchmark(options: argparse.Namespace) -> None:
    require(0 < options.seconds < math.inf, "--seconds", options.seconds, "above 0, finite")
    require(options.rounds >= 1, "--rounds", options.rounds, "1 or more")
    require(min(options.workers) >= 1, "--workers", min(options.workers), "1 or more")
    require(options.small_runs >= 0, "--small-runs", options.small_runs, "0 or more")
    found = measure(options)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    write_json(options.out, found)
    print(markdown(found))


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Everything; what the JSON file holds. `options` are the command line's.

    Raises:
        UserError: something isn't possible here.
    """
    from benchmarks.contenders import Contender, Process
    from benchmarks.peers import RECIPES
    from resnet_cifar.compute import device
    from resnet_cifar.config.compose import compose
    from resnet_cifar.record.provenance import git_state, versions
    from resnet_cifar.record.recorder import now

    began, load = now(), os.getloadavg()[0]
    given = {key: getattr(options, name.replace("-", "_")) for name, key in KEYS.items()}
    overrides = (
        f"data={options.data}",
        *(SYNTHETIC if options.data == "synthetic" else ()),
        *(f"{key}={value}" for key, value in given.items() if value is not None),
        "trainer.progress=quiet",
    )
    config = compose(list(overrides))
    compute = device.resolve(config.trainer, config.model.width)
    macs, layout = config.multiply_accumulates(), _layout(config, compute)
    engine = Contender("engine", overrides, compute)
    plain = [
        Contender(f"plain, {n} workers", overrides, _plain(compute), "plain", n)
        for n in options.workers
    ]
    others = [name for name in options.peers if RECIPES[name].installed()]
    missing = [name for name in options.peers if name not in others]
    peers = [Contender(name, overrides, compute, name, max(options.workers)) for name in others]
    start = time.monotonic()

    def say(text: str) -> None:
        print(f"{time.monotonic() - start:6.0f} s  {text}", file=sys.stderr, flush=True)

    with contextlib.ExitStack() as stack:

        def begin(contender: Contender) -> Process:
            say(f"{contender.name}: starting")
            return stack.enter_context(contextlib.closing(Process(contender)))

        processes = [begin(contender) for contender in (engine, *plain, *peers)]
        contenders = take_turns(processes, options.rounds, options.seconds, say)
        rates = {name: found["images_per_second"] for name, found in contenders.items()}
        for process in processes[1:]:
            process.close()
        fastest = max((c.name for c in plain), key=lambda name: statistics.median(rates[name]))
        switched = []
        for option in OPTIONS:
            if option in options.options:
                row, variant = switch(option, engine, layout, max(options.workers))
                if variant is not None:
                    row |= _worth(processes[0], variant, options, say)
                switched.append(row)
        say("epochs of the engine")
        epochs = processes[0].epochs(options.seconds)
    recipes, workers = ("engine", "plain", *others), max(options.workers)
    repeats = (options.rounds + 1) // 2
    size = max(10, config.trainer.batch_size)
    step = [o for o in overrides if not o.startswith("data")]
    step += ["data=synthetic", f"data.train_size={size}", f"data.val_size={size}"]
    step += ["trainer.epochs=1"]
    startup: dict[str, list[float]] = {name: [] for name in recipes}
    small: dict[str, list[float]] = {name: [] for name in recipes if options.small_runs}
    for number in range(repeats):
        for name in recipes if number % 2 == 0 else reversed(recipes):
            say(f"{name}: start-up")
            startup[name].append(_seconds(name, step, 1, workers))
            if name in small:
                say(f"{name}: {options.small_runs} small runs")
                small[name].append(_seconds(name, SMALL, options.small_runs, workers))
    flops = [training_flop(macs) * rate for rate in rates["engine"]]

    def ratio(other: str) -> dict[str, Any]:
        return spread(a / b for a, b in zip(rates["engine"], rates[other], strict=True))

    return {
        "made": began,
        "seconds": round(time.monotonic() - start, 1),
        "command": " ".join(["python -m benchmarks", *_said(options)]),
        "device": compute.name,
        "device_type": compute.device.type,
        "cores": available_cpus(),
        "load_before": round(load, 2),
        "versions": versions() | {name: version(name) for name in others},
        "git": git_state(paths.checkout()),
        "setting": {
            "data": options.data,
            "width": config.model.width,
            "batch_size": config.trainer.batch_size,
            "threads": compute.threads,
            "precision": compute.precision,
            "precision_seconds": dict(compute.precision_seconds),
            "layout": layout,
            "compile": compute.compile,
            "rounds": options.rounds,
            "seconds": options.seconds,
        },
        "contenders": contenders,
        "fastest_plain": fastest,
        "ratio": ratio(fastest),
        "peers": {name: ratio(name) for name in others},
        "peers_missing": missing,
        "options": switched,
        "multiply_accumulates": macs,
        "share_of_matmul_rate": spread(
            flop / rate
            for flop, rate in zip(
                flops, contenders["engine"]["matmul_flops_per_second"], strict=True
            )
        ),
        "epoch": whole_epoch(epochs, config),
        "startup_seconds": startup,
        "small_runs": {"runs": options.small_runs, "settings": list(SMALL), "seconds": small},
    }


def take_turns(
    processes: Sequence[Process], rounds: int, seconds: float, say: Any
) -> dict[str, dict[str, Any]]:
    """Each process's measurements, a list of one per round, by its name.

    The order is reversed from round to round, so that a drift of the machine favours nobody.
    """
    found: dict[str, dict[str, Any]] = {
        process.name: {"first_step_seconds": process.first_step_seconds} for process in processes
    }
    for number in range(rounds):
        for process in processes if number % 2 == 0 else reversed(processes):
            for key, value in process.measure(seconds).items():
                found[process.name].setdefault(key, []).append(value)
        latest = (f"{p.name} {found[p.name]['images_per_second'][-1]:,.0f}" for p in processes)
        say(f"round {number + 1} of {rounds}, images/s: {'; '.join(latest)}")
    return found


def switch(
    option: str, engine: Contender, layout: str, workers: int
) -> tuple[dict[str, Any], Contender | None]:
    """What `option` is in the engine and what it is switched to; the engine with it switched.

    An option that is on is switched off; one that is off here is switched on, to see whether it
    should be. None where there is nothing to switch.
    """
    from dataclasses import replace

    compute = engine.compute
    cuda = compute.device.type == "cuda"
    no_switch: str | None = None
    changes: dict[str, Any] = {}
    if option == "precision":
        other = "bf16" if compute.precision == "fp32" else "fp32"
        before, after, changes = compute.precision, other, {"precision": other}
    elif option == "layout":
        before, after, changes = layout, "contiguous", {"channels_last": False}
        if layout == "contiguous":
            no_switch = "the network is too narrow for channels_last on a CPU with so many threads"
    elif option == "compile":
        before, after = _on(compute.compile), _on(not compute.compile)
        changes = {"compile": not compute.compile}
    elif option == "cuda_graphs":
        before, after, changes = "on", "off", {"cuda_graphs": False}
        if not (cuda and compute.compile):
            no_switch = "for networks compiled for CUDA"
    elif option == "data":
        before, after = "on the device", f"DataLoader, {workers} workers"
    else:
        before, after, changes = "on", "off", {"fused": False}
    if no_switch is not None:
        return {"option": option, "skipped": no_switch}, None
    variant = replace(
        engine,
        name=f"engine, {option} {after}",
        compute=replace(compute, **changes),
        workers=workers if option == "data" else 0,
    )
    return {"option": option, "engine": before, "switched": after}, variant


def _worth(
    engine: Process, variant: Contender, options: argparse.Namespace, say: Any
) -> dict[str, Any]:
    """The engine's speed over the variant's; the reason where the variant can't run here."""
    from benchmarks.contenders import Process

    say(f"{variant.name}: starting")
    try:
        with contextlib.closing(Process(variant)) as process:
            found = take_turns([engine, process], options.rounds, options.seconds, say)
    except UserError as error:
        return {"failed": describe(error)}
    rates = [found[p]["images_per_second"] for p in (engine.name, variant.name)]
    return {
        "images_per_second": {"engine": rates[0], "switched": rates[1]},
        "first_step_seconds": found[variant.name]["first_step_seconds"],
        "peak_memory_bytes": max(found[variant.name]["peak_memory_bytes"]),
        "worth": spread(a / b for a, b in zip(*rates, strict=True)),
    }


def whole_epoch(measured: dict[str, float], config: Config) -> dict[str, Any]:
    """`measured` on a part of the data, and the seconds that makes for an epoch over all of it.

    Steps and validation grow with the data; recording and checkpoints don't.
    """
    steps = measured["train_images"] / measured["steps_seconds"]
    validation = measured["val_images"] / measured["validation_seconds"]
    return {
        **measured,
        "steps_images_per_second": steps,
        "validation_images_per_second": validation,
        "whole_epoch_seconds": {
            "steps": config.data.training_images / steps,
            "validation": config.data.val_size / validation,
            "recording": measured["recording_seconds"],
            "checkpoint": measured["checkpoint_seconds"],
        },
    }


def spread(values: Any) -> dict[str, Any]:
    """Median, smallest, largest and all of some numbers."""
    numbers = list(values)
    return {
        "median": statistics.median(numbers),
        "low": min(numbers),
        "high": max(numbers),
        "rounds": numbers,
    }


def _layout(config: Config, compute: Compute) -> str:
    """The layout the engine chooses."""
    import torch

    from resnet_cifar.compute.device import memory_format

    with torch.device("meta"):
        last = memory_format(compute, config.build_model()) == torch.channels_last
    return "channels_last" if last else "contiguous"


def _plain(compute: Compute) -> Compute:
    """The plain recipe's: the same device and threads, PyTorch's defaults for the rest."""
    return dataclasses.replace(compute, precision="fp32", compile=False)


def _seconds(recipe: str, overrides: Sequence[str], runs: int, workers: int) -> float:
    """Seconds of `runs` runs of one cell, from the command to the end.

    The engine's are a sweep; the others' are a loop over commands, which is what their users have.
    """
    from tempfile import TemporaryDirectory

    with TemporaryDirectory() as folder:
        if recipe == "engine":
            program = (
                f"import sys; sys.path[:] = {sys.path}; "
                "from resnet_cifar.training import main; sys.exit(main())"
            )
            seeds = f"seed={','.join(map(str, range(runs)))}"
            sweep = ["-m"] if runs > 1 else []
            commands = [["-c", program, *sweep, *overrides, seeds, f"output_root={folder}"]]
        else:
            module = ["-m", "benchmarks.peers", recipe, *overrides]
            commands = [[*module, f"seed={s}", f"--workers={workers}"] for s in range(runs)]
        start = time.perf_counter()
        for command in commands:
            result = subprocess.run(
                [sys.executable, *command], capture_output=True, text=True, check=False
            )
            if result.returncode:
                said = result.stderr.strip()
                raise UserError(f"a run that times {recipe} failed: {said}")
        return time.perf_counter() - start


def _said(options: argparse.Namespace) -> list[str]:
    """The command line that gives these options."""
    said = []
    for name, value in vars(options).items():
        values = value if isinstance(value, list) else [value]
        if name != "out" and value is not None:
            said += [f"--{name.replace('_', '-')}", *map(str, values)]
    return said


def _on(value: bool) -> str:
    return "on" if value else "off"


def _chosen(setting: dict[str, Any]) -> list[str]:
    """What `auto` chose the precision by, where it was measured."""
    seconds = setting.get("precision_seconds")
    if not seconds:
        return []
    both = " and ".join(f"{1000 * seconds[p]:.1f} ms in {p}" for p in ("fp32", "bf16"))
    ratio = seconds["fp32"] / seconds["bf16"]
    return ["", f"`auto` chose {setting['precision']}: {both} for the same work ({ratio:.2f} ×)."]


def markdown(found: dict[str, Any]) -> str:
    """The figures for a page: what `measure` returns, in tables."""
    setting, epoch, versions = found["setting"], found["epoch"], found["versions"]
    machine = f"{found['device']}, {found['cores']} cores" + (
        f", {setting['threads']} threads" if found["device_type"] == "cpu" else ""
    )
    lines = [
        f"## {found['device_type']}, width {setting['width']}, {setting['data']}",
        "",
        f"    {found['command']}",
        "",
        f"{found['made'][:10]}, {found['seconds'] / 60:.1f} minutes; {machine}, load before "
        f"{found['load_before']}; Python {versions['python']}, torch {versions['torch']}, "
        f"torchvision {versions['torchvision']}; commit {(found['git']['commit'] or '?')[:12]}"
        f"{' with changes' if found['git']['uncommitted'] else ''}. "
        f"Batch {setting['batch_size']}; engine: {setting['precision']}, {setting['layout']}, "
        f"compile {_on(setting['compile'])}. "
        f"Median (smallest to largest) of {setting['rounds']} rounds of {setting['seconds']:g} s, "
        "taking turns.",
        *_chosen(setting),
        "",
        "| | images/s | peak memory, MB | first step, s | a run of one step, s |",
        "|---|---|---|---|---|",
    ]
    for name, values in found["contenders"].items():
        rate, memory = spread(values["images_per_second"]), max(values["peak_memory_bytes"])
        lines.append(
            f"| {name} | {_spread(rate, ',.0f')} | {memory / 1e6:,.0f} "
            f"| {values['first_step_seconds']:.2f} "
            f"| {_spread(spread(found['startup_seconds'][name.partition(',')[0]]), '.1f')} |"
        )
    lines += [
        "",
        f"**Ratio, engine over {found['fastest_plain']}: {_spread(found['ratio'], '.2f')}.** "
        f"The engine's model FLOP/s are {_spread(found['share_of_matmul_rate'], '.2f')} of the "
        "matrix product's.",
        "",
    ]
    for name, ratio in found["peers"].items():
        lines += [f"Engine over {name} {versions[name]}: {_spread(ratio, '.2f')}.", ""]
    if found["peers_missing"]:
        lines += [f"Not installed, so not measured: {', '.join(found['peers_missing'])}.", ""]
    small = found["small_runs"]
    if small["seconds"]:
        lines += [
            f"{small['runs']} runs of `{' '.join(small['settings'])}`, from the command to the "
            "end; the engine's a sweep, the others' a loop:",
            "",
            "| | s | over the engine's |",
            "|---|---|---|",
        ]
        ours = small["seconds"]["engine"]
        for name, seconds in small["seconds"].items():
            times = spread(a / b for a, b in zip(seconds, ours, strict=True))
            lines.append(
                f"| {name} | {_spread(spread(seconds), '.0f')} | {_spread(times, '.2f')} |"
            )
        lines.append("")
    if found["options"]:
        lines += ["| option | engine | switched | engine over switched |", "|---|---|---|---|"]
    for row in found["options"]:
        if "worth" in row:
            result = _spread(row["worth"], ".2f")
        else:
            result = row.get("failed") or f"not measured: {row['skipped']}"
        columns = (row["option"], row.get("engine", ""), row.get("switched", ""), result)
        lines.append(f"| {' | '.join(columns)} |")
    whole = epoch["whole_epoch_seconds"]
    total = sum(whole.values())
    share = epoch["validation_images_per_second"] / epoch["forward_images_per_second"]
    lines += [
        "",
        f"| of a whole epoch, {total:.1f} s | s | % |",
        "|---|---|---|",
        *(f"| {part} | {s:.3f} | {100 * s / total:.1f} |" for part, s in whole.items()),
        "",
        f"From epochs of {epoch['train_images']:,} images and validations of "
        f"{epoch['val_images']:,}. Validation runs at "
        f"{epoch['validation_images_per_second']:,.0f} images/s, {share:.2f} of the forward pass "
        f"alone ({epoch['forward_images_per_second']:,.0f}).",
    ]
    return "\n".join(lines)


def _spread(values: dict[str, Any], digits: str) -> str:
    """3.4 (3.1 to 3.5)."""
    median, low, high = (format(values[key], digits) for key in ("median", "low", "high"))
    return f"{median} ({low} to {high})"


if __name__ == "__main__":
    sys.exit(main())
