"""Time the commands on a grid of many runs: `python -m benchmarks.scale`, in a checkout.

Makes up a grid of finished runs, without training. Then it times what people type: composing and
checking the grid, its plan, skipping all of it, listing, loading, the report. Prints Markdown.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.markdown import table
from resnet_cifar.cli.edge import Parser, run_command
from resnet_cifar.config.compose import compose
from resnet_cifar.config.schema import Config
from resnet_cifar.errors import UserError, require
from resnet_cifar.files import write_atomically
from resnet_cifar.identity import cell_name, flatten, run_directory
from resnet_cifar.record.integrity import sums
from resnet_cifar.record.layout import METRICS
from resnet_cifar.record.schema import VERSION, RunRecord, Session, write_record

RATES = (0.01, 0.02, 0.05, 0.1, 0.2)  # cells; the rest are seeds
SETTING = ("data=synthetic", "model.width=8", "trainer.epochs=2")


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line and measure; the process's exit code."""
    parser = Parser(prog="python -m benchmarks.scale", description=__doc__)
    parser.add_argument("--runs", nargs="+", type=int, default=[100, 1000, 5000])
    parser.add_argument("--rounds", type=int, default=1, help="of each command (1)")
    return run_command(parser, _scale, arguments)


def _scale(options: argparse.Namespace) -> None:
    require(min(options.runs) >= 5, "--runs", min(options.runs), "5 or more")
    require(options.rounds >= 1, "--rounds", options.rounds, "1 or more")
    columns = {count: measure(count, options.rounds) for count in options.runs}
    rows = [[k, *(f"{c[k]:.1f}" for c in columns.values())] for k in columns[options.runs[0]]]
    print(table(["seconds, smallest of the rounds", *(f"{n:,} runs" for n in columns)], rows))


def measure(count: int, rounds: int) -> dict[str, float]:
    """Time each command on `count` finished runs, in a process of its own; seconds by command."""
    seeds = count // len(RATES)
    with TemporaryDirectory() as folder:
        root = Path(folder) / "outputs"
        base = compose([*SETTING, f"output_root={root}"])
        for rate in RATES:
            for seed in range(seeds):
                make_run(variant(base, rate, seed))
        rates = ",".join(map(str, RATES))
        grid = [*SETTING, f"output_root={root}", f"optimizer.lr={rates}", f"seed=range({seeds})"]
        package = [sys.executable, "-m", "resnet_cifar"]
        train = [*package, "train"]
        load = f"from resnet_cifar.results import load_runs as l; l({str(root)!r})"
        commands = {
            "compose, check, skip all": [*train, "-m", *grid],
            "plan": [*train, "--plan", *grid],
            "plan, all to do": [*train, "--plan", *grid, "trainer.epochs=3"],
            "list": [*package, "runs", str(root)],
            "load": [sys.executable, "-c", load],
            "report": [*package, "report", str(root), "--to", f"{folder}/r"],
        }
        return {name: min(_seconds(c) for _ in range(rounds)) for name, c in commands.items()}


def variant(base: Config, rate: float, seed: int) -> Config:
    """Change the learning rate and the seed of a configuration."""
    optimizer: Any = dataclasses.replace(base.optimizer, lr=rate)
    return dataclasses.replace(base, optimizer=optimizer, seed=seed)


def _seconds(command: list[str]) -> float:
    start = time.perf_counter()
    environment = os.environ | {"COLUMNS": "200"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise UserError(f"{' '.join(command)} failed: {done.stderr.strip()[-500:]}")
    return time.perf_counter() - start


def make_run(config: Config) -> None:
    """Write the record and metrics of a finished run; its results depend on its rate and seed."""
    directory = run_directory(config)
    directory.mkdir(parents=True)
    rate, epochs = config.optimizer.lr, config.trainer.epochs
    lines = []
    for epoch in range(1, epochs + 1):
        accuracy = 0.5 + rate + 0.001 * (config.seed % 7) + 0.01 * epoch
        lines.append({"epoch": epoch, "step": epoch, "lr": rate, "speed/images_per_second": 100.0})
        for name in ("train", "val", "val_augmented"):
            lines[-1] |= {f"accuracy/{name}": accuracy, f"loss/{name}": 1.0}
    text = "".join(json.dumps(line) + "\n" for line in lines)
    write_atomically(directory / METRICS, text)
    session = Session("2026-01-01T00:00:00+00:00", "CPU", "cpu", precision="fp32")
    session.end, session.seconds, session.threads = "2026-01-01T01:00:00+00:00", 60.0, 1
    session.images_trained, session.images_per_second = 40_000, 1000.0
    record = RunRecord("completed", cell_name(config), config.seed, epochs, flatten(config), "CPU")
    record.epochs_done, record.final, record.best = epochs, lines[-1], lines[-1]
    record.sessions, record.version = [session], VERSION
    record.files = sums(directory, [METRICS])
    write_record(directory, record)


if __name__ == "__main__":
    sys.exit(main())
